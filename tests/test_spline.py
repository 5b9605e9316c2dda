"""The rational-quadratic spline: against nflows' own, against autograd, at its edges, and compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline
from torch import Tensor

from compose.nets.spline import MAX_LOG_SLOPE, MIN_SHARE, rational_quadratic

BINS, BOUND = 6, 3.0


Raw = tuple[Tensor, Tensor, Tensor]


def parameters(n: int, scale: float, dtype: torch.dtype = torch.float64) -> Raw:
    """Raw widths, heights and slopes of ``n`` splines."""
    drawn = scale * torch.randn(n, 3 * BINS - 1, generator=torch.Generator().manual_seed(0), dtype=dtype)
    widths, heights, slopes = drawn.split([BINS, BINS, BINS - 1], 1)
    return widths, heights, slopes


def each(change: Callable[[Tensor], Tensor], raw: Raw) -> Raw:
    """The same change to all three."""
    widths, heights, slopes = map(change, raw)
    return widths, heights, slopes


def points(n: int, reach: float = 1.2, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers on both sides of the interval's ends, the ends among them."""
    x = reach * BOUND * (2 * torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=dtype) - 1)
    x[:2] = torch.tensor([-BOUND, BOUND])
    return x


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_it_is_the_spline_of_nflows(scale: float, inverse: bool):
    """Widths and heights are parametrised alike; nflows' slopes are ``1e-3 + softplus(raw)``, and raw is solved for."""
    widths, heights, slopes = parameters(4000, scale)
    x = points(4000)
    slope = (MAX_LOG_SLOPE * torch.tanh(slopes / MAX_LOG_SLOPE)).exp()
    theirs = torch.log(torch.expm1(slope - MIN_SHARE))
    options = {"tails": "linear", "tail_bound": BOUND, "min_bin_width": MIN_SHARE, "min_bin_height": MIN_SHARE}
    wanted = unconstrained_rational_quadratic_spline(
        x, widths, heights, theirs, inverse=inverse, min_derivative=MIN_SHARE, **options
    )
    came = rational_quadratic(x, widths, heights, slopes, BOUND, inverse)
    for ours, other in zip(came, wanted, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_the_bins_may_stand_on_any_axis(inverse: bool):
    x, raw = points(24), parameters(24, 1.0)
    wanted = rational_quadratic(x, *raw, BOUND, inverse)
    for dim in (0, 1, 2, -1):
        moved = each(lambda one, dim=dim: one.unflatten(0, (4, 6)).movedim(-1, dim), raw)
        came = rational_quadratic(x.unflatten(0, (4, 6)), *moved, BOUND, inverse, dim)
        for ours, other in zip(came, wanted, strict=True):
            torch.testing.assert_close(ours.flatten(), other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inverse", [False, True])
def test_its_log_derivative_is_autograds(inverse: bool):
    x = points(2000).requires_grad_()
    y, log_det = rational_quadratic(x, *parameters(2000, 1.0), BOUND, inverse)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_det, slope.log(), rtol=1e-9, atol=1e-9)


def test_it_inverts_itself():
    x, raw = points(4000), parameters(4000, 1.0)
    y, up = rational_quadratic(x, *raw, BOUND)
    back, down = rational_quadratic(y, *raw, BOUND, inverse=True)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(up, -down, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_it_rises_everywhere(scale: float):
    x = torch.linspace(-1.1 * BOUND, 1.1 * BOUND, 2001, dtype=torch.float64)
    raw = each(lambda one: one[:, None].expand(-1, len(x), -1), parameters(50, scale))
    y, log_det = rational_quadratic(x.expand(50, -1), *raw, BOUND)
    # What is flat is flatter than a rounding error of y.
    assert float(y.diff(dim=1).min()) > -1e-12
    assert log_det.isfinite().all()
    steep = y.diff(dim=1) > 1e-9
    assert float(steep.double().mean()) > 0.5


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_a_float32_draw_lies_where_its_density_says(scale: float):
    """Down and up again at extreme parameters; with all of it in float32 the way was lost by up to the whole bin."""
    z, raw = points(20_000, dtype=torch.float32), parameters(20_000, scale, torch.float32)
    x, log_det = rational_quadratic(z, *raw, BOUND, inverse=True)
    again, _ = rational_quadratic(x, *raw, BOUND)
    assert x.dtype == log_det.dtype == torch.float32 and log_det.isfinite().all()
    assert float((again - z).abs().max()) < 1e-3


@pytest.mark.parametrize("bound", [3.0, 32.0, 50.0])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("inverse", [False, True])
def test_float32_at_and_beside_the_bounds(inverse: bool, scale: float, bound: float):
    """There nflows reads past its last bin, at bounds of 32 and 50 for one."""
    end = torch.tensor([bound])
    inner, outer = (torch.nextafter(end, towards * end) for towards in (0, 2))
    x = torch.cat([end, -end, inner, -inner, outer, -outer]).repeat(1000)
    y, log_det = rational_quadratic(x, *parameters(len(x), scale, torch.float32), bound, inverse)
    torch.testing.assert_close(y, x, rtol=1e-6, atol=0)
    assert log_det.isfinite().all()
    beyond = x.abs() >= bound
    assert torch.equal(y[beyond], x[beyond]) and torch.equal(log_det[beyond], torch.zeros_like(log_det[beyond]))


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0, 100.0])
def test_a_float32_inverse_errs_by_a_few_roundings(scale: float):
    """Of the value and of what it was made from; with the quadratic's usual coefficients it errs by millions."""
    z, raw = points(20_000, dtype=torch.float32), parameters(20_000, scale, torch.float32)
    x, _ = rational_quadratic(z, *raw, BOUND, inverse=True)
    again, log_det = rational_quadratic(x.double(), *each(Tensor.double, raw), BOUND)
    roundings = (again - z).abs() / (torch.finfo(torch.float32).eps * BOUND * (1 + log_det.exp()))
    assert float(roundings.max()) < 10


