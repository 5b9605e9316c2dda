"""Sums over tiny spaces and integrals over few numbers, of what a part computes with the noise that it draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.core.gaussians import LOG_2PI
from compose.core.solvers import stepwise
from compose.core.spaces import Codes, Real, Space
from compose.testing.contract import ContractError, require
from compose.testing.noise import Noise, Tape
from compose.testing.subject import draw

Score = Callable[[Tensor], Tensor]

#: How far weights are shaken before an integral, beside elsewhere: or stacked splines make spikes that no grid finds.
CALM = 0.5
DRAWS = 20_000
_CHUNK = 200_000
#: How far off a sum that should be 1 may be.
_WIDE = 0.1
_FAR_TOO_LARGE = 100.0
_REACH = 6.0
#: Sobol's points: how often they are scattered, how many are taken at a time and at most, how far out they reach.
_TIMES, _POINTS, _MOST_POINTS, _FARTHEST = 16, 256, 4096, 200.0
#: So many numbers of noise no number of points fills.
_MOST_NOISE = 8
#: How much is given up at a level of halving, in the worst of the values; the errors found come out far smaller.
_GIVEN_UP = 1e-7


class Integral(NamedTuple):
    """Integrals, and how far off they may be.

    Args:
        value: Each integral, ``(values,)``.
        error: How far off each may be, ``(values,)``.
        together: How far off their sum may be; where left out, as far as the errors add up to.
    """

    value: Tensor
    error: Tensor
    together: Tensor | None = None

    @property
    def error_of_sum(self) -> float:
        """How far off the sum of all integrals may be."""
        return float(self.error.sum() if self.together is None else self.together)


def integrate(
    integrand: Callable[[Tensor], Tensor],
    dims: int,
    cells: int = 30,
    given_up: float = _GIVEN_UP,
    most: int = 100_000_000,
) -> Integral:
    """The integral over all of R^dims, by halving the cells where that still changes it.

    Coordinates are ``sinh(t)``, dense near 0 and wide, so that neither a narrow nor a wide peak escapes.

    Args:
        integrand: ``(nodes, dims)`` to ``(nodes, values)``.
        dims: 0, 1 or 2.
        cells: How many cells an axis has at first.
        given_up: What may be lost at a level of halving, in the worst of the values.
        most: How many values are computed at most, about; the error then says what is left.
    """
    if dims == 0:
        value = integrand(torch.zeros(1, 0, dtype=torch.float64))[0]
        return Integral(value, torch.zeros_like(value))
    half = _REACH / cells
    centres = _product(torch.linspace(-_REACH + half, _REACH - half, cells, dtype=torch.float64), dims)
    corners = _product(torch.tensor([-0.5, 0.5], dtype=torch.float64), dims)
    coarse = _cells(integrand, centres, half)
    done, lost = torch.zeros_like(coarse[0]), torch.zeros_like(coarse[0])
    left = torch.full_like(lost, torch.inf)
    for _ in range(14):
        most -= coarse.numel() * len(corners) * len(_LEGENDRE[0]) ** dims
        if not len(centres) or most < 0:
            break
        children = (centres[:, None] + half * corners).flatten(0, 1)
        fine = _cells(integrand, children, half / 2)
        errors = (fine.unflatten(0, (len(centres), -1)).sum(1) - coarse).abs()
        order = errors.amax(1).argsort()
        settled = torch.zeros(len(errors), dtype=torch.bool)
        settled[order] = errors.amax(1)[order].cumsum(0) <= given_up
        kept = settled.repeat_interleave(len(corners))
        done, lost, left = done + fine[kept].sum(0), lost + errors[settled].sum(0), errors[~settled].sum(0)
        centres, coarse, half = children[~kept], fine[~kept], half / 2
    return Integral(done + coarse.sum(0), lost + left)


def scattered(integrand: Callable[[Tensor], Tensor], dims: int) -> Integral:
    """The integral over all of R^dims by Sobol's points, several times at random; the error is five standard errors.

    Points fall by Student's t with two degrees of freedom: where what is integrated reaches farther out than a normal
    distribution, points from that would miss it and see no error either. More are taken where that tells little.

    Args:
        integrand: ``(nodes, dims)`` to ``(nodes, values)``.
        dims: How many numbers.
    """
    low = 0.5 / _FARTHEST**2
    seeds = torch.randint(2**31, (_TIMES,)).tolist()
    engines = [torch.quasirandom.SobolEngine(dims, scramble=True, seed=seed) for seed in seeds]
    sums, count = torch.zeros(()), 0
    while True:
        u = low + (1 - 2 * low) * torch.cat([engine.draw(_POINTS, dtype=torch.float64) for engine in engines])
        t = (2 * u - 1) / (2 * u * (1 - u)).sqrt()
        weights = (1 - 2 * low) ** dims * (2 + t * t).prod(1) ** 1.5
        rows = zip(t.split(_POINTS), weights.split(_POINTS), strict=True)
        sums, count = sums + torch.stack([(integrand(some) * by[:, None]).sum(0) for some, by in rows]), count + _POINTS
        each = sums / count
        error, together = (5 * some.std(0) / math.sqrt(_TIMES) for some in (each, each.sum(1)))
        if together < 0.02 * each.sum(1).mean().abs() or count >= _MOST_POINTS:
            return Integral(each.mean(0), error, together)


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
def over_noise(
    score: Score,
    x: Tensor,
    weigh: Callable[[Tensor, Tensor], Tensor],
    given_up: float = 3 * _GIVEN_UP,
    most: int = 1_200_000,
) -> Integral:
    """The integral over the noise in ``score`` for each row of ``x``: by cells, of more than two numbers by points.

    Args:
        score: Rows to values, ``(rows,)``; draws the noise.
        x: Rows.
        weigh: Values and the log-density of the noise, both ``(nodes, rows)``, to what is integrated.
        given_up: As in ``integrate``.
        most: As in ``integrate``.
    """
    noise = NoiseOf.found(score, x)

    def integrand(nodes: Tensor) -> Tensor:
        each = nodes.repeat_interleave(len(x), 0)
        with noise.hand(each):
            values = score(x.repeat(len(nodes), *[1] * (x.dim() - 1)))
        return weigh(values.reshape(len(nodes), -1), noise.log_density(nodes)[:, None])

    dims = sum(noise.sizes)
    return integrate(integrand, dims, 16, given_up, most) if dims <= 2 else scattered(integrand, dims)


def expectation(score: Score, x: Tensor) -> Integral:
    """The mean of each row's value over the noise in ``score``."""
    return over_noise(score, x, lambda values, log_density: values * log_density.exp(), 1e-6)


