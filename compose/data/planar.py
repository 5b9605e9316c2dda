"""Densities over the plane that are known in closed form: what is drawn from them has a true log-density.

Shapes: points are ``(n, 2)``, float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Points = NDArray[np.float64]
_CHUNK = 4096


class Planar(Protocol):
    """A density over the plane."""

    def sample(self, n: int, random: np.random.RandomState) -> Points:
        """Draws ``n`` points."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density of each row of ``x``, in nats, ``(n,)``; computed in float64."""
        ...


@dataclass(frozen=True)
class Gaussians:
    """A mixture of round Gaussians, all of one weight and one width.

    Args:
        centres: Their means, ``(m, 2)``.
        scale: Their standard deviation.
    """

    centres: Points
    scale: float

    def sample(self, n: int, random: np.random.RandomState) -> Points:
        """A centre at random, and noise around it."""
        return self.centres[random.randint(len(self.centres), size=n)] + self.scale * random.randn(n, 2)

    def log_prob(self, x: Tensor) -> Tensor:
        """``log mean_m N(x; centre_m, scale^2)``."""
        centres = torch.from_numpy(self.centres)
        chunks = []
        for rows in x.double().split(_CHUNK):
            squares = (rows[:, None] - centres).square().sum(2)
            chunks.append(torch.logsumexp(-0.5 * squares / self.scale**2, dim=1))
        return torch.cat(chunks) - math.log(len(centres) * 2 * math.pi * self.scale**2)


@dataclass(frozen=True)
class Squares:
    """Uniform on squares of one size that do not overlap.

    Args:
        corners: Their corners of least coordinates, ``(m, 2)``.
        side: Length of a side.
    """

    corners: Points
    side: float

    def sample(self, n: int, random: np.random.RandomState) -> Points:
        """A square at random, and a point in it."""
        return self.corners[random.randint(len(self.corners), size=n)] + self.side * random.rand(n, 2)

    def log_prob(self, x: Tensor) -> Tensor:
        """``-log(m side^2)`` in a square, its edges included, and minus infinity outside."""
        within = torch.zeros(len(x), dtype=torch.bool)
        for corner in torch.from_numpy(self.corners):
            offset = x.double() - corner
            within |= ((offset >= 0) & (offset <= self.side)).all(1)
        inside = torch.tensor(-math.log(len(self.corners) * self.side**2), dtype=torch.float64)
        return torch.where(within, inside, -math.inf)


def _ring() -> Gaussians:
    angle = np.arange(8) * np.pi / 4
    return Gaussians(2 * np.stack([np.cos(angle), np.sin(angle)], 1), 0.02)


def _grid25() -> Gaussians:
    axis = np.arange(-4.0, 5.0, 2.0)
    return Gaussians(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2), 0.05)


def _moons() -> Gaussians:
    """Two half circles of 32 centres each: 0.2 apart, which noise of 0.2 leaves no trace of."""
    angle = (np.arange(32) + 0.5) * np.pi / 32
    outer = np.stack([np.cos(angle), np.sin(angle)], 1)
    inner = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    return Gaussians(2 * (np.concatenate([outer, inner]) - [0.5, 0.25]), 0.2)


def _spirals() -> Gaussians:
    """Two arms of one and a half turns, at 128 centres each, 0.12 apart but for the innermost."""
    angle = 3 * np.pi * np.sqrt((np.arange(128) + 0.5) / 128)
    arm = np.stack([-np.cos(angle), np.sin(angle)], 1) * angle[:, None] / 3
    return Gaussians(np.concatenate([arm, -arm]), 0.1)


def _checkerboard() -> Squares:
    cells = [(2.0 * i, 2.0 * j) for i in range(-2, 2) for j in range(-2, 2) if (i + j) % 2 == 0]
    return Squares(np.array(cells), 2.0)


PLANAR: dict[str, Callable[[], Planar]] = {
    "ring": _ring,
    "grid25": _grid25,
    "moons": _moons,
    "checkerboard": _checkerboard,
    "spirals": _spirals,
}
