"""Runs that were made by hand, side by side, under the guard that an ablation has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compose.ablation.plan import Plan, planned
from compose.ablation.results import Results, Scored, set_against
from compose.core.errors import AblationError
from compose.recipe.check import check_declared
from compose.recipe.cost import cost
from compose.recipe.recipe import Recipe
from compose.run.directory import Run


def compare(runs: Sequence[str | Path | Run]) -> Results:
    """Sets runs side by side; the first is what the others are set against.

    Runs of one recipe that differ in the seed alone count as one variant with several seeds.

    Args:
        runs: At least two, each trained and scored.

    Returns:
        What each differs in, by how much, and why where nothing compares.

    Raises:
        RunError: one is no run, was made with a plugin that is not loaded, or was not scored.
        AblationError: there are fewer than two different ones.
    """
    found = list(
        {each.path.resolve(): each for each in (run if isinstance(run, Run) else Run(run) for run in runs)}.values()
    )
    if len(found) < 2:
        raise AblationError(f"wanted two different runs at least, got {len(found)}: compose compare RUN RUN...")
    groups: dict[str, list[tuple[Run, Recipe]]] = {}
    for run in found:
        recipe = run.recipe
        groups.setdefault(recipe.model_copy(update={"seed": 0}).model_dump_json(), []).append((run, recipe))
    members = _apart(list(groups.values()))
    base = members[0][0][1]
    variants, scored = [], {}
    for group in members:
        label = _label([run for run, _ in group])
        whole = cost(check_declared(group[0][1])).parts[0]
        recipe = group[0][1].model_copy(update={"seed": base.seed})
        variants.append(planned(label, {}, recipe, base, whole.parameters, whole.flops))
        scored[label] = {
            recipe.seed: Scored(label, recipe.seed, run, run.scores(), run.training_seconds()) for run, recipe in group
        }
    plan = Plan(
        name="compare",
        question=f"How do {len(found)} runs differ?",
        of=variants[0].label,
        base=variants[0].label,
        judged_by="",
        budget="as each was trained",
        command=" ".join(["compose", "compare", *(str(run.path) for run in found)]),
        variants=variants,
        cells=[],
        faulty={},
    )
    return Results(plan, set_against(variants, scored, {}), [])


def _apart(groups: list[list[tuple[Run, Recipe]]]) -> list[list[tuple[Run, Recipe]]]:
    """The groups, with each run of a seed that its group has already in one of its own, as a run again by hand."""
    found: list[list[tuple[Run, Recipe]]] = []
    for group in groups:
        rounds: list[dict[int, tuple[Run, Recipe]]] = []
        for run, recipe in group:
            place = next((each for each in rounds if recipe.seed not in each), None)
            if place is None:
                rounds.append(place := {})
            place[recipe.seed] = (run, recipe)
        found += [list(each.values()) for each in rounds]
    return found


def _label(runs: Sequence[Run]) -> str:
    """What a group of runs is called: by its first, and how many more."""
    more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return f"{runs[0].path}{more}"
