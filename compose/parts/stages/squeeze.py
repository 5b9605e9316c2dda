"""Neighbouring pixels become channels, so that couplings of channels have something to split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from einops import rearrange
from torch import Tensor, nn

from compose.core.declare import Misfit, Slot
from compose.core.roles import Mode, Stage, StagePart, Step
from compose.core.spaces import Codes, Real, Space


class Squeeze(StagePart):
    """Up, each 2x2 block of pixels becomes four channels of one pixel; its log-det is 0."""

    type: ClassVar[str] = "squeeze"
    source: ClassVar[str] = "Dinh et al. 2017, arXiv:1605.08803"

    @property
    def descends(self) -> bool:
        """Always."""
        return True

    def above(self, below: Space) -> Real:
        """Four times the channels, half of each side."""
        *rest, channels, height, width = (1, 1, 1, *below.shape)[-max(3, len(below.shape)) :]
        return Real((*rest, 4 * channels, (height + 1) // 2, (width + 1) // 2))

    def terms(self) -> dict[str, str]:
        """Its log-det, 0: a term, so that what stands above is never a stage without one."""
        return {"log_det": ""}

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """It stands on real images of even sides."""
        space, came = slot.space, f"{slot.origin} {slot.space}"
        if isinstance(space, Codes):
            yield Misfit(f"'{self.type}' takes Real, but {came}; a stage 'dequantize' before it gives Real.")
        elif len(space.shape) != 3:
            yield Misfit(f"'{self.type}' folds images, channels x height x width, but {came}.")
        elif space.shape[1] % 2 or space.shape[2] % 2:
            pixels = f"{space.shape[1]}x{space.shape[2]}"
            yield Misfit(f"'{self.type}' folds blocks of 2x2 pixels, but {came}, {pixels} pixels, wanted even sides.")

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage in its slot."""
        return SqueezeStage(slot.space, self.above(slot.space))


class SqueezeStage(Stage):
    """Folds and unfolds."""

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Blocks of pixels to channels."""
        z = rearrange(x, "b c (h i) (w j) -> b (c i j) h w", i=2, j=2)
        return Step(z, {"log_det": x.new_zeros(x.shape[0])})

    def relax(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Channels to blocks of pixels."""
        return rearrange(z, "b (c i j) h w -> b c (h i) (w j)", i=2, j=2)
