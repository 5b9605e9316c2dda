"""Independent Bernoulli pixels: for data of 2 levels, and for those alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.core.declare import Misfit, Slot
from compose.core.random import uniform
from compose.core.roles import Density, DensityPart, FreeParameters, Mode
from compose.core.spaces import Codes, Real, Space


class Bernoulli(DensityPart):
    """``p(x) = prod_i p_i^x_i (1 - p_i)^(1 - x_i)``, the logits learned or from a condition.

    Grey levels are refused: a Bernoulli of a number between 0 and 1 is no distribution over such numbers.
    """

    type: ClassVar[str] = "bernoulli"
    source: ClassVar[str] = "Kingma and Welling 2013, arXiv:1312.6114, appendix C.1"
    takes: ClassVar[tuple[type, ...]] = (Codes,)
    gradient: ClassVar = "none"
    centred: ClassVar[bool] = True

    def features(self, space: Space) -> Real:
        """One logit per code."""
        return Real(space.shape)

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any density; and only codes of 2 levels."""
        yield from super().misfits(slot)
        if isinstance(slot.space, Codes) and slot.space.size != 2:
            yield Misfit(f"'{self.type}' takes Codes of 2 levels, but {slot.origin} {slot.space}.")

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        return BernoulliDensity(slot.space, slot.condition, self.features(slot.space))


class BernoulliDensity(Density):
    """Independent bits.

    Args:
        space: Codes of size 2.
        condition: One logit per code; none for learned logits.
        features: Space of the logits.
    """

    def __init__(self, space: Space, condition: Space | None, features: Real) -> None:
        super().__init__(space, condition)
        self.logits = FreeParameters(features, condition)
        self.axes = tuple(range(1, 1 + len(space.shape)))
        # A scalar on the CPU goes with tensors of any device, and makes floats of integers in the same operation.
        self.minus_one = torch.tensor(-1.0, device="cpu")

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Exact log-probability of each row, in nats."""
        logits = self.logits(x.shape[0], None) if c is None else c
        sign = torch.add(self.minus_one, x, alpha=2)
        return functional.logsigmoid(sign * logits).sum(self.axes)

    def centre(self, c: Tensor) -> Tensor:
        """The probability of 1."""
        return torch.sigmoid(c)

    def in_pyro(self, n: int, c: Tensor | None = None) -> Any:
        """Pyro's ``Bernoulli``."""
        import pyro.distributions as pyro

        return pyro.Bernoulli(logits=self.logits(n, c)).to_event(len(self.space.shape))

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws every bit."""
        logits = self.logits(n, c)
        return (uniform(logits.shape, logits) < torch.sigmoid(logits)).long()
