"""Which times of a diffusion training looks at: those more often where the bound varies more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compose.core.quantizer import over_devices

#: Share of what a time was found to cost that the next finding replaces.
RATE = 0.1
#: Share of the draws that are spread evenly, so that every time is looked at again.
EVEN = 0.05


class Importance(nn.Module):
    """Draws times in proportion to the root mean square of what the bound was found to cost there.

    A cost divided by the density of its time keeps its expectation, and of all densities this one leaves it the least
    variance. Until a time was seen, all are alike.

    Args:
        bins: Equal parts of the way from data to noise, each with one density.

    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.3.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.square: Tensor
        self.register_buffer("square", torch.ones(bins))
        self.register_buffer("seen", torch.zeros(()))
        self.seen: Tensor

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Times from 0 to 1, and their density, of numbers spread evenly from 0 to 1; ``(batch,)`` each."""
        share = self.square.to(u.dtype).sqrt()
        share = (1 - EVEN) * share / share.sum() + EVEN / len(share)
        up_to = share.cumsum(0)
        at = torch.searchsorted(up_to, u).clamp_max(len(share) - 1)
        inside = 1 - ((up_to[at] - u) / share[at]).clamp(0, 1)
        return (at + inside) / len(share), share[at] * len(share)

    @torch.no_grad()
    def learn(self, t: Tensor, cost: Tensor) -> None:
        """Notes what was found at some times, before it is divided by their density; what is not finite is left out."""
        at = (t * len(self.square)).long().clamp(0, len(self.square) - 1)
        squared = cost.detach().square().to(self.square.dtype)
        # What is learned stays, also where the step that it came from is skipped.
        known = squared.isfinite()
        count = torch.zeros_like(self.square).index_add_(0, at, known.to(self.square.dtype))
        total = torch.zeros_like(self.square).index_add_(0, at, torch.where(known, squared, 0.0))
        count, total = over_devices(torch.stack([count, total])).unbind()
        mean, seen = total / count.clamp_min(1), count.sum()
        # The first finding sets the scale for the times that no one has looked at yet.
        before = torch.where(self.seen > 0, self.square, (total.sum() / seen).expand_as(self.square))
        learned = torch.where(count > 0, torch.lerp(before, mean, RATE), before)
        self.square.copy_(torch.where(seen > 0, learned, self.square))
        self.seen.add_(seen > 0)
