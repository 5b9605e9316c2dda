"""An invertible map as a stage: what a flow does between its data and its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor, nn

from compose.core.declare import Misfit, Slot
from compose.core.roles import Mode, Stage, StagePart, Step
from compose.core.spaces import Real, Space
from compose.nets.transforms import InvertibleNet, TransformOptions


class Bijection(TransformOptions, StagePart):
    """Up ``z = f(x)``, down ``x = f^-1(z)``; adds ``log|det df/dx|``."""

    type: ClassVar[str] = "bijection"
    source: ClassVar[str] = "Rezende and Mohamed 2015, arXiv:1505.05770; Durkan et al. 2019, arXiv:1906.04032"

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
        """It stands on reals, and a coupling needs two of them."""
        if not isinstance(slot.space, Real):
            yield Misfit(
                f"'{self.type}' takes Real, but {slot.origin} {slot.space}; a stage 'dequantize' before it gives Real."
            )
        else:
            yield from self.couplings(slot.space, slot.origin)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage in its slot."""
        return BijectionStage(slot.space, self.above(slot.space), self)


class BijectionStage(Stage):
    """An invertible net over the flattened numbers.

    Args:
        below: Space of x.
        above: Space of z, of the same shape.
        options: What to stack.
    """

    def __init__(self, below: Space, above: Space, options: TransformOptions) -> None:
        super().__init__(below, above)
        self.transform = InvertibleNet(below.dim, options)

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Applies f."""
        z, log_det = self.transform(x.flatten(1))
        return Step(z.unflatten(1, self.above.shape), {"log_det": log_det})

    def relax(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Applies the inverse of f."""
        return self.transform.inverse(z.flatten(1))[0].unflatten(1, self.below.shape)
