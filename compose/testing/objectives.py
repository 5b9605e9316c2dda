"""Contracts of objectives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from compose.core import random, registry
from compose.core.declare import ObjectivePart, Part, Slot
from compose.core.kinds import Kind
from compose.core.objective import Loss
from compose.core.roles import DensityPart
from compose.core.spaces import Codes, Real, Space
from compose.parts.densities.model import Model
from compose.testing.contract import contract, require
from compose.testing.subject import LABELS, ROWS, Subject, draw, takes_labels
from compose.testing.variants import shake, shrunk

SPACES: tuple[Space, ...] = (Real((2,)), Codes((1, 2, 2), 2), Codes((2,), 3, ordered=False))


@dataclass(frozen=True)
class ObjectiveSubject(Subject):
    """An objective on a model.

    Args:
        model: The model's declaration; it describes ``space``.
        labels: Class labels that the data give.
    """

    model: Part
    labels: Codes | None = None

    @property
    def slot(self) -> Slot:
        """The objective's slot."""
        return Slot("objective", self.space, labels=self.labels, model=self.model)

    def built(self) -> Any:
        """The model with shaken weights, in float64."""
        with random.region(0, "contract", "weights"):
            return shake(self.model.build(Slot("prior", self.space, labels=self.labels)).double())

    def loss(self, model: Any, step: int) -> Loss:
        """What the objective says of some random data."""
        c = None if model.condition is None else draw(self.labels or LABELS, ROWS)
        return self.part.build(self.slot)(model, draw(self.space, ROWS), c, step)

    def __str__(self) -> str:
        return f"{super().__str__()} of {self.model.model_dump()}"


def candidates(part: ObjectivePart) -> Iterator[ObjectiveSubject]:
    """Every prior alone and over every stage alone, wherever the two fit."""
    for space in SPACES:
        for stages in ([], *([name] for name in registry.names("stage"))):
            for prior in registry.names("density"):
                model = shrunk(Model.model_validate({"stages": stages, "prior": prior}), 8)
                for labels in (None, LABELS):
                    slot = Slot("prior", space, labels=labels)
                    walked = model.walk(slot)
                    if labels is not None and not takes_labels(model, slot):
                        continue
                    if not any(list(inner.misfits(place)) for _, inner, place in walked):
                        yield ObjectiveSubject(part, space, model, labels)


@contract()
def losses_are_finite_scalars(subject: ObjectiveSubject) -> bool:
    """At the first and at a late step, the loss is a finite number beside the ledger it was made of."""
    model = subject.built()
    for step in (0, 10**6):
        loss = subject.loss(model, step)
        require(loss.value.shape == (), f"the loss has shape {tuple(loss.value.shape)}, wanted a scalar")
        require(bool(loss.value.isfinite()), f"the loss is {loss.value}")
        require(bool(loss.ledger.terms), "the ledger is empty")
    return True


@contract()
def gradient_reaches_the_model(subject: ObjectiveSubject) -> bool:
    """Every parameter of the model has a finite gradient that is not zero everywhere."""
    model = subject.built()
    if not list(model.parameters()):
        return False
    subject.loss(model, 10**6).value.backward()
    for name, parameter in model.named_parameters():
        gradient = torch.zeros(()) if parameter.grad is None else parameter.grad
        require(bool((gradient != 0).any()), f"no gradient reaches model.{name}")
        require(bool(gradient.isfinite().all()), f"the gradient of model.{name} is not finite")
    return True


class _Promising(DensityPart):
    """Stands for a model of some kind."""

    type: ClassVar[str] = "promising"
    takes: ClassVar[tuple[type, ...]] = (Real, Codes)

    promises: int = 0
    """The kind."""

    def kind(self, slot: Slot) -> Kind:
        """As told."""
        return Kind(self.promises)


@contract(None)
def kinds_are_refused_from_one_on(subject: ObjectiveSubject) -> bool:
    """A model refused for its kind is told its kind, and every weaker kind is refused as well."""
    slots = {kind: replace(subject.slot, model=_Promising(promises=kind)) for kind in Kind}
    refused = {kind: [reason.message for reason in subject.part.misfits(slot)] for kind, slot in slots.items()}
    if refused[Kind.EXACT]:
        return False
    for kind in Kind:
        if refused[kind]:
            require(
                str(kind) in " ".join(refused[kind]) or kind is Kind.NONE,
                f"{refused[kind]} does not name the kind {kind}",
            )
            taken = [str(weaker) for weaker in Kind if weaker > kind and not refused[weaker]]
            require(not taken, f"a model of kind {kind} is refused, and the weaker {' and '.join(taken)} taken")
    return True


CONTRACTS = (losses_are_finite_scalars, gradient_reaches_the_model, kinds_are_refused_from_one_on)
