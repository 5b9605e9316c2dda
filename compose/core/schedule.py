"""Noise schedules: the log of noise over signal, as a function of the time from the data (0) to noise (1).

``z_t = alpha x + sigma eps`` with ``alpha^2 = sigmoid(-gamma)`` and ``sigma^2 = sigmoid(gamma)``, so that
``gamma = log(sigma^2 / alpha^2)`` says it all.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Schedules = Literal["linear", "cosine", "learned"]


class Schedule(nn.Module):
    """A monotone ``gamma(t)``, ``(batch,)`` to ``(batch,)``."""

    @abstractmethod
    def forward(self, t: Tensor) -> Tensor:
        """``gamma`` at each time."""

    @abstractmethod
    def slope(self, t: Tensor) -> Tensor:
        """Its derivative at each time."""


class Linear(Schedule):
    """``gamma`` rises evenly.

    Args:
        low: At the data.
        high: At noise.

    Source: Kingma et al. 2021, arXiv:2107.00630.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, t: Tensor) -> Tensor:
        """A straight line."""
        return self.low + (self.high - self.low) * t

    def slope(self, t: Tensor) -> Tensor:
        """The same everywhere."""
        return torch.full_like(t, self.high - self.low)


class Cosine(Schedule):
    """``alpha`` falls as a cosine of the time, cut where ``gamma`` leaves its range.

    Args:
        low: At the data.
        high: At noise.

    Source: Nichol and Dhariwal 2021, arXiv:2102.09672.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        # gamma = 2 log tan(angle), and the angle goes evenly.
        self.start = math.atan(math.exp(low / 2))
        self.turned = math.atan(math.exp(high / 2)) - self.start

    def forward(self, t: Tensor) -> Tensor:
        """Twice the log of the angle's tangent."""
        return (2 * torch.log(torch.tan(self._angle(t)))).to(t.dtype)

    def slope(self, t: Tensor) -> Tensor:
        """Steep at both ends."""
        return (4 * self.turned / torch.sin(2 * self._angle(t))).to(t.dtype)

    def _angle(self, t: Tensor) -> Tensor:
        """In float64: at ``gamma`` of 31 it is as near to a quarter turn as float32 can say."""
        return self.start + self.turned * t.double()


class Learned(Schedule):
    """A straight line and sigmoids with weights above 0, between two ends that are learned as well.

    Args:
        low: At the data, at first.
        high: At noise, at first.
        hidden: How many sigmoids.

    Source: Kingma et al. 2021, arXiv:2107.00630, appendix H.
    """

    def __init__(self, low: float, high: float, hidden: int = 32) -> None:
        super().__init__()
        self.low = nn.Parameter(torch.tensor(float(low)))
        self.log_range = nn.Parameter(torch.tensor(math.log(high - low)))
        self.height = nn.Parameter(torch.full((hidden,), -5.0))
        self.steepness = nn.Parameter(torch.full((hidden,), 8.0))
        self.centre = nn.Parameter(torch.linspace(0, 1, hidden))

    @property
    def range(self) -> Tensor:
        """How far ``gamma`` rises."""
        return self.log_range.exp()

    def forward(self, t: Tensor) -> Tensor:
        """Between both ends as ``shape`` says."""
        return self.low + self.range * self.shape(t)

    def slope(self, t: Tensor) -> Tensor:
        """Above 0 everywhere."""
        return self.range * self.rate(t)

    def rate(self, t: Tensor) -> Tensor:
        """The derivative of ``shape``."""
        a = functional.softplus(self.steepness)
        s = torch.sigmoid(a * (t[:, None] - self.centre))
        return (1 + (functional.softplus(self.height) * a * s * (1 - s)).sum(1)) / self._rise()[1]

    def shape(self, t: Tensor) -> Tensor:
        """From 0 to 1 as the time does, and monotone."""
        first, rise = self._rise()
        return (self._raw(t) - first) / rise

    def _raw(self, t: Tensor) -> Tensor:
        bumps = torch.sigmoid(functional.softplus(self.steepness) * (t[:, None] - self.centre))
        return t + (functional.softplus(self.height) * bumps).sum(1)

    def _rise(self) -> tuple[Tensor, Tensor]:
        first, last = self._raw(torch.arange(2, dtype=self.low.dtype, device=self.low.device))
        return first, last - first


SCHEDULES: dict[str, type[Linear] | type[Cosine] | type[Learned]] = {
    "linear": Linear,
    "cosine": Cosine,
    "learned": Learned,
}