def test_outside_it_is_the_identity():
    x = torch.tensor([-50.0, -BOUND, BOUND, BOUND + 1e-6, 1e6])
    y, log_det = rational_quadratic(x, *parameters(5, 3.0, torch.float32), BOUND)
    assert torch.equal(y, x) and torch.equal(log_det, torch.zeros(5))


def test_zeros_are_the_identity():
    x, raw = points(500), parameters(500, 0.0)
    for inverse in (False, True):
        y, log_det = rational_quadratic(x, *raw, BOUND, inverse)
        torch.testing.assert_close(y, x, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(log_det, torch.zeros_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("inverse", [False, True])
def test_it_runs_without_memory(inverse: bool):
    raw = each(lambda one: one.to("meta"), parameters(8, 1.0))
    y, log_det = rational_quadratic(points(8).to("meta"), *raw, BOUND, inverse)
    assert y.shape == log_det.shape == (8,) and y.device.type == "meta"


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_are_finite_on_both_sides_of_an_edge(inverse: bool):
    x = points(500).requires_grad_()
    raw = each(lambda one: one.detach().requires_grad_(), parameters(500, 10.0))
    y, log_det = rational_quadratic(x, *raw, BOUND, inverse)
    for gradient in torch.autograd.grad((y + log_det).sum(), [x, *raw]):
        assert gradient.isfinite().all()


@pytest.mark.slow
def test_it_compiles_to_one_graph():
    x, raw = points(64), parameters(64, 1.0)
    compiled = torch.compile(rational_quadratic, fullgraph=True)
    for inverse in (False, True):
        came, wanted = (function(x, *raw, BOUND, inverse) for function in (compiled, rational_quadratic))
        for ours, eager in zip(came, wanted, strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-9, atol=1e-9)
