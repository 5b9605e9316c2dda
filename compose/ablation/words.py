"""Numbers and findings as people read them: an effect with its intervals, a direction, or "not shown"."""

from __future__ import annotations

from compose.ablation.measure import MEASURES
from compose.ablation.results import Outcome, Results
from compose.ablation.statistics import Effect, Interval
from compose.recipe.recipe import Phase, Recipe

_DIRECTIONS = {"lower": "Lower", "higher": "Higher", "not shown": "No difference is shown"}


def number(value: float | None, measure: str, signed: bool = False) -> str:
    """A value of a measure with as many digits as it deserves; empty for none."""
    if value is None:
        return ""
    sign, digits = "+" if signed else "", MEASURES[measure].digits
    return f"{value:{sign}.2e}" if digits is None else f"{value:{sign}.{digits}f}"


def unit(measure: str) -> str:
    """What a measure is in, with a space before it; empty where it has no unit."""
    return MEASURES[measure].unit


def interval(found: Interval | None, measure: str) -> str:
    """``[low, high]``; empty for none."""
    return "" if found is None else f"[{number(found[0], measure, True)}, {number(found[1], measure, True)}]"


def said(effect: Effect) -> str:
    """An effect with its intervals: ``-1.64 nats [-2.10, -1.20] over examples, [-2.3, -0.9] over 5 seeds``."""
    parts = []
    if effect.examples is not None:
        parts.append(f"{interval(effect.examples, effect.measure)} over examples")
    if effect.seeds is not None:
        parts.append(f"{interval(effect.seeds, effect.measure)} over {len(effect.per_seed)} seeds")
    between = " " + ", ".join(parts) if parts else "; of one seed there is no interval"
    return f"{number(effect.value, effect.measure, True)}{unit(effect.measure)}{between}"


def answer(results: Results) -> str:
    """The answer to the question in a sentence or two, with every effect of the deciding measure and its intervals."""
    measure, base = results.judged_by, results.base
    if base.first is None:
        return f"No training of the base ({base.label}) is finished, so nothing is set against it yet."
    if base.mean(measure) is None:
        has = ", ".join(name for name in MEASURES if base.mean(name) is not None)
        return f"{base.label} has no {measure}, so nothing can be set against it; judged_by may be {has}."
    compared = list(results.effects())
    about = base.first.kind.tilde if MEASURES[measure].by_example else ""
    value = f"{measure} {about}{number(base.mean(measure), measure)}{unit(measure)}"
    where = f"{base.label} ({value} on the {MEASURES[measure].split} split, {_seeds(base)})"
    if not compared:
        return f"Beside {where} nothing is finished that compares."
    found = [f"Set against {where}"]
    for direction, word in _DIRECTIONS.items():
        those = [pair for pair in compared if pair[1].direction == direction]
        each = [
            f"{outcome.label} ({said(effect)})" for outcome, effect in sorted(those, key=lambda pair: pair[1].value)
        ]
        found += [f"{word}: {'; '.join(each)}"] if each else []
    return ". ".join(found) + "."


def headline(results: Results) -> str:
    """The shortest true answer: the largest shown gain, or that none is shown."""
    gains = [(outcome, effect) for outcome, effect in results.effects() if effect.gain]
    compared = len(list(results.effects()))
    if not compared:
        return "Nothing can be compared yet."
    measure = results.judged_by
    of = "" if all(effect.seeds for _, effect in results.effects()) else ", in these very trainings"
    if not gains:
        return f"No change is shown to improve {measure}{of} ({compared} set against {results.base.label})."
    best, effect = max(gains, key=lambda pair: abs(pair[1].value))
    more = f"; {len(gains)} of {compared} changes are shown to improve it" if compared > 1 else ""
    return f"{best.label} changes {measure} most to the good: {said(effect)}, against {results.base.label}{more}{of}."


def cautions(results: Results) -> list[str]:
    """What a reader of the numbers should know."""
    found = []
    compared = list(results.effects())
    if any(effect.seeds is None for _, effect in compared):
        found.append(
            "A change with one seed has an interval over test examples alone: nothing is said of another training."
        )
    if len(compared) > 1:
        found.append(
            f"{len(compared)} changes are set against one base, each with 95 % intervals: of changes that do nothing, "
            "about one in twenty would leave 0 out of each by chance."
        )
    base = results.base
    strangers = [each for each in results.outcomes[1:] if each.scored and not each.scored.keys() & base.scored.keys()]
    if base.scored and strangers:
        who, seeds = ", ".join(each.label for each in strangers), ", ".join(map(str, base.scored))
        found.append(
            f"{who}: no seed in common with {base.label} ({seeds}), and trainings are compared seed by seed. "
            f"Train with seed={next(iter(base.scored))}, or more seeds of the base."
        )
    kinds = sorted({outcome.first.kind for outcome in results.outcomes if outcome.first is not None})
    if len(kinds) > 1:
        said = ", ".join(map(str, kinds))
        found.append(f"What L promises differs ({said}): an exact value and a bound differ by the bound's gap too.")
    return found


def training_said(recipe: Recipe) -> str:
    """What is trained when: ``model``; or ``model.stages.0, then model.prior``, the rest frozen meanwhile."""
    phases = (" and ".join(path for player in phase.players for path in player.trains) for phase in recipe.train)
    return ", then ".join(phases)


def freezing(results: Results) -> str:
    """Whether a frozen or a joint comparison was asked; the two are different questions."""
    trained = {training_said(each.with_seed(0)) for each in results.plan.variants}
    if len(trained) > 1:
        return "The variants train different parts in turn (below), so their difference is also that of how they train."
    how, phases = trained.pop(), results.plan.variants[0].with_seed(0).train
    if any(map(_holds_still, phases, phases[1:])):
        return f"A frozen comparison: each trains {how}, and what is not named holds still."
    turns = f", in {len(phases)} phases" if len(phases) > 1 else ""
    return f"A joint comparison: all that a variant trains, it trains together{turns}."


def _holds_still(before: Phase, after: Phase) -> bool:
    """Whether something that one phase trains is left as it is by the next."""
    trains = [path for player in after.players for path in player.trains]
    moves = tuple(f"{path}." for path in trains)
    return any(not f"{path}.".startswith(moves) for player in before.players for path in player.trains)


def _seeds(outcome: Outcome) -> str:
    count = len(outcome.scored)
    return f"mean of {count} seeds" if count > 1 else "one seed"