def measurable(space: Space, score: Score, of: nn.Module) -> bool:
    """Whether the mass over a space can be told: few codes and little noise, or at most two reals, noise counted.

    What is found in many small steps costs a hundred times as much: there it is one number, or bits without noise.
    """
    if isinstance(space, Codes) and space.size**space.dim > 64:
        return False
    noise = sum(NoiseOf.found(score, draw(space, 1)).sizes)
    if stepwise(of):
        return not noise and (isinstance(space, Codes) or space.dim == 1)
    return noise <= _MOST_NOISE if isinstance(space, Codes) else space.dim + noise <= 2


class TooWideError(ContractError):
    """A sum whose noise had to be drawn is too uncertain to tell anything."""


def calmly(check: Callable[[float], bool]) -> bool:
    """Makes a check of a sum with weights that are shaken less, as long as it is too wide to tell anything."""
    for shaken in (CALM, CALM / 2):
        with suppress(TooWideError):
            return check(shaken)
    return check(CALM / 4)


class Measured(NamedTuple):
    """What a score and draws come to.

    Args:
        total: The sum of ``E exp L`` over the space.
        slack: How far from 1 it may be.
        apart: How far the draws are from what is scored.
        most: How far they may be.
        how: What ``apart`` is.
    """

    total: float
    slack: float
    apart: float
    most: float
    how: str


def check_mass_and_draws(space: Space, score: Score, items: Tensor) -> None:
    """Requires that ``E exp L`` sums to 1 over the space, and that ``items`` are drawn from it.

    Args:
        space: One that is ``measurable``.
        score: Rows to L, ``(rows,)``, in nats; may draw noise.
        items: Draws from the distribution that ``score`` scores, ``(n, *space.shape)``.
    """
    total, slack, apart, most, how = measure(space, score, items)
    require(
        abs(total - 1) <= slack,
        f"the sum over {space} of E exp L is {total:.9f}, wanted 1 to within {slack:.2g}",
    )
    require(apart <= most, f"samples are not from what is scored: {how} {apart:.3f}, at most {most:.3f}")


def measure(space: Space, score: Score, items: Tensor) -> Measured:
    """What ``check_mass_and_draws`` compares; the same arguments."""
    return _measure_reals(space, score, items) if isinstance(space, Real) else _measure_codes(space, score, items)


def states(space: Codes) -> Tensor:
    """Every item of a space, ``(size ** dim, *shape)``."""
    return _product(torch.arange(space.size), space.dim).reshape(-1, *space.shape)


def _measure_codes(space: Codes, score: Score, items: Tensor) -> Measured:
    x = states(space)
    found = over_noise(score, x, lambda values, log_density: (values + log_density).exp())
    probability, error = found.value, found.error_of_sum
    scattered_over = sum(NoiseOf.found(score, x).sizes) > 2
    # By cells a wide error is itself a sign: what has no integral is refined for ever. So is a sum far too large: what
    # sums to 1 and has no negative part is found a hundredfold once in a hundred times at the very most.
    if error >= _WIDE and scattered_over and float(probability.sum()) < _FAR_TOO_LARGE:
        raise TooWideError(f"the sum over {space} of E exp L may be off by {error:.2g}: too wide to tell")
    slack = min(max(1e-6, error), _WIDE)
    index = (items.flatten(1) * space.size ** torch.arange(space.dim).flip(0)).sum(1)
    frequency = torch.bincount(index, minlength=len(x)) / len(items)
    distance = float((frequency - probability).abs().sum() / 2)
    how = f"total variation over {len(items)} draws"
    return Measured(float(probability.sum()), slack, distance, _most(probability, len(items)), how)


def _most(probability: Tensor, draws: int) -> float:
    """A total variation that frequencies exceed once in 1e9: its mean, and McDiarmid's inequality beyond it."""
    mean = float((2 * probability * (1 - probability).clamp_min(0) / (math.pi * draws)).sqrt().sum() / 2)
    return mean + math.sqrt(math.log(1e9) / (2 * draws))


@torch.no_grad()
def _measure_reals(space: Real, score: Score, items: Tensor) -> Measured:
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

    (total, *wanted), (error, *_), _ = integrate(integrand, space.dim + sum(noise.sizes))
    came = features(items.flatten(1).double())
    errors = (came.mean(0) - torch.stack(wanted)).abs() / (came.std(0) / math.sqrt(len(items)) + 1e-6)
    how = f"standard errors between the means over {len(items)} draws and the integrals, the worst being"
    return Measured(float(total), max(1e-6, float(error)), float(errors.max()), 5.0, how)
