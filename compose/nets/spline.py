"""A monotone rational-quadratic spline without branches.

Source: Durkan et al. 2019, arXiv:1906.04032. Inside ``[-bound, bound]`` a spline of rational quadratics, outside the
identity. One ``torch.where`` picks the side, so there is no data-dependent shape: it compiles in one graph and runs on
the meta device. Slopes are bounded, which keeps the float32 inverse precise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MIN_SHARE = 1e-3
MAX_LOG_SLOPE = math.log(1e3)


def rational_quadratic(
    x: Tensor, widths: Tensor, heights: Tensor, slopes: Tensor, bound: float, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Applies the spline to every number of ``x``.

    Args:
        x: Any shape ``(...)``.
        widths: Raw bin widths, ``(..., bins)``; zeros give equal bins.
        heights: Raw bin heights, ``(..., bins)``.
        slopes: Raw log-slopes at the inner knots, ``(..., bins - 1)``; zeros give slope 1. With zeros everywhere the
            spline is the identity.
        bound: Half-width of the interval.
        inverse: Whether to apply the inverse.

    Returns:
        The value and the log-derivative of the map that was applied, both ``(...)``.
    """
    knots_x, knots_y = _knots(widths, bound), _knots(heights, bound)
    log_slope = MAX_LOG_SLOPE * torch.tanh(slopes / MAX_LOG_SLOPE)
    slope = functional.pad(log_slope, (1, 1)).exp()
    inside = (x > -bound) & (x < bound)
    clamped = torch.where(inside, x, 0.0)
    search = knots_y if inverse else knots_x
    index = (clamped[..., None] >= search[..., 1:-1]).sum(-1, keepdim=True)

    def at(values: Tensor, offset: int = 0) -> Tensor:
        return values.gather(-1, index + offset)[..., 0]

    x0, y0 = at(knots_x), at(knots_y)
    width, height = at(knots_x, 1) - x0, at(knots_y, 1) - y0
    d0, d1, s = at(slope), at(slope, 1), height / width
    curve = d0 + d1 - 2 * s
    if inverse:
        theta = _solve(clamped - y0, height, d0, d1, s).to(x.dtype)
        value = x0 + theta * width
    else:
        theta = (clamped - x0) / width
        value = y0 + height * (s * theta * theta + d0 * theta * (1 - theta)) / (s + curve * theta * (1 - theta))
    mix = theta * (1 - theta)
    slope_here = d1 * theta * theta + 2 * s * mix + d0 * (1 - theta) * (1 - theta)
    log_det = 2 * torch.log(s) + torch.log(slope_here) - 2 * torch.log(s + curve * mix)
    return torch.where(inside, value, x), torch.where(inside, -log_det if inverse else log_det, 0.0)


def _solve(rise: Tensor, height: Tensor, d0: Tensor, d1: Tensor, s: Tensor) -> Tensor:
    """How far along its bin, from 0 to 1, the spline has risen by ``rise``; in float64.

    Where slopes differ much the coefficients cancel, and in float32 the answer may lie anywhere in the bin.
    """
    rise, height, d0, d1, s = (each.double() for each in (rise, height, d0, d1, s))
    curve = d0 + d1 - 2 * s
    a = height * (s - d0) + rise * curve
    b = height * d0 - rise * curve
    c = -s * rise
    return 2 * c / (-b - torch.sqrt((b * b - 4 * a * c).clamp_min(0)))


def _knots(raw: Tensor, bound: float) -> Tensor:
    """Knots from ``-bound`` to ``bound`` with no bin below a least share."""
    bins = raw.shape[-1]
    shares = MIN_SHARE + (1 - MIN_SHARE * bins) * torch.softmax(raw, dim=-1)
    inner = functional.pad(shares.cumsum(-1)[..., :-1], (1, 0))
    return functional.pad(2 * bound * inner - bound, (0, 1), value=bound)
