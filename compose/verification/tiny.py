"""A model shrunk to a tiny space of the same kind, with shaken weights, where everything can be counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from compose.core import random
from compose.core.declare import Part, Slot
from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.roles import Mode, StagePart
from compose.core.spaces import Codes, Real, Space
from compose.parts.densities.model import Model
from compose.recipe.check import model_slot
from compose.testing.integrals import (
    CALM,
    DRAWS,
    Integral,
    Measured,
    NoiseOf,
    TooWideError,
    expectation,
    measure,
    over_noise,
)
from compose.testing.subject import draw
from compose.testing.variants import shake, shrunk, spoken

#: Most states times rows of noise that a sum over a tiny space takes: by the numbers of noise to integrate over.
STATES = {0: 100, 1: 100, 2: 20}
#: Most states of codes on all edges together that the evidence is summed over.
MOST_CODES = 4096
WIDTH = 4
KINKS = 2
#: Sides of an image that are tried until every stage fits.
SIDES = (2, 4, 8, 16)
MODES: tuple[Mode, ...] = ("path", "kl")
#: How far weights are shaken where sums are exact: then what a part makes of its input shows.
STRONG = 3.0
#: Where shaken weights take a draw at most, beside which integrals would lose mass.
FAR = 25.0
FAR_DRAWS = 4000
#: Why nothing about L is checked of a model without one.
IMPLICIT = "the model is implicit, so there is no L"


@dataclass(frozen=True)
class Tiny:
    """A declared model on a tiny space.

    Args:
        part: Its shrunk declaration.
        space: What one datum is.
        labels: Space of the class label; none where there is none.
        seed: Of weights and draws.
        rich: The same where nothing has to be summed, and so on a larger space; none where it is that already.
        without: Key paths of stages that were left out, since they do not fit on so small a space.
        shaken: How far weights are shaken for what is summed and integrated.
    """

    part: Model
    space: Space
    labels: Codes | None = None
    seed: int = 0
    rich: Tiny | None = None
    without: tuple[str, ...] = ()
    shaken: float = CALM

    @property
    def slot(self) -> Slot:
        """The slot of the whole model."""
        return model_slot(self.space, self.labels)

    def walk(self) -> Iterator[tuple[str, Part, Slot]]:
        """Every part with its key path and its slot."""
        return self.part.walk(self.slot)

    @property
    def fits(self) -> bool:
        """Whether every part fits its slot."""
        return not _misfit(self.part, self.slot)

    @property
    def roomy(self) -> bool:
        """Whether codes stand beside others on every edge of codes, so that order matters, and few states in all."""
        edges = [slot.space for slot in self._edges() if isinstance(slot.space, Codes)]
        return (
            all(space.dim > 1 for space in edges)
            and math.prod(space.size**space.dim for space in edges[1:]) <= MOST_CODES
        )

    @property
    def discrete(self) -> bool:
        """Whether there are codes on every edge and no noise, so that sums are exact however narrow a peak is."""
        return not self.noise and all(isinstance(slot.space, Codes) for slot in self._edges())

    def _edges(self) -> Iterator[Slot]:
        """The slot of what stands on each edge, from the data upward; a model that closes another is laid open."""
        for part, slot in self.part.nested(self.slot).values():
            if isinstance(part, Model):
                yield from replace(self, part=part, space=slot.space)._edges()
            else:
                yield slot

    @property
    def key(self) -> tuple[str, str, str]:
        """What two recipes share that shrink to the same thing."""
        return str(self), str(self.rich), str(self.labels)

    def build(self, shaken: float = 1.0, training: bool = False) -> ModelDensity:
        """The model in float64; weights are drawn anew, or fresh networks would hide what is wrong."""
        with random.region(self.seed, "verify", "weights"):
            model = self.part.build(self.slot).double()
            assert isinstance(model, ModelDensity)
            shake(model, shaken)
        return model.train(training)

    @cached_property
    def model(self) -> ModelDensity:
        """The model that is summed and integrated.

        It is shaken half as far, or stacked splines make spikes that no grid finds; and less where draws go farther out
        than noise in float64 comes: a uniform number behind a logit ends at 37.
        """
        shaken = self.shaken
        while True:
            model = self.build(shaken)
            if shaken < 0.05 or self._farthest(model) < FAR:
                return model
            shaken /= 2

    @torch.no_grad()
    def _farthest(self, model: ModelDensity) -> float:
        """The largest number on any edge, over many draws from the top down."""
        label, far = self._label(model, FAR_DRAWS), 0.0
        with random.region(self.seed, "verify", "reach"):
            z = model.prior.sample(FAR_DRAWS, label if model.prior.condition is not None else None)
            for stage in reversed(model.stack):
                far = max(far, float(z.abs().max()))
                z = stage.generate(z, label if model.by_label else None)
        return far

    @cached_property
    def items(self) -> Tensor:
        """Every state of a space of few codes; some items of any other."""
        if isinstance(self.space, Real) or self.space.size**self.space.dim > MOST_CODES:
            with random.region(self.seed, "verify", "items"):
                return draw(self.space, 24)
        axis = torch.arange(self.space.size)
        return torch.cartesian_prod(*[axis] * self.space.dim).reshape(-1, *self.space.shape)

    def data(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Random data with labels."""
        return draw(self.space, n), None if self.labels is None else draw(self.labels, n)

    def label(self, n: int) -> Tensor | None:
        """The label that everything is conditioned on, ``n`` times."""
        return self._label(self.model, n)

    def _label(self, model: ModelDensity, n: int) -> Tensor | None:
        return None if model.condition is None else torch.ones(n, dtype=torch.long)

    def score(self, x: Tensor, mode: Mode = "path") -> Tensor:
        """L of each row, in nats."""
        return self.model.log_prob(x, self.label(len(x)), mode)

    def computed(self, model: ModelDensity, x: Tensor, c: Tensor | None, mode: Mode = "path") -> Tensor:
        """A number of each row that says what the model computes: L, or without a likelihood a sum over what it draws.

        Args:
            model: One of this declaration.
            x: Data; without a likelihood only their number counts.
            c: Labels.
            mode: As of ``log_prob``.
        """
        return model.log_prob(x, c, mode) if self.scored else model.meet(x, c)[1].flatten(1).sum(1)

    @property
    def scored(self) -> bool:
        """Whether the model has a likelihood."""
        return self.part.kind(self.slot) is not Kind.NONE

    @cached_property
    def noise(self) -> int:
        """How many numbers are drawn to score a row."""
        if not self.scored:
            return 0
        # However far it is shaken, which takes many draws to find.
        model, x = self.build(self.shaken), self.items[:1]
        return sum(NoiseOf.found(lambda some: model.log_prob(some, self._label(model, len(some))), x).sizes)

    @property
    def countable(self) -> bool:
        """Whether sums and integrals over the space, noise included, are within reach without points at random."""
        if self.solved:
            return self.noise + (self.space.dim if isinstance(self.space, Real) else 0) <= 1
        if isinstance(self.space, Codes):
            return self.noise in STATES and self.space.size**self.space.dim <= STATES[self.noise]
        return self.space.dim + self.noise <= 2

    @property
    def solved(self) -> bool:
        """Whether L is found in many small steps: then an integral over two numbers would take minutes."""
        return any(getattr(part, "solved", False) for _, part, _ in self.part.walk(self.slot))

    @property
    def summable(self) -> bool:
        """As ``countable``; or few codes with much noise, which is drawn: then the tolerance is a standard error."""
        few = isinstance(self.space, Codes) and self.space.size**self.space.dim <= STATES[2]
        return self.countable or (few and self.noise > 2 and not self.solved)

    @property
    def why_uncountable(self) -> str:
        """The reason, where sums are out of reach."""
        return f"no tiny space of this kind can be summed: {self.space}, with {self.noise} numbers of noise a datum"

    @cached_property
    def measured(self) -> Measured | None:
        """The sum of ``E exp L`` over the space, and draws against it; none where the noise leaves it too wide."""
        with random.region(self.seed, "verify", "draws"), suppress(TooWideError):
            return measure(self.space, self.score, self.model.sample(DRAWS, self.label(DRAWS)))
        return None

    @cached_property
    def mean(self) -> Integral:
        """``E L`` of each item, by integration over the noise."""
        return expectation(self.score, self.items) if self.noise <= 2 else self._means[0]

    @cached_property
    def mean_weight(self) -> Integral:
        """``E exp L`` of each item, by integration over the noise."""
        if self.noise > 2:
            return self._means[1]
        return over_noise(self.score, self.items, lambda values, log_density: (values + log_density).exp())

    @cached_property
    def _means(self) -> tuple[Integral, Integral]:
        """Both from the same points: where many are scattered, most of the time goes into scoring them."""

        def weigh(values: Tensor, log_density: Tensor) -> Tensor:
            return torch.cat([values * log_density.exp(), (values + log_density).exp()], 1)

        both = over_noise(self.score, self.items, weigh)
        n = len(self.items)
        return Integral(both.value[:n], both.error[:n]), Integral(both.value[n:], both.error[n:])

    def __str__(self) -> str:
        labels = "" if self.labels is None else f", labels {self.labels}"
        without = f", without {', '.join(self.without)}, which fit on nothing so small" if self.without else ""
        return f"{spoken(self.part)} on {self.space}{labels}{without}"


