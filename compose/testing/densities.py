"""Contracts of densities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compose.core import registry
from compose.core.declare import Part, Slot
from compose.core.drawing import Drawing
from compose.core.gaussians import Gaussian
from compose.core.kinds import Kind
from compose.core.roles import Density, DensityPart, StagePart, takes_labels
from compose.core.spaces import Codes, Real, Space
from compose.parts.densities.model import Model
from compose.testing.contract import ContractError, contract, mostly_same, require, same
from compose.testing.integrals import calmly, check_mass_and_draws, integrate, measurable
from compose.testing.noise import Tape
from compose.testing.subject import LABELS, ROWS, SPACES, Built, Inputs, check_labels, check_values, draw
from compose.testing.variants import shrunk, variants

DRAWS = 20_000


@dataclass(frozen=True)
class DensitySubject(Built):
    """A density in a place.

    Args:
        conditional: Whether a net conditions it.
        labels: Class labels that the data give.
        lender: The stage right below, for a density that is made of a posterior; ``space`` then lies below that stage.
    """

    conditional: bool = False
    labels: Codes | None = None
    lender: Part | None = None

    @property
    def density(self) -> DensityPart:
        """The declaration."""
        assert isinstance(self.part, DensityPart)
        return self.part

    @property
    def slot(self) -> Slot:
        """A prior, or a likelihood where a net conditions it."""
        if self.lender is not None:
            return self._model.nested(self._below)["prior"][1]
        if self.conditional:
            return Slot("likelihood", self.space, self.density.features(self.space) or Real((2,)), self.labels)
        return self._below

    @property
    def reasons(self) -> list[str]:
        """Why it does not fit here; with a lender, why the model of both does not."""
        whole = self.part if self.lender is None else self._model
        walked = whole.walk(self.slot if self.lender is None else self._below)
        return [reason.message for _, part, slot in walked for reason in part.misfits(slot)]

    def shrunk(self, most: int | None) -> DensitySubject:
        """Shrinks the lender too."""
        small = super().shrunk(most)
        return small if most is None or self.lender is None else replace(small, lender=shrunk(self.lender, most))

    @property
    def _model(self) -> Model:
        return Model(stages=[self.lender], prior=self.part)

    @property
    def _below(self) -> Slot:
        return Slot("prior", self.space, labels=self.labels)

    def make(self) -> nn.Module:
        """The density, or the model in which a stage lends it a posterior."""
        return super().make() if self.lender is None else self._model.build(self._below)

    def own(self, whole: Any) -> Density:
        """The density."""
        return whole if self.lender is None else whole.prior

    def inputs(self, whole: nn.Module, n: int) -> Inputs:
        """Items and conditions."""
        density = self.own(whole)
        return draw(density.space, n), None if density.condition is None else draw(density.condition, n)

    def value(self, whole: nn.Module, x: Tensor, c: Tensor | None) -> Tensor:
        """L of each row."""
        return self.own(whole)(x, c)


def candidates(part: DensityPart) -> Iterator[DensitySubject]:
    """Every place that is tried, whether the part fits there or not; of what scores nothing, nothing is promised."""
    if part.needs_posterior:
        yield from (DensitySubject(part, space, lender=lender) for lender in _lenders() for space in SPACES)
        return
    for space in SPACES:
        if part.kind(DensitySubject(part, space).slot) is Kind.NONE:
            continue
        yield DensitySubject(part, space)
        yield DensitySubject(part, space, conditional=True)
        labelled = DensitySubject(part, space, labels=LABELS)
        if takes_labels(part, labelled.slot):
            yield labelled


def _lenders() -> Iterator[Part]:
    for name in registry.names("stage"):
        stage = registry.load("stage", name)
        if issubclass(stage, StagePart) and stage.lends_posterior:
            yield from variants(stage)


@contract()
def values_have_their_shapes(subject: DensitySubject) -> bool:
    """``log_prob`` gives ``(batch,)``; ``sample(n, c)`` gives n items of the space and sends no gradient."""
    whole = subject.module()
    density = subject.own(whole)
    require(density.kind is subject.density.kind(subject.slot), f"declared and built kind differ: {density.kind}")
    for n in (ROWS, 1):
        x, c = subject.inputs(whole, n)
        shape = tuple(density.log_prob(x, c).shape)
        require(shape == (n,), f"log_prob of {n} rows has shape {shape}")
        came = density.sample(n, c)
        check_values(density.space, came, n, f"sample({n})")
        require(not came.requires_grad, "a sample sends a gradient")
    return True


@contract(2)
def mass_is_one_and_samples_are_from_it(subject: DensitySubject) -> bool:
    """E exp L sums to 1 over the space, and ``sample`` draws what ``log_prob`` scores."""
    return calmly(partial(_mass_and_draws, subject))


def _mass_and_draws(subject: DensitySubject, shaken: float) -> bool:
    whole = subject.module(shaken=shaken)
    density = subject.own(whole)
    c = subject.inputs(whole, 1)[1]

    def spread(n: int) -> Tensor | None:
        return None if c is None else c.expand(n, *c.shape[1:])

    def score(x: Tensor) -> Tensor:
        return density.log_prob(x, spread(len(x)))

    if density.kind > Kind.WEIGHT or not measurable(density.space, score, density):
        return False
    check_mass_and_draws(density.space, score, density.sample(DRAWS, spread(DRAWS)))
    return True


@contract(2)
def draws_carry_a_gradient(subject: DensitySubject) -> bool:
    """``rsample_and_log_prob`` scores the item it draws, and both move with the condition as their gradient says."""
    if subject.slot.condition is None or any(subject.part.misfits(replace(subject.slot, use="posterior"))):
        return False
    density, tape = subject.own(subject.module()), Tape()
    c = torch.randn(ROWS, *subject.slot.condition.shape, dtype=torch.float64, requires_grad=True)
    with tape.record():
        z, log_q = density.rsample_and_log_prob(c)
    check_values(density.space, z.detach(), ROWS, "rsample_and_log_prob")
    mostly_same(log_q, density.log_prob(z, c), 1e-9, "the log-probability given with a draw, against its log_prob")
    along = torch.randn_like(c)

    def moved(step: float) -> Tensor:
        with torch.no_grad(), tape.play():
            item, score = density.rsample_and_log_prob(c + step * along)
        return torch.cat([item.flatten(1), score[:, None]], 1)

    weights = torch.randn(ROWS, density.space.dim + 1, dtype=c.dtype)
    (gradient,) = torch.autograd.grad((torch.cat([z.flatten(1), log_q[:, None]], 1) * weights).sum(), c)
    slope = ((moved(1e-6) - moved(-1e-6)) / 2e-6 * weights).sum(1)
    same((gradient * along).flatten(1).sum(1), slope, 1e-5, "a gradient through a draw, against finite differences")
    return True


@contract(2)
def samples_follow_their_conditions(subject: DensitySubject) -> bool:
    """Each sample is drawn under the condition of its own row."""
    whole, tape = subject.module(), Tape()
    density = subject.own(whole)
    if density.condition is None:
        return False
    c, order = draw(density.condition, ROWS), torch.randperm(ROWS)
    with tape.record():
        items = density.sample(ROWS, c)
    with tape.play(order):
        again = density.sample(ROWS, c[order])
    mostly_same(again, items[order], 1e-9, "samples under the same conditions in another order")
    return True


@contract()
def what_is_drawn_is_scored_alike(subject: DensitySubject) -> bool:
    """Step by step, an item is drawn with the log-probability that ``log_prob`` gives it, from any beginning."""
    whole = subject.module()
    density = subject.own(whole)
    if not density.incremental or density.kind is not Kind.EXACT:
        return False
    _, c = subject.inputs(whole, ROWS)
    came, said = density.draw(ROWS, c)
    check_values(density.space, came, ROWS, "draw")
    same(said, density.log_prob(came, c), 1e-9, "the log-probability it was drawn with, against log_prob")
    likeliest, again = (density.draw(ROWS, c, Drawing(top_k=1)) for _ in range(2))
    require(torch.equal(likeliest[0], again[0]), "the likeliest codes differ from draw to draw")
    same(likeliest[1], torch.zeros(ROWS), 1e-9, "the log-probability of what alone may be drawn")
    return True


@contract()
def the_condition_conditions(subject: DensitySubject) -> bool:
    """Every number of the condition moves ``log_prob`` somewhere; labels that differ give values that differ."""
    whole = subject.module()
    density, tape = subject.own(whole), Tape()
    if density.condition is None:
        return False
    x, _ = subject.inputs(whole, 8 * ROWS)
    if isinstance(density.condition, Codes):
        check_labels(density.condition, lambda c: density.log_prob(x, c), len(x), tape)
        return True
    c = draw(density.condition, len(x)).requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x, c).sum(), c)
    silent = int((gradient == 0).all(0).sum())
    require(silent == 0, f"{silent} of the {density.condition.dim} numbers of the condition change nothing")
    return True


@contract()
def closed_forms_are_right(subject: DensitySubject) -> bool:
    """``gaussian(c)`` is the density given c; ``expected_log_prob(q)`` is the integral of ``log_prob`` under q."""
    whole = subject.module()
    density = subject.own(whole)
    x, c = subject.inputs(whole, ROWS)
    if not density.closed_form or (c is None and density.space.dim > 2):
        return False
    if c is None:
        _check_expectation(density)
        return True
    gaussian = density.gaussian(c)
    if gaussian is None:
        raise ContractError("it declares a closed form and gives no Gaussian")
    normal = torch.distributions.Normal(gaussian.loc, gaussian.log_scale.exp())
    same(gaussian.scale, gaussian.log_scale.exp(), 1e-12, "the scale against the log-scale")
    same(density.log_prob(x, c), normal.log_prob(x).flatten(1).sum(1), 1e-9, "log_prob against its Gaussian's")
    same(gaussian.entropy(), normal.entropy().flatten(1).sum(1), 1e-9, "the Gaussian's entropy")
    return True


def _check_expectation(density: Density) -> None:
    loc, log_scale = draw(density.space, ROWS), 0.5 * draw(density.space, ROWS)
    standard = torch.distributions.Normal(0.0, 1.0)

    def integrand(noise: Tensor) -> Tensor:
        items = loc[:, None] + log_scale.exp()[:, None] * noise.unflatten(1, density.space.shape)
        values = density.log_prob(items.flatten(0, 1)).unflatten(0, (ROWS, -1))
        return (values * standard.log_prob(noise).sum(1).exp()).T

    came = density.expected_log_prob(Gaussian(loc, log_scale, log_scale.exp()))
    same(came, integrate(integrand, density.space.dim).value, 1e-6, "expected_log_prob, against the integral")


@contract(None)
def fitting_works(subject: DensitySubject) -> bool:
    """After ``fit`` on items of its edge, what it gives is finite."""
    whole = subject.make().double()
    density = subject.own(whole)
    if not density.needs_fit:
        return False
    below: Space = subject.space if subject.lender is not None else density.space
    density.fit(lambda: iter([draw(below, ROWS), draw(below, ROWS)]))
    value = subject.value(whole, *subject.inputs(whole, ROWS))
    require(bool(value.isfinite().all()), "log_prob is not finite after fit")
    return True


CONTRACTS = (
    values_have_their_shapes,
    mass_is_one_and_samples_are_from_it,
    draws_carry_a_gradient,
    samples_follow_their_conditions,
    what_is_drawn_is_scored_alike,
    the_condition_conditions,
    closed_forms_are_right,
    fitting_works,
)
