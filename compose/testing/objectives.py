"""Contracts of objectives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from compose.core import random, registry
from compose.core.declare import ObjectivePart, Part, Slot, as_real
from compose.core.kinds import Kind
from compose.core.objective import Loss, Objective
from compose.core.roles import DensityPart, takes_labels
from compose.core.spaces import Codes, Real, Space
from compose.nets.mlp import MLPNet
from compose.parts.densities.model import Model
from compose.testing.contract import contract, require
from compose.testing.integrals import CALM
from compose.testing.subject import LABELS, ROWS, Subject, draw
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

    @property
    def one_sided(self) -> bool:
        """Whether the objective trains one side of an edge."""
        assert isinstance(self.part, ObjectivePart)
        return self.part.one_sided

    def reached(self, model: Any) -> dict[str, torch.nn.Parameter]:
        """The parameters that a gradient comes to, by name."""
        assert isinstance(self.part, ObjectivePart)
        parts = ("stages",) if self.one_sided else self.part.reaches
        return {name: value for name, value in model.named_parameters() if name.split(".")[0] in parts}

    def built(self, seed: int = 0) -> Any:
        """The model with shaken weights, in float64; calmly shaken where what comes down might saturate."""
        with random.region(seed, "contract", "weights"):
            model = self.model.build(Slot("prior", self.space, labels=self.labels)).double()
            return shake(model, CALM if self.one_sided else 1.0)

    def loss(self, model: Any, step: int) -> Loss:
        """What the objective says of some random data."""
        c = None if model.condition is None else draw(self.labels or LABELS, ROWS)
        objective = shake(self.part.build(self.slot).double())
        assert isinstance(objective, Objective)
        if objective.perceives:
            takes = as_real(self.space)
            objective.receive(shake(MLPNet(takes, Real((4,)), [8], "relu").double()))
        return objective(model, draw(self.space, ROWS), c, step)

    def __str__(self) -> str:
        return f"{super().__str__()} of {self.model.model_dump()}"


def candidates(part: ObjectivePart) -> Iterator[ObjectiveSubject]:
    """Every prior alone and over every stage, wherever the two fit; for what trains one side, one a space will do."""
    priors = ["normal", "categorical"] if part.one_sided else registry.names("density")
    for space in SPACES:
        for stages in ([], *([name] for name in registry.names("stage"))):
            for prior in priors:
                model = shrunk(Model.model_validate({"stages": stages, "prior": prior}), 8)
                for labels in (None, LABELS):
                    slot = Slot("prior", space, labels=labels)
                    walked = list(model.walk(slot))
                    # Of a single code there is no order, and what a prior makes of earlier ones trains nowhere.
                    top = model.nested(slot)["prior"][1].space
                    if isinstance(top, Codes) and top.dim < 2:
                        continue
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
        require(bool(loss.ledger.terms or loss.ledger.penalties), "the ledger is empty")
    return True


@contract()
def gradient_reaches_the_model(subject: ObjectiveSubject) -> bool:
    """Every parameter of the model has a finite gradient that is not zero everywhere; or some have, of what trains
    one side of an edge."""
    reached: dict[str, bool] = {}
    for seed in range(5):  # one set of shaken weights can cut a part off
        model = subject.built(seed)
        found = subject.reached(model)
        if not found:
            return False
        subject.loss(model, 10**6).value.backward()
        for name, parameter in found.items():
            gradient = torch.zeros(()) if parameter.grad is None else parameter.grad
            reached[name] = reached.get(name, False) or bool((gradient != 0).any())
            require(bool(gradient.isfinite().all()), f"the gradient of model.{name} is not finite")
        if all(reached.values()) or (subject.one_sided and any(reached.values())):
            return True
    require(
        subject.one_sided and any(reached.values()), f"no gradient reaches {[k for k in reached if not reached[k]]}"
    )
    return True


@contract()
def a_rival_descends_alone(subject: ObjectiveSubject) -> bool:
    """The loss of a rival is a finite scalar whose gradient reaches all of its weights, and nothing of the model."""
    model = subject.built()
    objective = shake(subject.part.build(subject.slot).double())
    assert isinstance(objective, Objective)
    if objective.rival is None:
        return False
    c = None if model.condition is None else draw(subject.labels or LABELS, ROWS)
    loss = objective.rival_loss(model, draw(subject.space, ROWS), c, 0)
    require(loss.value.shape == () and bool(loss.value.isfinite()), f"the rival's loss is {loss.value}")
    loss.value.backward()
    for name, parameter in objective.named_parameters():
        require(parameter.grad is not None, f"no gradient reaches the rival's {name}")
    for name, parameter in model.named_parameters():
        require(parameter.grad is None, f"the rival's loss sends a gradient to model.{name}")
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


CONTRACTS = (
    losses_are_finite_scalars,
    gradient_reaches_the_model,
    a_rival_descends_alone,
    kinds_are_refused_from_one_on,
)
