"""Sums over tiny spaces and integrals over one or two numbers, of what a part computes with the noise that it draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compose.core.gaussians import LOG_2PI
from compose.core.spaces import Codes, Real, Space
from compose.testing.contract import require
from compose.testing.noise import Noise, Tape
from compose.testing.subject import draw

Score = Callable[[Tensor], Tensor]

#: How far weights are shaken before an integral, beside elsewhere: or stacked splines make spikes that no grid finds.
CALM = 0.5
DRAWS = 20_000
_NOT_FROM = "samples are not from what is scored:"
_CHUNK = 200_000
_REACH = 6.0
#: How much is given up at a level of halving, in the worst of the values.
_GIVEN_UP = 1e-7


def integrate(integrand: Callable[[Tensor], Tensor], dims: int, cells: int = 30) -> Tensor:
    """The integral over all of R^dims, by halving the cells where that still changes it.

    Coordinates are ``sinh(t)``, dense near 0 and wide, so that neither a narrow nor a wide peak escapes.

    Args:
        integrand: ``(nodes, dims)`` to ``(nodes, values)``.
        dims: 0, 1 or 2.
        cells: How many cells an axis has at first.
    """
    if dims == 0:
        return integrand(torch.zeros(1, 0, dtype=torch.float64))[0]
    half = _REACH / cells
    centres = _product(torch.linspace(-_REACH + half, _REACH - half, cells, dtype=torch.float64), dims)
    corners = _product(torch.tensor([-0.5, 0.5], dtype=torch.float64), dims)
    coarse = _cells(integrand, centres, half)
    done = torch.zeros_like(coarse[0])
    for _ in range(14):
        children = (centres[:, None] + half * corners).flatten(0, 1)
        fine = _cells(integrand, children, half / 2)
        errors = (fine.unflatten(0, (len(centres), -1)).sum(1) - coarse).abs().amax(1)
        order = errors.argsort()
        settled = torch.zeros_like(errors, dtype=torch.bool)
        settled[order] = errors[order].cumsum(0) <= _GIVEN_UP
        kept = settled.repeat_interleave(len(corners))
        done, centres, coarse, half = done + fine[kept].sum(0), children[~kept], fine[~kept], half / 2
        if not len(centres):
            break
    return done + coarse.sum(0)


def _product(values: Tensor, dims: int) -> Tensor:
    return torch.cartesian_prod(*[values] * dims).reshape(-1, dims)


def _cells(integrand: Callable[[Tensor], Tensor], centres: Tensor, half: float) -> Tensor:
    """The integral over each cell, ``(cells, values)``, by five Gauss-Legendre nodes an axis."""
    dims = centres.shape[1]
    x, w = (torch.as_tensor(each) for each in _LEGENDRE)
    nodes, weights = half * _product(x, dims), _product(half * w, dims).prod(1)
    found = []
    for some in centres.split(_CHUNK // len(nodes)):
        t = some[:, None] + nodes
        values = integrand(torch.sinh(t).flatten(0, 1)).unflatten(0, (len(some), -1))
        found.append((values * (weights * torch.cosh(t).prod(-1))[..., None]).sum(1))
    return torch.cat(found)


_LEGENDRE = (
    (-0.9061798459386640, -0.5384693101056831, 0.0, 0.5384693101056831, 0.9061798459386640),
    (0.2369268850561891, 0.4786286704993665, 0.5688888888888889, 0.4786286704993665, 0.2369268850561891),
)


@dataclass(frozen=True)
class NoiseOf:
    """The noise of a score, as numbers to integrate over.

    Args:
        shapes: For each draw of one row, ``torch.randn`` or ``torch.rand`` and the shape.
    """

    shapes: tuple[tuple[Any, tuple[int, ...]], ...]

    @classmethod
    def found(cls, score: Score, x: Tensor) -> NoiseOf:
        """What is drawn when a row is scored."""
        tape = Tape()
        with torch.no_grad(), tape.record():
            score(x[:1])
        return cls(tuple((by, tuple(kept.shape[1:])) for by, kept in tape.draws))

    @property
    def sizes(self) -> list[int]:
        """How many numbers each draw takes a row."""
        return [math.prod(shape) for _, shape in self.shapes]

    def log_density(self, nodes: Tensor) -> Tensor:
        """Of normal numbers, or of uniform ones behind a logit; ``(nodes, numbers)`` to ``(nodes,)``."""
        total = nodes.new_zeros(len(nodes))
        for (by, _), some in zip(self.shapes, nodes.split(self.sizes, 1), strict=True):
            if by is torch.randn:
                total = total - (0.5 * some * some + 0.5 * LOG_2PI).sum(1)
            else:
                total = total + (functional.logsigmoid(some) + functional.logsigmoid(-some)).sum(1)
        return total

    def hand(self, nodes: Tensor) -> Noise:
        """A context in which these numbers are drawn, a row each."""
        handed = nodes.split(self.sizes, 1) if self.shapes else ()

        def give(count: int, by: Any, shape: tuple[int, ...], kwargs: dict[str, Any]) -> Tensor:
            require(by is self.shapes[count][0], "it draws other noise for other rows")
            return (handed[count] if by is torch.randn else torch.sigmoid(handed[count])).reshape(shape)

        return Noise(give)


@torch.no_grad()
def over_noise(score: Score, x: Tensor, weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The integral over the noise in ``score``, at most two numbers, for each row of ``x``.

    Args:
        score: Rows to values, ``(rows,)``; draws the noise.
        x: Rows.
        weigh: Values and the log-density of the noise, both ``(nodes, rows)``, to what is integrated.
    """
    noise = NoiseOf.found(score, x)

    def integrand(nodes: Tensor) -> Tensor:
        each = nodes.repeat_interleave(len(x), 0)
        with noise.hand(each):
            values = score(x.repeat(len(nodes), *[1] * (x.dim() - 1)))
        return weigh(values.reshape(len(nodes), -1), noise.log_density(nodes)[:, None])

    return integrate(integrand, sum(noise.sizes), cells=16)


