"""Contracts of stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compose.core.declare import Slot, as_real
from compose.core.errors import KindError
from compose.core.gaussians import LOG_2PI
from compose.core.kinds import Kind
from compose.core.roles import Stage, StagePart, Step, takes_labels
from compose.core.solvers import stepwise
from compose.core.spaces import Codes, Space
from compose.core.terms import TERMS, total
from compose.testing.contract import ContractError, contract, mostly_same, require, same
from compose.testing.integrals import CALM, calmly, check_mass_and_draws, expectation, measurable
from compose.testing.noise import Tape
from compose.testing.subject import LABELS, ROWS, SPACES, Built, Inputs, check_labels, check_values, draw

DRAWS = 20_000


@dataclass(frozen=True)
class StageSubject(Built):
    """A stage on a space.

    Args:
        labels: Class labels that the data give.
    """

    labels: Codes | None = None

    @property
    def stage(self) -> StagePart:
        """The declaration."""
        assert isinstance(self.part, StagePart)
        return self.part

    @property
    def slot(self) -> Slot:
        """A stage on ``space``."""
        return Slot("stage", self.space, labels=self.labels)

    def make(self) -> nn.Module:
        """The stage, fitted to random items where it is one that is fitted."""
        stage = super().make()
        assert isinstance(stage, Stage)
        if stage.needs_fit:
            batches = [draw(self.space, 50) for _ in range(3)]
            stage.fit(lambda: iter(3 * x.float() - 1 if x.is_floating_point() else x for x in batches))
        return stage

    @property
    def implicit(self) -> bool:
        """Whether no way leads up."""
        return self.stage.kind(self.slot) is Kind.NONE

    def inputs(self, whole: nn.Module, n: int) -> Inputs:
        """Items below, or above a stage without a way up, and labels."""
        space = self.stage.above(self.space) if self.implicit else self.space
        return draw(space, n), None if self.labels is None else draw(self.labels, n)

    def value(self, whole: nn.Module, x: Tensor, c: Tensor | None) -> Tensor:
        """The log weight of each row under the reference, less what training pays; else of what comes down."""
        assert isinstance(whole, Stage)
        if self.implicit:
            return whole.relax(x, c).flatten(1).sum(1)
        step = whole.infer(x, c)
        penalties = [value for value in step.penalties.values() if value.dim()]
        weight = total(step.terms)
        return weight + reference(whole.above, step.z).to(weight.dtype) - sum(penalties)


def candidates(part: StagePart) -> Iterator[StageSubject]:
    """Every place that is tried, whether the part fits there or not."""
    for space in SPACES:
        yield StageSubject(part, space)
        labelled = StageSubject(part, space, LABELS)
        # A label goes the same way whatever the space.
        if space in (SPACES[1], SPACES[5]) and takes_labels(part, labelled.slot):
            yield labelled


def reference(space: Space, z: Tensor) -> Tensor:
    """A prior to close a stage with: the standard normal over reals, the uniform over codes; in nats, ``(batch,)``."""
    if isinstance(space, Codes):
        return torch.full((len(z),), -space.dim * math.log(space.size), dtype=torch.float64)
    flat = z.flatten(1)
    return -0.5 * (flat * flat).sum(1) - 0.5 * LOG_2PI * space.dim


def closed(stage: Any, x: Tensor, c: Tensor | None = None) -> Tensor:
    """The log weight of a stage under the reference."""
    step = stage.infer(x, c)
    return total(step.terms) + reference(stage.above, step.z)


@contract()
def terms_are_as_declared(subject: StageSubject) -> bool:
    """``infer`` gives an item above and the declared terms of the closed set, or is refused: no way leads up."""
    whole: Any = subject.module()
    require(whole.above == subject.stage.above(subject.space), f"declared and built spaces differ: {whole.above}")
    for n in (ROWS, 1):
        if subject.implicit:
            with suppress(KindError):
                whole.infer(draw(subject.space, n))
                raise ContractError("its kind is none, and infer gave something")
            require(not subject.stage.terms(), f"its kind is none, and it declares {list(subject.stage.terms())}")
            continue
        x, c = subject.inputs(whole, n)
        step = whole.infer(x, c)
        check_values(whole.above, step.z.detach(), n, "z")
        declared = list(subject.stage.terms())
        require(list(step.terms) == declared, f"terms {list(step.terms)} came, {declared} are declared")
        require(
            {name.rpartition(".")[2] for name in declared} <= set(TERMS[:-1]),
            f"terms {declared}; a stage adds only {TERMS[:-1]}",
        )
        for name, value in step.terms.items():
            require(value.shape == (n,), f"{name} of {n} rows has shape {tuple(value.shape)}")
            require(bool(value.isfinite().all()), f"{name} is not finite")
    return True


@contract()
def items_come_down(subject: StageSubject) -> bool:
    """``generate`` gives items below and no gradient; where it says so, ``relax`` gives what a net sees, and one."""
    whole: Any = subject.module(shaken=CALM)
    for n in (ROWS, 1):
        z = draw(whole.above, n)
        c = None if subject.labels is None else draw(subject.labels, n)
        below = whole.generate(z, c)
        check_values(whole.below, below, n, "what is generated")
        require(not below.requires_grad, "what is generated sends a gradient")
        if not subject.stage.descends:
            continue
        follows = [z.requires_grad_()] if z.is_floating_point() else []
        relaxed = whole.relax(z, c)
        wanted = (n, *as_real(subject.space).shape)
        require(relaxed.shape == wanted, f"relax gives shape {tuple(relaxed.shape)}, wanted {wanted}")
        slope = torch.autograd.grad(relaxed.square().sum(), [*follows, *whole.parameters()], allow_unused=True)
        moved = [each is not None and bool((each != 0).any()) for each in slope]
        require(all(moved[: len(follows)]) and any(moved), "relax sends no gradient to the item above, or to nothing")
        finite = all(bool(each.isfinite().all()) for each in slope if each is not None)
        require(finite, "the gradient of relax is not finite")
    return True


@contract(2)
def bijections_invert(subject: StageSubject) -> bool:
    """A stage whose only term is a log-det comes back to where it was, and its log-det is that of its Jacobian."""
    if list(subject.stage.terms()) != ["log_det"]:
        return False
    whole: Any = subject.module()
    x, c = subject.inputs(whole, ROWS)
    step = whole.infer(x, c)
    mostly_same(whole.generate(step.z.detach(), c), x, 1e-9, "up and down again")
    z = draw(whole.above, ROWS)
    mostly_same(whole.infer(whole.generate(z, c), c).z, z, 1e-9, "down and up again")
    for i in range(6):
        label = None if c is None else c[i : i + 1]
        jacobian = torch.autograd.functional.jacobian(lambda row, label=label: whole.infer(row, label).z, x[i : i + 1])
        log_det = torch.linalg.slogdet(jacobian.reshape(whole.above.dim, whole.below.dim)).logabsdet
        same(step.terms["log_det"][i], log_det, 1e-9, "log_det against the Jacobian")
    return True


@contract(1, 2)
def weights_sum_to_one_and_samples_are_from_them(subject: StageSubject) -> bool:
    """Closed by a known prior, E exp L sums to 1 over the data, and what is generated is drawn from it."""
    if subject.stage.kind(subject.slot) > Kind.WEIGHT:
        return False
    return calmly(partial(_mass_and_draws, subject))


def _mass_and_draws(subject: StageSubject, shaken: float) -> bool:
    whole: Any = subject.module(shaken=shaken)
    c = subject.inputs(whole, 1)[1]

    def spread(n: int) -> Tensor | None:
        return None if c is None else c.expand(n)

    def score(x: Tensor) -> Tensor:
        return closed(whole, x, spread(len(x)))

    if not measurable(subject.space, score, whole):
        return False
    check_mass_and_draws(subject.space, score, whole.generate(draw(whole.above, DRAWS), spread(DRAWS)))
    return True


@contract(1)
def closed_forms_are_expectations(subject: StageSubject) -> bool:
    """Asked for closed forms, it gives the Gaussian it draws from, and its terms keep their expectations."""
    whole: Any = subject.module()
    if not whole.closed_form or stepwise(whole):
        return False
    x, c = subject.inputs(whole, 2)

    def infer(rows: Tensor, in_closed_form: bool) -> Step:
        return whole.infer(rows, None if c is None else c[:1].expand(len(rows)), in_closed_form)

    step = infer(x, True)
    if step.gaussian is None:
        raise ContractError("no Gaussian came beside the closed form")
    require(step.gaussian.loc.shape == step.z.shape, f"the Gaussian has shape {tuple(step.gaussian.loc.shape)}")
    found = [expectation(partial(_values, infer, form), x) for form in (True, False)]
    came, wanted = (integral.value.unflatten(0, (len(x), -1)) for integral in found)
    # Of many numbers of noise, as of a likelihood with its own, integrals are made from points at random.
    blur = float((found[0].error + found[1].error).max())
    for i, name in enumerate(subject.stage.terms()):
        same(came[:, i], wanted[:, i], max(1e-5, blur), f"{name} in closed form, against its expectation")
    mean = "the Gaussian's location, against the mean of z"
    same(step.gaussian.loc.flatten(1)[:, 0], wanted[:, -1], max(1e-6, blur), mean)
    return True


def _values(infer: Callable[[Tensor, bool], Step], in_closed_form: bool, rows: Tensor) -> Tensor:
    """All terms and the first number of z, row by row: one integral for all of them."""
    step = infer(rows, in_closed_form)
    return torch.stack([*step.terms.values(), step.z.flatten(1)[:, 0]], 1).flatten()


@contract(2)
def the_posterior_is_lent(subject: StageSubject) -> bool:
    """What it lends to a prior is the posterior that it draws from."""
    if not subject.stage.lends_posterior:
        return False
    whole, tape = subject.module(), Tape()
    assert isinstance(whole, Stage)
    if subject.labels is not None:
        return False
    x, _ = subject.inputs(whole, ROWS)
    with torch.no_grad(), tape.record():
        step = whole.infer(x)
    lent = whole.lend()
    log_q = lent.density.log_prob(step.z, lent.encode(lent.features(x)))
    mostly_same(-log_q, step.terms["minus_log_q"], 1e-9, "the lent posterior's log-probability of the z that was drawn")
    return True


@contract()
def labels_are_taken(subject: StageSubject) -> bool:
    """Where it is set to take labels, every label changes the log weight, or what comes down."""
    if subject.labels is None:
        return False
    whole = subject.module()
    x, _ = subject.inputs(whole, ROWS)
    check_labels(subject.labels, lambda c: subject.value(whole, x, c), ROWS, Tape())
    return True


CONTRACTS = (
    terms_are_as_declared,
    items_come_down,
    bijections_invert,
    weights_sum_to_one_and_samples_are_from_them,
    closed_forms_are_expectations,
    the_posterior_is_lent,
    labels_are_taken,
)
