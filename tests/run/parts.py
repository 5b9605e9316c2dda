"""A plugin of parts that misbehave on purpose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from compose.core.declare import Slot
from compose.core.kinds import Kind
from compose.core.random import standard_normal
from compose.core.roles import Density, DensityPart, Mode
from compose.core.spaces import Real, Space


class Bounded(DensityPart):
    """A standard normal that only promises a bound: its log-probability less a random penalty."""

    type: ClassVar[str] = "bounded"
    gradient: ClassVar = "none"

    def kind(self, slot: Slot) -> Kind:
        """The penalty has mean above 0, so E L <= log p."""
        return Kind.BOUND

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        return BoundedDensity(slot.space, None, Kind.BOUND)


class BoundedDensity(Density):
    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        exact = -0.5 * (x * x).sum(1) - 0.5 * math.log(2 * math.pi) * x.shape[1]
        return exact - standard_normal((len(x),), x).abs()

    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        return standard_normal((n, *self.space.shape), torch.zeros(()))


class Failing(DensityPart):
    """A normal with a learned scale that is not finite in some training steps."""

    type: ClassVar[str] = "failing"
    gradient: ClassVar = "none"

    first: int = 0
    """Training step at which it fails first."""
    count: int = 1
    """In how many steps it fails."""
    gradient_only: bool = False
    """Whether the value is finite and only its gradient is not."""
    on_second_device: bool = False
    """Whether only the second of several devices fails, in its value and not in its gradient."""

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        return FailingDensity(slot.space, self)


class FailingDensity(Density):
    def __init__(self, space: Space, options: Failing) -> None:
        super().__init__(space)
        self.options, self.step = options, 0
        self.log_scale = nn.Parameter(torch.zeros(space.shape))

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        assert isinstance(self.space, Real)
        noise = x * (-self.log_scale).exp()
        value = -(0.5 * noise * noise + self.log_scale).sum(1) - 0.5 * math.log(2 * math.pi) * self.space.dim
        if not self.training or not self._fails():
            return value
        if self.options.on_second_device:
            return value + math.inf if torch.distributed.get_rank() == 1 else value
        # The square root of 0 is finite, and its slope is not.
        return value + (self.log_scale.sum() * 0).sqrt() if self.options.gradient_only else value * math.nan

    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        return self.log_scale.detach().exp() * standard_normal((n, *self.space.shape), self.log_scale)

    def _fails(self) -> bool:
        self.step += 1
        return self.options.first < self.step <= self.options.first + self.options.count
