"""Solvers of ordinary differential equations by fixed steps, the same for every row.

Steps that suit themselves to a batch would make what one row comes to depend on those beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from compose.core.roles import Density

#: Velocity at a point and a time, and what else is summed up along the way; none where nothing is.
Field = Callable[[Tensor, float], tuple[Tensor, Tensor | None]]


class Tableau(NamedTuple):
    """An explicit Runge-Kutta method.

    Args:
        nodes: At which parts of a step the field is asked.
        rows: What of the slopes found so far leads to each of them.
        weights: What of each slope makes up the step.
    """

    nodes: Sequence[float]
    rows: Sequence[Sequence[float]]
    weights: Sequence[float]


SOLVERS = {
    "euler": Tableau((0.0,), ((),), (1.0,)),
    "heun": Tableau((0.0, 1.0), ((), (1.0,)), (0.5, 0.5)),
    "rk4": Tableau((0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}


def solve(field: Field, x: Tensor, times: Sequence[float], by: Tableau) -> tuple[Tensor, Tensor | None]:
    """Goes along a field through the times.

    Args:
        field: Velocity, and a rate beside it.
        x: Where to start, ``(n, ...)``.
        times: From the first to the last; they may fall.
        by: The method.

    Returns:
        Where it ends, and the integral of the rate; none where there is no rate.

    Source: Hairer, Norsett and Wanner 1993, Solving Ordinary Differential Equations I, section II.1.
    """
    found: Tensor | None = None
    for t, s in pairwise(times):
        slopes: list[Tensor] = []
        rates: list[Tensor | None] = []
        for node, row in zip(by.nodes, by.rows, strict=True):
            slope, rate = field(_along(x, slopes, row, s - t), t + node * (s - t))
            slopes.append(slope)
            rates.append(rate)
        x = _along(x, slopes, by.weights, s - t)
        for rate, weight in zip(rates, by.weights, strict=True):
            if rate is not None:
                found = weight * (s - t) * rate if found is None else found.add(rate, alpha=weight * (s - t))
    return x, found


def stepwise(module: nn.Module) -> list[Density]:
    """The densities in it whose L is found in steps; what training selects on is then an estimate."""
    return [part for part in module.modules() if isinstance(part, Density) and part.solved]


def _along(x: Tensor, slopes: Sequence[Tensor], parts: Sequence[float], step: float) -> Tensor:
    for slope, part in zip(slopes, parts, strict=True):
        if part:
            x = x.add(slope, alpha=part * step)
    return x