def expectation(score: Score, x: Tensor) -> Tensor:
    """The mean of each row's value over the noise in ``score``, at most two numbers."""
    return over_noise(score, x, lambda values, log_density: values * log_density.exp())


def measurable(space: Space, score: Score) -> bool:
    """Whether the mass over a space can be told: few codes, or at most two reals, noise counted."""
    if isinstance(space, Codes):
        return space.size**space.dim <= 64
    return space.dim + sum(NoiseOf.found(score, draw(space, 1)).sizes) <= 2


def check_mass_and_draws(space: Space, score: Score, items: Tensor) -> None:
    """Requires that ``E exp L`` sums to 1 over the space, and that ``items`` are drawn from it.

    Args:
        space: One that is ``measurable``.
        score: Rows to L, ``(rows,)``, in nats; may draw noise.
        items: Draws from the distribution that ``score`` scores, ``(n, *space.shape)``.
    """
    if isinstance(space, Real):
        _check_reals(space, score, items)
    else:
        _check_codes(space, score, items)


def _check_total(total: float, space: Space, tolerance: float) -> None:
    off = abs(total - 1)
    require(off <= tolerance, f"the sum over {space} of E exp L is {total:.9f}, wanted 1 to within {tolerance:.2g}")


def _check_codes(space: Codes, score: Score, items: Tensor) -> None:
    x = _product(torch.arange(space.size), space.dim).reshape(-1, *space.shape)
    if sum(NoiseOf.found(score, x).sizes) <= 2:
        probability = over_noise(score, x, lambda values, log_density: (values + log_density).exp())
        _check_total(float(probability.sum()), space, 1e-6)
    else:
        with torch.no_grad():
            draws = torch.stack([score(row.expand(DRAWS, *row.shape)) for row in x]).exp()
        probability, error = draws.mean(1), float(draws.sum(0).std()) / math.sqrt(DRAWS)
        require(error < 0.02, f"the sum over {space} of E exp L has a standard error of {error:.2g}: too wide to tell")
        _check_total(float(probability.sum()), space, 5 * error)
    index = (items.flatten(1) * space.size ** torch.arange(space.dim).flip(0)).sum(1)
    frequency = torch.bincount(index, minlength=len(x)) / len(items)
    distance, most = float((frequency - probability).abs().sum() / 2), math.sqrt(len(x) / len(items))
    require(
        distance <= most,
        f"{_NOT_FROM} total variation {distance:.3f} over {len(items)} draws, at most {most:.3f}",
    )


@torch.no_grad()
def _check_reals(space: Real, score: Score, items: Tensor) -> None:
    """Integrates, beside the mass, the means of random waves and of bounded powers of each coordinate."""
    noise = NoiseOf.found(score, items)
    directions = torch.randn(8, space.dim, dtype=torch.float64)

    def features(flat: Tensor) -> Tensor:
        phases = flat @ directions.T
        return torch.cat([phases.cos(), phases.sin(), torch.tanh(flat / 3), torch.tanh(flat * flat / 9)], 1)

    def integrand(nodes: Tensor) -> Tensor:
        flat, drawn = nodes.split([space.dim, nodes.shape[1] - space.dim], 1)
        with noise.hand(drawn):
            p = (score(flat.reshape(-1, *space.shape)) + noise.log_density(drawn)).exp()[:, None]
        return torch.cat([p, p * features(flat)], 1)

    total, *wanted = integrate(integrand, space.dim + sum(noise.sizes))
    _check_total(float(total), space, 1e-6)
    came = features(items.flatten(1).double())
    errors = (came.mean(0) - torch.stack(wanted)).abs() / (came.std(0) / math.sqrt(len(items)) + 1e-6)
    worst = float(errors.max())
    require(
        worst <= 5,
        f"{_NOT_FROM} a mean over {len(items)} draws is {worst:.1f} standard errors off",
    )
