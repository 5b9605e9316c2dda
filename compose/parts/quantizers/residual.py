"""Several quantizers, each of what the ones before it left over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from compose.core.declare import Misfit, Part, Slot, part_field
from compose.core.quantizer import Quantized, Quantizer, QuantizerPart, to_grid, to_rows
from compose.core.spaces import Codes, Real


class Residual(QuantizerPart):
    """The first quantizer takes the vectors, each further one what is left of them; all their vectors are added up."""

    type: ClassVar[str] = "residual"
    source: ClassVar[str] = "Zeghidour et al. 2021, arXiv:2107.03312; on images: Lee et al. 2022, arXiv:2203.01941"

    quantizer: part_field("quantizer") = "vq"  # type: ignore[valid-type]
    """What quantizes each time."""
    depth: Annotated[int, Ge(1), Le(64)] = 4
    """How many times; so many codes stand at each place."""

    @property
    def width(self) -> int:
        """That of the quantizer."""
        assert isinstance(self.quantizer, QuantizerPart)
        return self.quantizer.width

    def codes(self, grid: tuple[int, ...]) -> Codes:
        """``depth`` codes at each place, on a first axis; a sequence of places counts as a column."""
        assert isinstance(self.quantizer, QuantizerPart)
        one = self.quantizer.codes(grid)
        return replace(one, shape=(self.depth, *one.shape, *[1] * (2 - len(one.shape))))

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any quantizer; and it is not of its own kind."""
        yield from super().misfits(slot)
        if isinstance(self.quantizer, Residual):
            message = f"'{self.type}' of '{self.type}' is one of greater depth; set that instead."
            yield Misfit(message, key="quantizer", swap=False)

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """The quantizer, as often as it is built."""
        return {f"quantizer#{i}": (self.quantizer, slot) for i in range(self.depth)}

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The quantizers in a row."""
        assert isinstance(slot.space, Real)
        return ResidualQuantizer(slot.space, self.codes(slot.space.shape[1:]), list(children.values()))


class ResidualQuantizer(Quantizer):
    """Quantizes what is left, again and again.

    Args:
        takes: Vectors on a grid.
        codes: Codes of all quantizers, on a first axis.
        each: The quantizers.
    """

    def __init__(self, takes: Real, codes: Codes, each: list[nn.Module]) -> None:
        super().__init__(takes, codes)
        self.quantizer = nn.ModuleList(each)
        self.starts = any(quantizer.starts for quantizer in self._each())

    def forward(self, z: Tensor) -> Quantized:
        """The sum of what all found."""
        left, total, codes = z, torch.zeros_like(z), []
        penalties: dict[str, Tensor] = {}
        for quantizer in self._each():
            found = quantizer(left)
            # What is left moves with z alone: else no distance but the first would move the encoder.
            left, total = left - found.vectors.detach(), total + found.vectors.detach()
            codes.append(found.codes)
            for name, value in found.penalties.items():
                penalties[name] = penalties[name] + value if name in penalties else value
        vectors = to_grid(self._each()[0].passed(to_rows(z), to_rows(total)), z)
        return Quantized(vectors, torch.stack(codes, 1).reshape(len(z), *self.codes.shape), penalties)

    def vectors(self, codes: Tensor) -> Tensor:
        """The sum of what each code stands for."""
        each = zip(self._each(), codes.reshape(*codes.shape[:2], *self.takes.shape[1:]).unbind(1), strict=True)
        return torch.stack([quantizer.vectors(code) for quantizer, code in each]).sum(0)

    def waits(self) -> bool:
        """Where one of them does."""
        return any(quantizer.waits() for quantizer in self._each())

    def start(self, batches: Iterator[Tensor]) -> None:
        """Starts each on what the ones before it leave."""
        if not self.waits():
            return
        left = list(batches)
        for quantizer in self._each():
            quantizer.start(iter(left))
            left = [z - quantizer(z).vectors for z in left]

    def _each(self) -> list[Quantizer]:
        return list(self.quantizer)  # type: ignore[arg-type]
