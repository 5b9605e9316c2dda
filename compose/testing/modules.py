"""Contracts of everything that builds a module and computes row by row."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from compose.testing.contract import contract, require, same
from compose.testing.integrals import CALM
from compose.testing.noise import Tape
from compose.testing.subject import ROWS, Built, Inputs


def _value(subject: Built, whole: nn.Module, inputs: Inputs, tape: Tape) -> Tensor:
    with torch.no_grad(), tape.run():
        return subject.value(whole, *inputs)


def _float32(inputs: Inputs) -> Inputs:
    x, c = (given.float() if given is not None and given.is_floating_point() else given for given in inputs)
    assert x is not None
    return x, c


@contract(None)
def defaults_work(subject: Built) -> bool:
    """As built, in full size and in float32, it computes finite values and takes a batch of one."""
    whole = subject.make()
    for n in (5, 1):
        value = _value(subject, whole, _float32(subject.inputs(whole, n)), Tape())
        require(value.shape[0] == n, f"{n} rows came back as shape {tuple(value.shape)}")
        require(bool(value.isfinite().all()), f"untrained, it gives {value.flatten()[~value.isfinite().flatten()][:1]}")
    return True


@contract()
def rows_are_independent(subject: Built) -> bool:
    """A row's value does not depend on the rows beside it, nor on its place among them."""
    whole, tape = subject.module(), Tape()
    x, c = subject.inputs(whole, ROWS)
    value = _value(subject, whole, (x, c), tape)
    for rows in (torch.randperm(ROWS), torch.tensor([3]), torch.arange(5, 12)):
        with torch.no_grad(), tape.play(rows):
            again = subject.value(whole, x[rows], None if c is None else c[rows])
        same(again, value[rows], 1e-12, f"the value of {len(rows)} of {ROWS} rows")
    return True


@contract()
def copies_agree(subject: Built) -> bool:
    """A deep copy, and a fresh module that loads its state, compute the same values."""
    whole, tape = subject.module(), Tape()
    inputs = subject.inputs(whole, ROWS)
    value = _value(subject, whole, inputs, tape)
    same(_value(subject, copy.deepcopy(whole), inputs, tape), value, 0.0, "the value of a deep copy")
    fresh = subject.module(seed=1)
    fresh.load_state_dict(whole.state_dict())
    same(_value(subject, fresh, inputs, tape), value, 0.0, "the value after load_state_dict")
    return True


@contract()
def float32_is_close(subject: Built) -> bool:
    """In float32 it computes nearly what it computes in float64."""
    # Shaken less: many nets on top of each other reach numbers that float32 does not have.
    whole, tape = subject.module(shaken=CALM), Tape()
    inputs = subject.inputs(whole, ROWS)
    value = _value(subject, whole, inputs, tape)
    came = _value(subject, whole.float(), _float32(inputs), tape)
    require(came.dtype == torch.float32, f"float32 weights and inputs give {came.dtype}")
    same(came, value, 2e-3, "the value in float32 against float64")
    return True


@contract(4, 2)
def gradient_reaches_every_parameter(subject: Built) -> bool:
    """Every parameter of the part has a finite gradient that is not zero everywhere.

    Not asked on a single number: what steers one coordinate by the others has nothing to see there.
    """
    reached: dict[str, bool] = {}
    for seed in range(10):  # one set of shaken weights can cut a part off: dead units, items outside a spline's reach
        whole = subject.module(seed)
        own = subject.own(whole)
        if not list(own.parameters()) or subject.space.dim < 2:
            return False
        value = subject.value(whole, *subject.inputs(whole, 4 * ROWS))
        require(value.requires_grad, "no gradient leaves the value")
        # Random weights: the plain sum of a normalised output has no gradient at all.
        (value * torch.randn_like(value)).sum().backward()
        for name, parameter in own.named_parameters():
            gradient = torch.zeros(()) if parameter.grad is None else parameter.grad
            require(bool(gradient.isfinite().all()), f"the gradient of {name} is not finite")
            reached[name] = reached.get(name, False) or bool((gradient != 0).any())
        if all(reached.values()):
            return True
    require(False, f"no gradient reaches {', '.join(name for name in reached if not reached[name])}")
    return True


CONTRACTS = (defaults_work, rows_are_independent, copies_agree, float32_is_close, gradient_reaches_every_parameter)
