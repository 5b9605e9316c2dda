"""The masked autoregressive transform against what defines it: a triangular Jacobian, and an inverse that inverts."""

import pytest
import torch
from torch import Tensor, nn

from compose.nets.autoregressive import MaskedAutoregressive

SIZES = [(1, 4, 1, 0), (1, 4, 1, 3), (2, 2, 1, 0), (5, 3, 2, 0), (5, 16, 0, 0), (7, 40, 2, 3), (40, 64, 1, 0)]


def shaken(dim: int, hidden: int, blocks: int, context: int) -> tuple[MaskedAutoregressive, Tensor, Tensor | None]:
    """A transform whose every weight is far from its start, with items and their contexts."""
    torch.manual_seed(0)
    net = MaskedAutoregressive(dim, hidden, blocks, context).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.7 / parameter.shape[-1] ** 0.5)
    x = torch.randn(6, dim, dtype=torch.float64)
    return net, x, torch.randn(6, context, dtype=torch.float64) if context else None


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_its_jacobian_is_triangular_and_its_log_det_that_of_the_jacobian(size: tuple[int, int, int, int]):
    net, x, c = shaken(*size)
    _, log_det = net(x, c)
    every = torch.func.vmap(
        torch.func.jacrev(lambda row, at: net(row[None], at)[0][0]), in_dims=(0, 0 if size[3] else None)
    )
    jacobian = every(x, None if c is None else c[:, None])
    assert torch.equal(jacobian, jacobian.tril())
    assert torch.allclose(torch.linalg.slogdet(jacobian)[1], log_det, atol=1e-12)
    # Every coordinate is steered by every earlier one, for some item: no mask is narrower than it must be.
    if size[1] >= 16:
        assert int((jacobian != 0).any(0).sum()) == size[0] * (size[0] + 1) // 2


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_its_inverse_inverts_and_carries_the_same_gradients(size: tuple[int, int, int, int]):
    net, x, c = shaken(*size)
    x.requires_grad_()
    z, log_det = net(x, c)
    back, minus = net.inverse(z, c)
    assert torch.allclose(back, x, atol=1e-11)
    assert torch.allclose(minus, -log_det, atol=1e-12)
    (through,) = torch.autograd.grad(back.square().sum(), x)
    assert torch.allclose(through, 2 * x, atol=1e-9)


def test_a_context_steers_every_coordinate_the_first_one_too():
    net, x, c = shaken(7, 40, 2, 3)
    assert c is not None
    z, log_det = net(x, c)
    moved, other = net(x, c + 1)
    assert bool(((z - moved).abs() > 1e-6).all()) and bool((log_det != other).all())


def test_sampling_does_the_work_of_one_pass():
    """As counted in multiplications by torch: each hidden unit is computed once, from what it may see."""
    from torch.utils.flop_counter import FlopCounterMode

    net, x, _ = shaken(40, 64, 1, 0)
    counts = []
    for call in (net.forward, net.inverse):
        with FlopCounterMode(display=False) as counter:
            call(x)
        counts.append(counter.get_total_flops())
    assert 0 < counts[1] <= counts[0]
