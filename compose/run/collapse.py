"""Signs that samples cover little of the data, or that a critic has won, each with the line of the recipe to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compose.core.declare import ObjectivePart
from compose.recipe.read import read_tree
from compose.recipe.tree import dotted
from compose.recipe.validate import read_form
from compose.run.directory import Run

#: Below these shares of modes found and of data covered; above this accuracy over the last tenth of a training.
MODES, COVERED, WON = 0.8, 0.5, 0.95


def collapse(run: Run, measured: Mapping[str, Any]) -> list[str]:
    """Warnings about a run whose player has a critic; of all others the latents say more.

    Args:
        run: A finished run.
        measured: What was measured on its samples.
    """
    found = next(_adversarial(run), None)
    return [] if found is None else [*_missing(measured, *found), *_won(run, *found)]


def _adversarial(run: Run) -> Iterator[tuple[ObjectivePart, str]]:
    """Each objective with a critic, and its key path as the run's recipe has it, with where it stands."""
    tree = read_tree(run.path / "recipe.yaml")
    form = read_form(tree)
    for i, phase in enumerate(run.recipe.train):
        for j, player in enumerate(phase.players):
            for k, term in enumerate(player.objectives):
                if "critic" in type(term.objective).model_fields:
                    at = form.written(("train", i, "players", j, "objectives", k, "objective"))
                    yield term.objective, f"{dotted(at)} (see {tree.where(at)})"


def _missing(measured: Mapping[str, Any], objective: ObjectivePart, at: str) -> Iterator[str]:
    modes, beside = measured.get("modes"), measured.get("coverage")
    # Where modes are known they tell more: what is not quite as narrow as its mode covers little of it.
    if modes and modes["found"] < MODES * modes["of"]:
        yield f"mode collapse: samples are found at {modes['found']} of {modes['of']} modes. {_wider(objective, at)}"
    elif beside and not modes and beside["coverage"] < COVERED:
        share = f"{100 * beside['coverage']:.0f} %"
        yield f"mode collapse: samples cover {share} of the data. {_wider(objective, at)}"


def _wider(objective: ObjectivePart, at: str) -> str:
    """What would spread the samples, of all that the objective does not do yet."""
    said = objective.model_dump()
    if not said.get("paired") or not (said.get("r1") and said.get("r2")):
        return f"Compare pairs and bound the critic's slope: {at} with paired: true, r1: 0.1, r2: 0.1."
    if said.get("pac") == 1:
        return f"Train longer, or let the critic see several at once: {at} with pac: 2."
    return "Train longer, or make the nets of generator and critic wider."


def _won(run: Run, objective: ObjectivePart, at: str) -> Iterator[str]:
    """Whether the critic tells nearly all apart, so that its gradient says little."""
    lines = run.metrics()
    last = lines[int(0.9 * len(lines)) :]
    for name in sorted({name for line in last for name in line if name.endswith("critic accuracy")}):
        said = [line[name] for line in last if line.get(name) is not None]
        mean = sum(said) / max(1, len(said))
        if mean > WON:
            mend = " or ".join(f"{key}: 0.1" for key in ("noise", "r1") if not getattr(objective, key, None))
            advice = f"Give {at} {mend}, or a lower lr." if mend else f"Give the optimizer of {at} a lower lr."
            yield (
                f"the critic has won: over the last tenth of the training {name} is {mean:.3f}, and what tells all "
                f"apart says little of how to change. {advice}"
            )
