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
        ends, bumps = torch.tensor([float(low), math.log(high - low)]), torch.tensor([[-5.0], [8.0]]).expand(2, hidden)
        # What is learned is how far all this has moved: a decay of weights then draws it back here, and not to 0.
        self.ends, self.bumps = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3, hidden))
        self.first_ends: Tensor
        self.first_bumps: Tensor
        self.register_buffer("first_ends", ends)
        self.register_buffer("first_bumps", torch.cat([bumps, torch.linspace(0, 1, hidden)[None]]))

    @property
    def low(self) -> Tensor:
        """``gamma`` at the data."""
        return self.first_ends[0] + self.ends[0]

    @property
    def range(self) -> Tensor:
        """How far ``gamma`` rises."""
        return (self.first_ends[1] + self.ends[1]).exp()

    def forward(self, t: Tensor) -> Tensor:
        """Between both ends as ``shape`` says."""
        return self.low + self.range * self.shape(t)

    def slope(self, t: Tensor) -> Tensor:
        """Above 0 everywhere."""
        return self.range * self.rate(t)

    def rate(self, t: Tensor) -> Tensor:
        """The derivative of ``shape``."""
        height, steepness, centre = self._bumps()
        s = torch.sigmoid(steepness * (t[:, None] - centre))
        return (1 + (height * steepness * s * (1 - s)).sum(1)) / self._rise()[1]

    def shape(self, t: Tensor) -> Tensor:
        """From 0 to 1 as the time does, and monotone."""
        first, rise = self._rise()
        return (self._raw(t) - first) / rise

    def _raw(self, t: Tensor) -> Tensor:
        height, steepness, centre = self._bumps()
        return t + (height * torch.sigmoid(steepness * (t[:, None] - centre))).sum(1)

    def _rise(self) -> tuple[Tensor, Tensor]:
        first, last = self._raw(torch.arange(2, dtype=self.ends.dtype, device=self.ends.device))
        return first, last - first

    def _bumps(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each sigmoid its height, its steepness, both above 0, and its centre."""
        height, steepness, centre = self.first_bumps + self.bumps
        return functional.softplus(height), functional.softplus(steepness), centre


SCHEDULES: dict[str, type[Linear] | type[Cosine] | type[Learned]] = {
    "linear": Linear,
    "cosine": Cosine,
    "learned": Learned,
}
