"""Convolutional nets: the grids they go through, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from compose.core.declare import Slot
from compose.core.spaces import Real
from compose.nets.conv import Conv, ConvNet, grid


@pytest.mark.parametrize(
    ("takes", "gives"),
    [
        ((1, 28, 28), (80,)),
        ((40,), (3, 1, 28, 28)),
        ((3, 5, 7), (4,)),
        ((4,), (3, 5, 7)),
        ((2, 1, 9, 9), (8, 5, 5)),
        ((8, 7, 7), (8, 14, 14)),
        ((6, 4, 4), (12, 4, 4)),
        ((1, 1, 1), (2,)),
    ],
)
@pytest.mark.parametrize("options", [{}, {"gated": True}, {"norm": "none", "blocks": 2, "halvings": 1}])
def test_any_two_spaces_with_an_image(takes: tuple[int, ...], gives: tuple[int, ...], options: dict[str, object]):
    part, slot = Conv.model_validate({"channels": 8, **options}), Slot("net", Real(gives), Real(takes))
    assert list(part.misfits(slot)) == []
    assert part.build(slot)(torch.randn(3, *takes)).shape == (3, *gives)


@pytest.mark.parametrize(
    ("takes", "gives", "told"),
    [
        ((3,), (2, 5), "'conv' works on images, but here it would map Real(3) to Real(2x5)."),
        ((1, 28, 28), (4, 6, 6), "halves or doubles a grid, which does not lead from Real(1x28x28) to Real(4x6x6)"),
        ((4, 3, 3), (4, 7, 7), "halves or doubles a grid, which does not lead from Real(4x3x3) to Real(4x7x7)"),
    ],
)
def test_what_is_refused(takes: tuple[int, ...], gives: tuple[int, ...], told: str):
    (reason,) = Conv().misfits(Slot("net", Real(gives), Real(takes)))
    assert told in reason.message


def test_it_starts_without_its_blocks():
    """Their last convolutions are zero, so depth changes nothing at first."""
    torch.manual_seed(0)
    net = ConvNet(Real((2, 4, 4)), Real((2, 4, 4)), Conv(channels=8, blocks=3))
    x = torch.randn(2, 2, 4, 4)
    blocks = [layer for layer in net.layers if type(layer).__name__ == "Block"]
    h = net.layers[0](x)
    assert len(blocks) == 3
    for block in blocks:
        assert torch.equal(block(h), h)


def test_an_image_has_three_axes_at_least():
    assert [grid(Real(shape)) for shape in [(3,), (2, 5), (1, 4, 6), (17, 1, 4, 6)]] == [(), (), (4, 6), (4, 6)]
