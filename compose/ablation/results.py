"""What came of an ablation: the numbers of each cell, which of them compare, and what each change did."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from compose.ablation.folder import Folder
from compose.ablation.guard import alike, of_other_things
from compose.ablation.measure import MEASURES, SPLIT
from compose.ablation.plan import Plan, Planned
from compose.ablation.statistics import Effect, paired
from compose.core.kinds import Kind
from compose.run.directory import Run


@dataclass(frozen=True)
class Scored:
    """What a finished training says of itself.

    Args:
        label: Of its variant, or the name of its run.
        seed: Its seed.
        run: Its directory.
        scores: What ``scores.json`` holds.
        trained: Seconds of training.
    """

    label: str
    seed: int
    run: Run
    scores: dict[str, Any]
    trained: float

    @property
    def split(self) -> dict[str, Any]:
        """The ledger of the test split; empty where there is no likelihood."""
        return self.scores["splits"].get(SPLIT, {})

    @property
    def protocol(self) -> dict[str, Any]:
        """What its scores are of; empty where there is no likelihood."""
        return self.split.get("protocol", {})

    @property
    def own_seconds(self) -> float:
        """Seconds of training, less those of a first phase that was taken over."""
        return self.run.training_seconds(self.run.record.get("begun", {}).get("phase", 0))

    @property
    def kind(self) -> Kind:
        """What its L promises."""
        return Kind[self.scores["kind"].upper()]

    @property
    def warnings(self) -> list[str]:
        """What is unhealthy in it."""
        found = [record["warning"] for record in self.scores["health"] if "warning" in record]
        return [*found, *self.scores["warnings"]]

    def number(self, measure: str) -> float | None:
        """One of ``MEASURES``, or none where it has none."""
        return MEASURES[measure].of(self.scores)

    def of_examples(self, measure: str) -> Any:
        """A number of every test example, ``(n,)``."""
        from safetensors.numpy import load_file

        return load_file(self.run.path / "scores.safetensors")[f"{SPLIT}/{measure}"]


@dataclass(frozen=True)
class Outcome:
    """A variant with its finished trainings, set against the base.

    Args:
        planned: The variant.
        scored: Its trainings that came to their end, by seed.
        failed: The error of each training that failed, by seed.
        effects: What the change did, by measure; empty for the base, and where nothing compares.
        apart: Why its scores are of other things than the base's; empty where they compare.
        blank: Why a measure that it has is not compared, by measure.
    """

    planned: Planned
    scored: dict[int, Scored]
    failed: dict[int, str]
    effects: dict[str, Effect]
    apart: list[tuple[str, str, str]]
    blank: dict[str, str]

    @property
    def label(self) -> str:
        """Of its variant."""
        return self.planned.label

    @property
    def first(self) -> Scored | None:
        """The training of its first seed; none where none is finished."""
        return next(iter(self.scored.values()), None)

    def mean(self, measure: str) -> float | None:
        """The mean of a measure over the seeds; none where one of them has none."""
        return _mean([each.number(measure) for each in self.scored.values()])

    def spread(self, measure: str) -> float | None:
        """Its standard deviation over the seeds; none for fewer than two."""
        numbers = [each.number(measure) for each in self.scored.values()]
        found = [number for number in numbers if number is not None]
        return statistics.stdev(found) if len(found) > 1 and len(found) == len(numbers) else None

    def view(self, name: str) -> float | None:
        """The mean of ``distortion``, or of all rates together as ``rate``."""
        return _mean([_view(each.split, name) for each in self.scored.values()])

    @property
    def warned(self) -> list[int]:
        """The seeds whose trainings have a warning."""
        return [seed for seed, each in self.scored.items() if each.warnings]

    @property
    def trained(self) -> float | None:
        """Mean seconds of training."""
        return _mean([each.trained for each in self.scored.values()])


@dataclass(frozen=True)
class Results:
    """Trainings set side by side.

    Args:
        plan: What was to be compared.
        outcomes: What came of each variant, the base first.
        missing: Label and seed of the trainings that have not ended.
    """

    plan: Plan
    outcomes: list[Outcome]
    missing: list[tuple[str, int]]

    @property
    def base(self) -> Outcome:
        """What all others are set against."""
        return self.outcomes[0]

    @property
    def judged_by(self) -> str:
        """The measure that answers the question."""
        if self.plan.judged_by:
            return self.plan.judged_by
        wanted = ("-ELBO", "modes found", "Frechet distance", "seconds a sample")
        return next((name for name in wanted if self.base.mean(name) is not None), wanted[0])

    def effects(self) -> Iterator[tuple[Outcome, Effect]]:
        """What each change did to the measure that answers."""
        for outcome in self.outcomes[1:]:
            if (effect := outcome.effects.get(self.judged_by)) is not None:
                yield outcome, effect


@dataclass(frozen=True)
class Study(Results):
    """What came of an ablation.

    Args:
        folder: Where it lies.
    """

    folder: Folder


def results_of(folder: Folder, without: Collection[str] = ()) -> Study:
    """All that is finished in the folder of an ablation.

    Args:
        folder: Of the ablation.
        without: Addresses of cells that count as not ended.
    """
    plan = folder.plan
    scored: dict[str, dict[int, Scored]] = {variant.label: {} for variant in plan.variants}
    failed: dict[str, dict[int, str]] = {variant.label: {} for variant in plan.variants}
    missing = []
    for address, label, seed in plan.cells:
        record = folder.record(address)
        if record is None or address in without:
            missing.append((label, seed))
        elif record["state"] == "failed":
            failed[label][seed] = record["error"]
        else:
            run = folder.run(address)
            scored[label][seed] = Scored(label, seed, run, run.scores(), record["trained"])
    return Study(plan, set_against(plan.variants, scored, failed), missing, folder)


def set_against(
    variants: list[Planned], scored: dict[str, dict[int, Scored]], failed: dict[str, dict[int, str]]
) -> list[Outcome]:
    """Every variant against the first one.

    Args:
        variants: The base first.
        scored: Their trainings by label and seed.
        failed: The errors of those that failed.
    """
    base = scored[variants[0].label]
    found = []
    for index, variant in enumerate(variants):
        effects, apart, blank = against(scored[variant.label], base) if index else ({}, [], {})
        found.append(Outcome(variant, scored[variant.label], failed.get(variant.label, {}), effects, apart, blank))
    return found


def against(
    changed: Mapping[int, Scored], base: Mapping[int, Scored]
) -> tuple[dict[str, Effect], list[tuple[str, str, str]], dict[str, str]]:
    """What a change did, measure by measure; why the two are of different things; and what is not compared, and why.

    Args:
        changed: Trainings by seed.
        base: Those they are set against.
    """
    if not changed or not base:
        return {}, [], {}
    # Runs of one recipe may have been scored otherwise, or of other files: each pair has to compare.
    pairs = [(changed[seed], base[seed]) for seed in changed if seed in base]
    pairs = pairs or [(next(iter(changed.values())), next(iter(base.values())))]
    apart = next((found for pair in pairs if (found := _apart(*pair))), [])
    effects: dict[str, Effect] = {}
    blank: dict[str, str] = {}
    for measure, told in MEASURES.items():
        both = [pair for pair in pairs if all(each.number(measure) is not None for each in pair)]
        if not both:
            continue
        if why := next((why for pair in both if (why := _incomparable(measure, *pair, bool(apart)))), ""):
            blank[measure] = why
            continue
        numbers = _numbers(changed, measure), _numbers(base, measure)
        effect = paired(measure, *numbers, told.less_is_better, told.step)
        if effect is not None:
            effects[measure] = effect
    return effects, apart, blank


def _apart(one: Scored, other: Scored) -> list[tuple[str, str, str]]:
    """Why two trainings were scored on different things; empty where they were not, or one has no likelihood."""
    return of_other_things(other.protocol, one.protocol) if one.protocol and other.protocol else []


def _incomparable(measure: str, one: Scored, other: Scored, apart: bool) -> str:
    """Why a measure of two trainings does not compare; empty where it does."""
    if MEASURES[measure].by_example:
        if apart:
            return "of other data or conditioning"
        if Kind.ESTIMATE in (one.kind, other.kind) and one.kind != other.kind:
            return "one of the two is an estimate, which may lie on either side"
        if measure == "NLL" and (one.kind, one.split["K"]) != (other.kind, other.split["K"]):
            return f"estimated otherwise: {_estimated(one)} beside {_estimated(other)}"
        return ""
    if measure == "codes used":
        return "of other data or conditioning" if apart else ""
    _, group, _ = MEASURES[measure].at
    if alike(one.scores["measures"][group], other.scores["measures"][group]):
        return ""
    return "measured otherwise"


def _estimated(scored: Scored) -> str:
    return "exact" if scored.kind is Kind.EXACT else f"{scored.kind}, K = {scored.split['K']}"


def _numbers(of: Mapping[int, Scored], measure: str) -> dict[int, Any]:
    """By seed: the number of every example where it is a mean over them, else the number."""
    by_example = MEASURES[measure].by_example
    found = {seed: each.of_examples(measure) if by_example else each.number(measure) for seed, each in of.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _view(split: Mapping[str, Any], name: str) -> float | None:
    views = split.get("views")
    if not views:
        return None
    if name == "distortion":
        return views.get("distortion")
    rates = [value for view, value in views.items() if view.startswith("rate")]
    return sum(rates) if rates else None


def _mean(numbers: list[float | None]) -> float | None:
    found = [number for number in numbers if number is not None]
    return statistics.mean(found) if found and len(found) == len(numbers) else None
