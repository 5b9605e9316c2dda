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
    """

    takes: Real = _VECTOR

    @property
    def slot(self) -> Slot:
        """A net from ``takes`` to ``space``."""
        return Slot("net", self.space, self.takes)

    def inputs(self, whole: nn.Module, n: int) -> Inputs:
        """Inputs."""
        return draw(self.takes, n), None

    def value(self, whole: nn.Module, x: Tensor, c: Tensor | None) -> Tensor:
        """Outputs."""
        return whole(x)


def candidates(part: NetPart) -> Iterator[NetSubject]:
    """Vectors, images, and both with a label appended."""
    return (NetSubject(part, gives, takes) for takes, gives in PAIRS)


@contract(None)
def outputs_have_the_shape_wanted(subject: NetSubject) -> bool:
    """A batch of inputs becomes a batch of the space wanted, on the meta device as well."""
    whole = subject.module()
    with torch.device("meta"):
        meta = subject.make()
    for n in (ROWS, 1):
        x = draw(subject.takes, n)
        wanted = (n, *subject.space.shape)
        require(whole(x).shape == wanted, f"{tuple(whole(x).shape)} came out, {wanted} was wanted")
        shape = tuple(meta(x.float().to("meta")).shape)
        require(shape == wanted, f"on the meta device {shape} came out, {wanted} was wanted")
    return True


@contract()
def every_input_counts(subject: NetSubject) -> bool:
    """Every number of the input moves some output."""
    x = draw(subject.takes, 8 * ROWS).requires_grad_()
    value = subject.module()(x)
    (gradient,) = torch.autograd.grad((value * torch.randn_like(value)).sum(), x)
    silent = int((gradient == 0).all(0).sum())
    require(silent == 0, f"{silent} of the {subject.takes.dim} inputs change nothing")
    return True


CONTRACTS = (outputs_have_the_shape_wanted, every_input_counts)
