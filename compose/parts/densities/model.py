"""A whole model as a part: the closed stack is a density, so it can be a prior or a likelihood of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from torch import nn

from compose.core.declare import Misfit, Part, Slot, part_field
from compose.core.kinds import Kind, weakest
from compose.core.model import ModelDensity
from compose.core.roles import Density, DensityPart, Stage, StagePart
from compose.core.spaces import Codes, Real, Space


class Model(DensityPart):
    """Stages from the data upward, closed by a prior: ``L = sum of all terms``."""

    type: ClassVar[str] = "model"
    source: ClassVar[str] = "the variational bound of a stack: Rezende et al. 2014, arXiv:1401.4082"
    takes: ClassVar[tuple[type, ...]] = (Real, Codes)
    gradient: ClassVar = "none"

    stages: list[part_field("stage")] = []  # type: ignore[valid-type]
    """From the data upward; an empty list leaves the prior alone on the data."""
    prior: part_field("density") = "normal"  # type: ignore[valid-type]
    """The density over the uppermost edge."""

    @property
    def denoises(self) -> bool:
        """Where its prior does."""
        return self.prior.denoises

    @property
    def of_the_bound(self) -> str:
        """That of its prior."""
        return self.prior.of_the_bound

    @property
    def samplers(self) -> tuple[str, ...]:
        """Those of its prior."""
        return self.prior.samplers

    @property
    def links(self) -> int | None:
        """Those of its prior."""
        return self.prior.links

    def features(self, space: Space) -> Real | None:
        """What conditions the whole conditions its prior."""
        for stage in self.stages:
            space = stage.above(space)
        return self.prior.features(space)

    def kind(self, slot: Slot) -> Kind:
        """The weakest kind among stages and prior."""
        return weakest(part.kind(inner) for part, inner in self.nested(slot).values())

    def promise(self, slot: Slot) -> str:
        """What L promises; over latents an estimate is one of a bound."""
        kind = self.kind(slot)
        drawn = any("minus_log_q" in stage.terms() for stage in self.stages)
        return (Kind.BOUND if kind is Kind.ESTIMATE and drawn else kind).promise

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any density; and the class label is taken by a model's parts, never by the model itself."""
        yield from (reason for reason in super().misfits(slot) if reason.key != "labels")
        if self.labels:
            message = (
                f"'{self.type}' hands the class label on to its parts; set 'labels' on the one that is to take it."
            )
            yield Misfit(message, key="labels", swap=False)

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """Each stage stands on what the one below gives; the prior closes the last edge."""
        found: dict[str, tuple[Part, Slot]] = {}
        space, origin, beneath = slot.space, slot.origin, None
        labels = slot.labels if slot.condition is None else None
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, StagePart)
            inner = Slot("stage", space, labels=labels, origin=origin)
            found[f"stages.{i}"] = (stage, inner)
            space, origin = stage.above(space), f"stage '{stage.type}' gives"
            seen = labels if stage.sees_labels() else None
            beneath = replace(inner, labels=seen) if stage.lends_posterior else None
        condition = None if slot.condition is None else self.prior.features(space)
        found["prior"] = (self.prior, Slot("prior", space, condition, labels, origin, beneath))
        return found

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The closed stack."""
        stages = [child for key, child in children.items() if key != "prior"]
        prior = children["prior"]
        assert all(isinstance(stage, Stage) for stage in stages) and isinstance(prior, Density)
        labels = slot.labels if slot.condition is None else None
        whole = ModelDensity(slot.space, stages, prior, self.kind(slot), labels, slot.condition)  # type: ignore[arg-type]
        whole.declared = self
        return whole