def apart(came: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to ``1 + |wanted|``; of what is not finite, infinite."""
    gap = (came.detach().double() - wanted.detach().double()).abs() / (1 + wanted.detach().double().abs())
    return float(torch.nan_to_num(gap, nan=torch.inf).max())


def shrink(model: Model, space: Space, labels: Codes | None = None, seed: int = 0) -> Tiny:
    """A tiny model of the same kind: the largest that can be counted, else the smallest that fits.

    A latent has at most 2 numbers, an image 1 x 2 x 2 pixels of 3 levels, and less where sums need it; widths, layers
    and components are at most 4, and 2 where noise is integrated out: each unit is a kink. Where stages need larger
    images, as many squeezes do, those that fit on no small one are left out for the sums, and only for these.
    """
    few = None if labels is None else replace(labels, size=min(labels.size, 3))
    sizes = partial(_sizes, model, space, few, seed)
    fitting = [tiny for tiny in sizes(KINKS) if tiny.fits] or _most_whole(sizes(KINKS, leave_out=True))
    if not fitting:
        # Nothing can be summed then; the rest is checked on as few numbers as it fits on.
        larger = (tiny for side in SIDES for tiny in sizes(KINKS, side) if tiny.fits)
        return next(larger, Tiny(model, space, labels, seed))
    # Kinks matter to integrals alone.
    whole = next((tiny for tiny in sizes(WIDTH) if tiny.fits and tiny.roomy and tiny.discrete and tiny.countable), None)
    # Where noise cannot be integrated cell by cell, narrow peaks would be missed by points.
    counted = replace(whole, shaken=STRONG) if whole else _first_roomy(tiny for tiny in fitting if tiny.countable)
    if counted is None or not counted.roomy:
        drawn = next((tiny for tiny in reversed(fitting) if tiny.summable and tiny.roomy), None)
        counted = replace(drawn or fitting[-1], shaken=CALM / 2) if drawn or counted is None else counted
    return replace(counted, rich=_first_roomy(tiny for side in SIDES for tiny in sizes(WIDTH, side) if tiny.fits))


def _first_roomy(found: Iterable[Tiny]) -> Tiny | None:
    """The first with room on every edge; else the first."""
    first = None
    for tiny in found:
        if tiny.roomy:
            return tiny
        first = first or tiny
    return first


def _most_whole(found: Iterable[Tiny]) -> list[Tiny]:
    """Those that fit and leave out the fewest stages."""
    fitting = [tiny for tiny in found if tiny.fits]
    fewest = min((len(tiny.without) for tiny in fitting), default=0)
    return [tiny for tiny in fitting if len(tiny.without) == fewest]


def _sizes(
    model: Model,
    space: Space,
    labels: Codes | None,
    seed: int,
    width: int,
    side: int = SIDES[0],
    leave_out: bool = False,
) -> Iterator[Tiny]:
    """From the richest: a latent of 1 or pixels of 2 levels would hide the most."""
    for dim in (2, 1):
        for small in _spaces(space, side):
            part, without = _smaller(model, small, dim, width, labels, leave_out)
            yield Tiny(part, small, labels, seed, without=tuple(without))


def _spaces(space: Space, side: int) -> Iterator[Space]:
    """Sides of this length on the last two axes, on the last one, on none."""
    axes = len(space.shape)
    shapes = [
        tuple(min(length, side if i >= axes - kept else 1) for i, length in enumerate(space.shape))
        for kept in (2, 1, 0)
    ]
    if isinstance(space, Real):
        yield from (Real(shape) for shape in shapes)
    else:
        yield from (replace(space, shape=shape, size=min(space.size, size)) for size in (3, 2) for shape in shapes)


def _least(value: Any, dim: int) -> Any:
    """Whole numbers at most ``dim``; of a list of sizes the uppermost ``dim + 1``, or noise could not be summed."""
    if isinstance(value, list):
        return [
            [_least(side, dim) for side in item] if isinstance(item, list) else _least(item, dim) for item in value
        ][-dim - 1 :]
    return min(value, dim) if type(value) is int else value


def _misfit(part: Part, slot: Slot) -> bool:
    return any(True for _, inner, place in part.walk(slot) for _ in inner.misfits(place))


def _smaller(
    model: Model, space: Space, dim: int, width: int, labels: Codes | None, leave_out: bool, path: str = ""
) -> tuple[Model, list[str]]:
    """Every number at most ``width``, and those that a stage's space above depends on at most ``dim``.

    Stages that do not fit on the space that comes to them are left out, if they may be, and named.
    """
    part = shrunk(model, width)
    assert isinstance(part, Model)
    stages, without = [], []
    for i, stage in enumerate(part.stages):
        assert isinstance(stage, StagePart)
        for name in type(stage).model_fields:
            less = stage.model_copy(update={name: _least(getattr(stage, name), dim)})
            stage = less if less.above(space) != stage.above(space) else stage
        if leave_out and _misfit(stage, Slot("stage", space, labels=labels)):
            without.append(f"{path}stages.{i} ({stage.type})")
            continue
        stages.append(stage)
        space = stage.above(space)
    prior = part.prior
    if isinstance(prior, Model):
        prior, more = _smaller(prior, space, dim, width, labels, leave_out, f"{path}prior.")
        without += more
    return part.model_copy(update={"stages": stages, "prior": prior}), without
