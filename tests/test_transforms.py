"""Invertible nets as wholes: what they promise, whatever they are made of, and that they are one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compose.nets.transforms import InvertibleNet, TransformOptions

DIM, CONTEXT = 5, 3
KINDS = [
    *(
        {"transform": name, "mixing": mixing}
        for name in ("rq_coupling", "affine_coupling")
        for mixing in ("lu", "none")
    ),
    {"transform": "rq_coupling", "mixing": "permutation", "generative": True},
    {"transform": "maf", "mixing": "permutation"},
    {"transform": "maf", "mixing": "none", "generative": True},
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
with_and_without_context = pytest.mark.parametrize("context", [0, CONTEXT])


def shaken(kind: dict[str, Any], context: int) -> tuple[InvertibleNet, Tensor, Tensor | None]:
    """A net whose every weight is far from its start, with items and their contexts."""
    torch.manual_seed(0)
    net = InvertibleNet(DIM, TransformOptions(layers=2, hidden=16, bins=4, **kind), context).double()
    for value in net.parameters():
        nn.init.normal_(value, std=0.5 / value.shape[-1] ** 0.5)
    x = 3 * torch.randn(200, DIM, dtype=torch.float64)
    return net, x, torch.randn(200, context, dtype=torch.float64) if context else None


@every_kind
@with_and_without_context
def test_down_undoes_up_and_the_log_det_is_the_jacobians(kind: dict[str, Any], context: int):
    net, x, c = shaken(kind, context)
    z, log_det = net(x, c)
    back, minus = net.inverse(z, c)
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(minus, -log_det, rtol=1e-8, atol=1e-8)
    each = torch.func.vmap(
        torch.func.jacrev(lambda row, at: net(row[None], at)[0][0]), in_dims=(0, 0 if context else None)
    )
    jacobian = each(x[:20], None if c is None else c[:20, None])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[:20], rtol=1e-9, atol=1e-9)


@pytest.mark.long
@every_kind
@with_and_without_context
def test_both_ways_are_one_graph(kind: dict[str, Any], context: int):
    """As ``fullgraph`` demands; the graph is then run as it was traced, without a compiler."""
    net, x, c = shaken(kind, context)
    ways: list[Callable[..., tuple[Tensor, Tensor]]] = [net.forward, net.inverse]
    for way in ways:
        torch.compiler.reset()
        came, wanted = torch.compile(way, backend="eager", fullgraph=True)(x, c), way(x, c)
        for ours, eager in zip(came, wanted, strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-12, atol=1e-12)


@every_kind
def test_it_runs_without_memory(kind: dict[str, Any]):
    net, x, _ = shaken(kind, 0)
    for way in (net.to("meta").forward, net.inverse):
        value, log_det = way(x.to("meta"))
        assert value.shape == x.shape and log_det.shape == (200,) and value.device.type == "meta"


@pytest.mark.slow
def test_a_compiled_flow_has_the_same_values_and_gradients():
    """Through torch's compiler, both ways, with what it makes of the gradient."""
    net, x, _ = shaken({"transform": "rq_coupling", "mixing": "lu"}, 0)
    for way in (net.forward, net.inverse):
        found = []
        for call in (way, torch.compile(way, fullgraph=True)):
            value, log_det = call(x)
            gradients = torch.autograd.grad(value.square().sum() + log_det.sum(), list(net.parameters()))
            found.append([value, log_det, *gradients])
        for eager, compiled in zip(*found, strict=True):
            torch.testing.assert_close(compiled, eager, rtol=1e-8, atol=1e-8)
