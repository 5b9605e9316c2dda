"""Contracts of networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compose.core.declare import NetPart, Slot
from compose.core.roles import labelled
from compose.core.spaces import Real
from compose.testing.contract import contract, require
from compose.testing.subject import LABELS, ROWS, Built, Inputs, draw

_VECTOR, _IMAGE = Real((3,)), Real((2, 4, 4))
PAIRS = (
    (_VECTOR, Real((2,))),
    (_VECTOR, Real((3, 1, 4, 4))),
    (_IMAGE, Real((2, 5))),
    (_IMAGE, _IMAGE),
    (labelled(_VECTOR, LABELS), Real((2, 4))),
    (labelled(_IMAGE, LABELS), Real((4,))),
)


@dataclass(frozen=True)
class NetSubject(Built):
    """A net between two spaces.

    Args:
        takes: The space of its input; ``space`` is that of its output.
        steer: The space of a vector beside the input.
    """

    takes: Real = _VECTOR
    steer: Real | None = None

    @property
    def slot(self) -> Slot:
        """A net from ``takes`` to ``space``."""
        return Slot("net", self.space, self.takes, steer=self.steer)

    def inputs(self, whole: nn.Module, n: int) -> Inputs:
        """Inputs, and what steers."""
        return draw(self.takes, n), None if self.steer is None else draw(self.steer, n)

    def value(self, whole: nn.Module, x: Tensor, c: Tensor | None) -> Tensor:
        """Outputs."""
        return whole(x) if c is None else whole(x, c)


def candidates(part: NetPart) -> Iterator[NetSubject]:
    """Vectors, images, and both with a label appended; steered as well, where it can be."""
    steers = (None, Real((5,))) if part.steered else (None,)
    return (NetSubject(part, gives, takes, steer) for takes, gives in PAIRS for steer in steers)


@contract(None)
def outputs_have_the_shape_wanted(subject: NetSubject) -> bool:
    """A batch of inputs becomes a batch of the space wanted, on the meta device as well."""
    whole = subject.module()
    with torch.device("meta"):
        meta = subject.make()
    for n in (ROWS, 1):
        given = [each for each in subject.inputs(whole, n) if each is not None]
        wanted, came = (n, *subject.space.shape), whole(*given)
        require(came.shape == wanted, f"{tuple(came.shape)} came out, {wanted} was wanted")
        shape = tuple(meta(*(each.float().to("meta") for each in given)).shape)
        require(shape == wanted, f"on the meta device {shape} came out, {wanted} was wanted")
    return True


@contract()
def every_input_counts(subject: NetSubject) -> bool:
    """Every number of the input, and of what steers, moves some output."""
    whole = subject.module()
    given = [each.requires_grad_() for each in subject.inputs(whole, 8 * ROWS) if each is not None]
    value = whole(*given)
    for gradient in torch.autograd.grad((value * torch.randn_like(value)).sum(), given):
        silent = int((gradient == 0).all(0).sum())
        require(silent == 0, f"{silent} of the {gradient[0].numel()} inputs change nothing")
    return True


CONTRACTS = (outputs_have_the_shape_wanted, every_input_counts)
