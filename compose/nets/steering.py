"""How a vector beside the input steers a network: it scales and shifts the features of every block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.core.spaces import Space


class Steering(nn.Module):
    """The vector as the blocks see it; where there is none, nothing.

    Args:
        steer: Space of the vector; none for a network that is not steered.
        width: Numbers that it becomes.
    """

    def __init__(self, steer: Space | None, width: int) -> None:
        super().__init__()
        self.layers = (
            None if steer is None else nn.Sequential(nn.Linear(steer.dim, width), nn.SiLU(), nn.Linear(width, width))
        )

    def forward(self, steer: Tensor | None) -> Tensor | None:
        """``(batch, width)``, after its nonlinearity."""
        if self.layers is None:
            return None
        assert steer is not None, "a steered network was called without what steers it"
        return functional.silu(self.layers(steer))


class Modulation(nn.Module):
    """Scales and shifts (and gates) features by what steers, channel by channel; at first it changes nothing.

    Args:
        steered: Numbers of what steers; 0 where nothing does.
        width: Channels.
        parts: 2 for a scale and a shift, 3 for a gate as well.

    Source: FiLM: Perez et al. 2017, arXiv:1709.07871; started at zero: Peebles and Xie 2022, arXiv:2212.09748.
    """

    def __init__(self, steered: int, width: int, parts: int = 2) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(steered, parts * width) if steered else None
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, steer: Tensor | None, axes: int = 0) -> list[Tensor] | None:
        """Scale, shift, gate, each ``(batch, width, 1, ...)`` with so many axes of 1; none where nothing steers."""
        if self.linear is None:
            return None
        assert steer is not None, "a steered block was called without what steers it"
        found = self.linear(steer)
        return list(found.reshape(*found.shape, *[1] * axes).chunk(self.parts, 1))


def modulated(h: Tensor, by: list[Tensor] | None) -> Tensor:
    """``h * (1 + scale) + shift``."""
    return h if by is None else torch.addcmul(by[1], h, 1 + by[0])
