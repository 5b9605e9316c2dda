"""Quantisation without a codebook to look up: the signs of a vector are its code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from einops import rearrange
from torch import Tensor, nn

from compose.core.declare import Slot
from compose.core.quantizer import Quantized, Quantizer, QuantizerPart, mean_over_devices, straight_through
from compose.core.spaces import Codes, Real


class LFQ(QuantizerPart):
    """The signs of ``bits`` numbers are a code; an entropy keeps each sign decided and all codes in use."""

    type: ClassVar[str] = "lfq"
    source: ClassVar[str] = "Yu et al. 2024, arXiv:2310.05737"

    bits: Annotated[int, Ge(1), Le(14)] = 9
    """How many numbers a vector has; there are ``2^bits`` codes."""
    commitment: Annotated[float, Ge(0)] = 0.25
    """Weight of the squared distance of the encoder's numbers to their signs."""
    entropy: Annotated[float, Ge(0)] = 0.1
    """Weight of the entropy of a vector's code, minus that of all codes of a batch together."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Of the soft choice of a code, by squared distance, that the entropies are of."""

    @property
    def width(self) -> int:
        """``bits``."""
        return self.bits

    def codes(self, grid: tuple[int, ...]) -> Codes:
        """One code at each place."""
        return Codes(grid, 2**self.bits, ordered=False)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The quantizer."""
        assert isinstance(slot.space, Real)
        return LookupFreeQuantizer(slot.space, self.codes(slot.space.shape[1:]), self)


class LookupFreeQuantizer(Quantizer):
    """Takes signs.

    Args:
        takes: Vectors on a grid.
        codes: One code at each place.
        options: As declared.
    """

    def __init__(self, takes: Real, codes: Codes, options: LFQ) -> None:
        super().__init__(takes, codes)
        self.options = options
        self.powers: Tensor
        self.like: Tensor
        self.register_buffer("powers", 2 ** torch.arange(options.bits), persistent=False)
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        """The signs."""
        positive = (z > 0).movedim(1, -1)
        codes = (positive * self.powers).sum(-1)
        found = self._signs(positive, z).movedim(-1, 1)
        penalties = {"commitment": self.options.commitment * (z - found).square().flatten(1).sum(1)}
        if self.options.entropy:
            penalties["entropy"] = self.options.entropy * math.prod(z.shape[2:]) * self._indecision(z)
        return Quantized(straight_through(z, found), codes, penalties)

    def vectors(self, codes: Tensor) -> Tensor:
        """1 where a bit is set, else -1."""
        return self._signs((codes.long()[..., None] & self.powers) > 0, self.like).movedim(-1, 1)

    def _indecision(self, z: Tensor) -> Tensor:
        """How undecided single vectors are, minus how varied all are together, in nats."""
        rows = rearrange(z.flatten(2), "b d g -> (b g) d")
        every = torch.arange(self.codes.size, device=z.device)
        signs = self._signs((every[:, None] & self.powers) > 0, z)
        # Squared distances to all codes, but for what they share.
        log_p = (2 / self.options.temperature * rows @ signs.T).log_softmax(1)
        alone = -(log_p.exp() * log_p).sum(1).mean()
        together = mean_over_devices(log_p.exp().mean(0))
        return alone + torch.special.xlogy(together, together).sum()

    @staticmethod
    def _signs(positive: Tensor, like: Tensor) -> Tensor:
        return torch.where(positive, 1.0, -1.0).to(like.dtype)
