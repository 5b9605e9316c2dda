"""A monotone rational-quadratic spline without branches.

Source: Durkan et al. 2019, arXiv:1906.04032. Inside ``[-bound, bound]`` a spline of rational quadratics, outside the
identity. One ``torch.where`` picks the side, so there is no data-dependent shape: it compiles in one graph and runs on
the meta device. Slopes are bounded, and what the formulas add is positive, so float32 is enough, for the inverse too.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from compose.core.gaussians import bounded

MIN_SHARE = 1e-3
MAX_LOG_SLOPE = math.log(1e3)


def rational_quadratic(
    x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, bound: float, inverse: bool = False, dim: int = -1
) -> tuple[Tensor, Tensor]:
    """Applies the spline to every number of ``x``.

    Args:
        x: Any shape ``(...)``.
        widths: Raw bin widths, ``(..., bins)``, or with the bins on another axis; zeros give equal bins.
        heights: Raw bin heights, of the same shape.
        slopes: Raw log-slopes at the inner knots, one fewer than bins; zeros give slope 1. With zeros everywhere the
            spline is the identity.
        bound: Half-width of the interval.
        inverse: Whether to apply the inverse.
        dim: The axis of the bins. On a CPU the work takes half the time where it is not the innermost one: a softmax
            over a few numbers side by side does not use its vector units.

    Returns:
        The value and the log-derivative of the map that was applied, both ``(...)``.
    """
    dim %= widths.dim()
    inside = x.abs() < bound
    at = x.clamp(-bound, bound)
    here = _bin(at.unsqueeze(dim), widths, heights, slopes, bound, inverse, dim)
    # How far along its bin, from 0 to 1, and how far from its end: near 1 the difference of the first would be lost.
    gone, left = here.solve(at) if inverse else ((at - here.x0) / here.width, (here.x1 - at) / here.width)
    s, mix = here.s, gone * left
    below = s + (here.d0 + here.d1 - 2 * s) * mix
    if inverse:
        value = here.x0 + gone * here.width
    else:
        value = here.y0 + here.height * (s * gone * gone + here.d0 * mix) / below
    ratio = s / below
    log_slope = torch.log(ratio * ratio * (here.d1 * gone * gone + 2 * s * mix + here.d0 * left * left))
    return torch.where(inside, value, x), torch.where(inside, -log_slope if inverse else log_slope, 0.0)


class _Bin(NamedTuple):
    """The bin of each number: the knots at its ends and the slopes there."""

    x0: Tensor
    x1: Tensor
    y0: Tensor
    y1: Tensor
    d0: Tensor
    d1: Tensor
    width: Tensor
    height: Tensor
    s: Tensor

    def solve(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """How far along the bin the spline reaches ``y``, from 0 to 1, and how far from its end.

        The root of the quadratic, written in the shares ``t`` and ``u`` of the height below and above ``y``. With the
        usual coefficients float32 cancels where slopes differ much, and the answer may lie anywhere in the bin. Here
        ``w`` alone is a difference, and of its two signs each has a form in which everything else is added.
        """
        t, u = (y - self.y0) / self.height, (self.y1 - y) / self.height
        w = self.d0 * u - self.d1 * t
        early = w >= 0
        q = torch.where(early, w, -w) + torch.sqrt(w * w + 4 * self.s * self.s * t * u)
        p = 2 * self.s * torch.where(early, t, u)
        first, second = p / (p + q), q / (p + q)
        return torch.where(early, first, second), torch.where(early, second, first)


def _bin(at: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, bound: float, inverse: bool, dim: int) -> _Bin:
    """Finds the bin of each number; ``at`` has one entry on the axis of the bins."""
    knots_x, knots_y = _inner_knots(torch.stack((widths, heights)), bound, dim + 1)
    index = (at >= (knots_y if inverse else knots_x)).sum(dim, keepdim=True)
    low, zero, high = (torch.full_like(at, edge) for edge in (-bound, 0.0, bound))
    # One table of three rows, read once: each gather would cost an addition into zeros on its way back.
    rows = torch.cat((low, knots_x, high, low, knots_y, high, zero, slopes, zero), dim)
    table = rows.unflatten(dim, (3, -1))
    ends = torch.cat((index, index + 1), dim).unsqueeze(dim)
    xs, ys, raw = table.gather(dim + 1, ends.expand(*table.shape[: dim + 1], *ends.shape[dim + 1 :])).unbind(dim)
    d0, d1 = bounded(raw, MAX_LOG_SLOPE).exp().unbind(dim)
    (x0, x1), (y0, y1) = xs.unbind(dim), ys.unbind(dim)
    width, height = x1 - x0, y1 - y0
    return _Bin(x0, x1, y0, y1, d0, d1, width, height, height / width)


def _inner_knots(raw: Tensor, bound: float, dim: int) -> Tensor:
    """The knots between ``-bound`` and ``bound``, with no bin below a least share."""
    bins = raw.shape[dim]
    shares = MIN_SHARE + (1 - MIN_SHARE * bins) * torch.softmax(raw, dim)
    return 2 * bound * shares.narrow(dim, 0, bins - 1).cumsum(dim) - bound
