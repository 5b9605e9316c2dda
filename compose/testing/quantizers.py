"""Contracts of quantizers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compose.core.declare import Slot
from compose.core.quantizer import Quantizer, QuantizerPart
from compose.core.spaces import Real
from compose.testing.contract import contract, require, same
from compose.testing.subject import ROWS, Built, Inputs, check_values, draw

GRIDS = ((1,), (3,), (2, 2))


@dataclass(frozen=True)
class QuantizerSubject(Built):
    """A quantizer of vectors on a grid, which is that of ``space``; the part says how wide they are."""

    @property
    def grid(self) -> tuple[int, ...]:
        """Where its vectors stand."""
        return self.space.shape[1:]

    @property
    def quantizer(self) -> QuantizerPart:
        """The declaration."""
        assert isinstance(self.part, QuantizerPart)
        return self.part

    @property
    def slot(self) -> Slot:
        """Vectors of the width it wants."""
        return Slot("quantizer", Real((self.quantizer.width, *self.grid)))

    def inputs(self, whole: nn.Module, n: int) -> Inputs:
        """Vectors."""
        return draw(self.slot.space, n), None

    def value(self, whole: nn.Module, x: Tensor, c: Tensor | None) -> Tensor:
        """The vectors' squares and what training pays for each item, in one number a row."""
        found = whole(x)
        each = [value for value in found.penalties.values() if value.dim()]
        return found.vectors.square().flatten(1).sum(1) + sum(each)


def candidates(part: QuantizerPart) -> Iterator[QuantizerSubject]:
    """One place, a row, an image."""
    return (QuantizerSubject(part, Real((part.width, *grid))) for grid in GRIDS)


@contract()
def codes_are_as_declared(subject: QuantizerSubject) -> bool:
    """Vectors become codes of the space declared, and vectors of the shape they had; evaluation changes nothing."""
    whole = subject.module()
    declared = subject.quantizer.codes(subject.grid)
    require(whole.codes == declared, f"declared and built codes differ: {whole.codes}")
    for n in (ROWS, 1):
        x, _ = subject.inputs(whole, n)
        found, again = whole(x), whole.eval()(x)
        check_values(declared, found.codes, n, "codes")
        require(found.vectors.shape == x.shape, f"{tuple(found.vectors.shape)} came out, {tuple(x.shape)} went in")
        require(torch.equal(found.codes, again.codes), "training and evaluation give other codes")
        same(found.vectors, again.vectors, 1e-12, "vectors in training against evaluation")
        for name, value in found.penalties.items():
            require(value.shape in ((n,), ()), f"{name} of {n} rows has shape {tuple(value.shape)}")
            require(bool(value.isfinite().all()), f"{name} is not finite")
        whole.train()
    return True


@contract()
def codes_stand_for_their_vectors(subject: QuantizerSubject) -> bool:
    """Codes give back the vectors that they came with, and no two codes the same ones."""
    whole = subject.module()
    assert isinstance(whole, Quantizer)
    x, _ = subject.inputs(whole, ROWS)
    with torch.no_grad():
        found = whole(x)
        same(whole.vectors(found.codes), found.vectors, 1e-12, "the vectors of codes, against those they came with")
        if len(found.codes.shape) == len(x.shape) - 1:
            every = torch.arange(whole.codes.size)
            spread = every.reshape(-1, *[1] * len(subject.grid)).expand(-1, *subject.grid)
            vectors = whole.vectors(spread).flatten(1)
            require(len(vectors.unique(dim=0)) == len(every), "two codes stand for the same vector")
    return True


@contract()
def gradients_go_straight_through(subject: QuantizerSubject) -> bool:
    """What is made of the vectors moves those that came in; what training pays moves them too, where it says so."""
    whole = subject.module()
    x = subject.inputs(whole, ROWS)[0].requires_grad_()
    found = whole(x)
    (slope,) = torch.autograd.grad((found.vectors * torch.randn_like(x)).sum(), x, retain_graph=True)
    require(bool(slope.isfinite().all()), "the gradient through it is not finite")
    require(bool((slope != 0).flatten(1).any(1).all()), "no gradient goes through it")
    for name, value in found.penalties.items():
        if name != "codebook":
            (slope,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
            require(bool((slope != 0).any()), f"{name} sends no gradient to what came in")
    return True


@contract()
def it_settles(subject: QuantizerSubject) -> bool:
    """After a step that was skipped nothing has moved; after one that was taken all is finite, and codes hold."""
    whole = subject.module()
    assert isinstance(whole, Quantizer)
    before = copy.deepcopy(whole.state_dict())
    for bad in (torch.inf, torch.nan):
        x, _ = subject.inputs(whole, ROWS)
        whole(torch.full_like(x, bad))
        whole.settle(torch.tensor(False))
    for name, value in whole.state_dict().items():
        require(torch.equal(value, before[name]), f"a step that was skipped moved {name}")
    for _ in range(20):
        x, _ = subject.inputs(whole, ROWS)
        whole(x)
        whole.settle(torch.tensor(True))
    for name, value in whole.state_dict().items():
        require(bool(torch.isfinite(value.double()).all()), f"{name} is not finite any more")
    found = whole(x)
    same(whole.vectors(found.codes), found.vectors, 1e-12, "the vectors of codes, once it has settled")
    return True


@contract(None)
def starting_works(subject: QuantizerSubject) -> bool:
    """Started from vectors, it quantizes; started again, as in a later phase, it stays as it is."""
    whole = subject.make().double()
    assert isinstance(whole, Quantizer)
    if not whole.starts:
        return False
    batches = [subject.inputs(whole, 4 * ROWS)[0] for _ in range(3)]
    whole.start(iter(batches))
    before = copy.deepcopy(whole.state_dict())
    value = subject.value(whole, batches[0], None)
    require(bool(value.isfinite().all()), "what it gives is not finite after its start")
    whole.start(iter(batches))
    moved = [name for name, now in whole.state_dict().items() if not torch.equal(now, before[name])]
    require(not moved, f"a second start moved {', '.join(moved)}")
    return True


CONTRACTS = (
    codes_are_as_declared,
    codes_stand_for_their_vectors,
    gradients_go_straight_through,
    it_settles,
    starting_works,
)
