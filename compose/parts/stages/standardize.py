"""An affine bijection fitted to data: zero mean, unit variance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compose.core.declare import Misfit, Slot
from compose.core.roles import Mode, Stage, StagePart, Step
from compose.core.spaces import Real, Space


class Standardize(StagePart):
    """Up ``z = (x - mean) / scale``, fitted at a phase's start on the whole training set; adds ``-sum log scale``."""

    type: ClassVar[str] = "standardize"
    source: ClassVar[str] = "the scale factor of Rombach et al. 2022, arXiv:2112.10752, as a counted bijection"

    per: Literal["number", "channel", "item"] = "number"
    """Fit a mean and scale to every number, to every index of the first axis, or one for all."""

    @property
    def descends(self) -> bool:
        """Always."""
        return True

    def above(self, below: Space) -> Real:
        """The shape below."""
        return Real(below.shape)

    def terms(self) -> dict[str, str]:
        """Its log-det."""
        return {"log_det": ""}

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """It stands on reals."""
        if not isinstance(slot.space, Real):
            yield Misfit(f"'{self.type}' takes Real, but {slot.origin} {slot.space}.")

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage in its slot."""
        return StandardizeStage(slot.space, self.above(slot.space), self.per)


class StandardizeStage(Stage):
    """Shifts and scales by fitted constants.

    Args:
        below: Space of x.
        above: Space of z, of the same shape.
        per: What shares a mean and a scale.
    """

    needs_fit = True

    def __init__(self, below: Space, above: Space, per: str) -> None:
        super().__init__(below, above)
        # Axes (batch first) that are averaged over.
        self.over = {"number": (0,), "channel": (0, *range(2, 1 + len(below.shape))), "item": None}[per]
        self.mean: Tensor
        self.log_scale: Tensor
        self.register_buffer("mean", torch.zeros(below.shape))
        self.register_buffer("log_scale", torch.zeros(below.shape))

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Standardises."""
        z = (x - self.mean) * (-self.log_scale).exp()
        return Step(z, {"log_det": -self.log_scale.sum().expand(x.shape[0])})

    def relax(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Undoes it."""
        return z * self.log_scale.exp() + self.mean

    @torch.no_grad()
    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Sets mean and scale from all items; a number that never varies keeps scale 1e-3 at least."""
        count, total, square = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for x in batches():
            wide = x.double()
            count += x.shape[0]
            total, square = total + wide.sum(0).cpu(), square + (wide * wide).sum(0).cpu()
        mean, mean_square = total / count, square / count
        axes = None if self.over is None else tuple(axis - 1 for axis in self.over[1:])
        if axes != ():
            mean, mean_square = mean.mean(axes, keepdim=True), mean_square.mean(axes, keepdim=True)
        scale = (mean_square - mean * mean).clamp_min(1e-6).sqrt()
        self.mean.copy_(mean.expand(self.below.shape))
        self.log_scale.copy_(scale.log().expand(self.below.shape))
