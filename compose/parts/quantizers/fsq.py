"""Finite scalar quantisation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le, Len
from torch import Tensor, nn

from compose.core.declare import Misfit, Slot
from compose.core.quantizer import Quantized, Quantizer, QuantizerPart
from compose.core.spaces import Codes, Real

MOST = 65536


class FSQ(QuantizerPart):
    """Each number of a vector is bounded and rounded to one of a few levels; nothing is learned, nothing collapses."""

    type: ClassVar[str] = "fsq"
    source: ClassVar[str] = "Mentzer et al. 2024, arXiv:2309.15505"

    levels: Annotated[list[Annotated[int, Ge(3), Le(4096)]], Len(1, 16)] = [8, 8, 8]
    """How many levels each number of a vector has; there are as many codes as their product."""

    @property
    def width(self) -> int:
        """A number for each entry of ``levels``."""
        return len(self.levels)

    def codes(self, grid: tuple[int, ...]) -> Codes:
        """One code at each place."""
        return Codes(grid, math.prod(self.levels), ordered=False)

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any quantizer; and there are not too many codes."""
        yield from super().misfits(slot)
        if math.prod(self.levels) > MOST:
            message = (
                f"{' x '.join(map(str, self.levels))} makes {math.prod(self.levels)} codes; wanted {MOST} at most."
            )
            yield Misfit(message, key="levels", swap=False)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The quantizer."""
        assert isinstance(slot.space, Real)
        return FiniteScalarQuantizer(slot.space, self.codes(slot.space.shape[1:]), self.levels)


class FiniteScalarQuantizer(Quantizer):
    """Rounds what vector-quantize-pytorch's ``FSQ`` bounds.

    Args:
        takes: Vectors on a grid.
        codes: One code at each place.
        levels: Of each number of a vector.
    """

    def __init__(self, takes: Real, codes: Codes, levels: list[int]) -> None:
        super().__init__(takes, codes)
        import vector_quantize_pytorch

        self.rounding = vector_quantize_pytorch.FSQ(levels, channel_first=True)
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        """The nearest levels."""
        vectors, codes = self.rounding(z)
        return Quantized(vectors, codes.long())

    def vectors(self, codes: Tensor) -> Tensor:
        """Levels between -1 and 1."""
        return self.rounding.indices_to_codes(codes.long()).to(self.like.dtype)
