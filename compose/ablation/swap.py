"""Swaps parts of a trained run: what still fits is kept as it is, the rest is trained, and the two are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compose.ablation.compare import compare
from compose.ablation.results import Results
from compose.core.declare import in_recipe
from compose.core.errors import AblationError, RecipeError
from compose.recipe.build import build
from compose.recipe.check import check_declared, load_recipe
from compose.recipe.recipe import Recipe
from compose.run.begun import Begun, after_first_phase, first_phase
from compose.run.directory import Run, free_path
from compose.run.train import train


def swap(run: str | Path | Run, changes: Sequence[str], out: str | Path | None = None, **how: Any) -> Results:
    """Puts other parts into a trained model, trains what is new, and sets the result against the run.

    Where the run trained its stages in a first phase that does not mind its prior, another prior takes the place of
    that of the later phases, and all comes out as if it had been trained from the start. Else all that stays is frozen
    as the run left it, and the new parts alone are trained, as its last phase says: a frozen comparison.

    Args:
        run: A finished run.
        changes: ``PATH=VALUE`` each, of the model: ``model.prior=flow``.
        out: The new run directory; ``RUN-swap`` by default, with a number where that is taken.
        how: Arguments of ``compose.train``.

    Raises:
        RecipeError: the changed recipe has a fault.
        RunError: the run is not finished.
        AblationError: nothing changes, or nothing that is trained stays.
    """
    run = run if isinstance(run, Run) else Run(run)
    changed = load_recipe(run.path / "recipe.yaml", changes)
    recipe, start = _kept(run, changed, changes)
    new = train(recipe, out or free_path(f"{run.path.name}-swap", run.path.parent), after=start, **how)
    return compare([run, new])


def _kept(run: Run, changed: Recipe, changes: Sequence[str]) -> tuple[Recipe, Begun]:
    """What is left to train of a changed recipe, and what is taken over."""
    paths = [change.partition("=")[0].strip() for change in changes]
    if changed == run.recipe or not all(path == "model" or path.startswith("model.") for path in paths):
        said = ", ".join(changes) or "nothing"
        raise AblationError(f"{said} swaps no part of the model; wanted a change such as model.prior=flow.")
    if first_phase(changed) is not None and first_phase(changed) == first_phase(run.recipe):
        return changed, after_first_phase(run, changed)
    swapped = sorted({_part(changed, path) for path in paths})
    last = changed.train[-1]
    player = last.players[0].model_copy(update={"trains": swapped})
    phase = last.model_copy(update={"players": [player]})
    recipe = changed.model_copy(update={"train": [phase]})
    if faults := check_declared(recipe).faults:
        raise RecipeError(faults)
    return recipe, Begun(_still_fitting(run, recipe, swapped), 0, str(run.path))


def _part(recipe: Recipe, path: str) -> str:
    """The part that a key path is of: itself, or the one it is an option of."""
    parts = {in_recipe(key) for key, _, _ in recipe.model.walk(check_declared(recipe).slot, "model")}
    steps = path.split(".")
    return next((".".join(steps[:end]) for end in range(len(steps), 1, -1) if ".".join(steps[:end]) in parts), "model")


def _still_fitting(run: Run, recipe: Recipe, swapped: Sequence[str]) -> dict[str, Any]:
    """The weights of a run that lie outside the swapped parts, each of the shape it has in the new model.

    Raises:
        AblationError: there are none, or one has another shape there.
    """
    old, new = run.model().state_dict(), build(recipe).state_dict()
    inside = tuple(f"{path.removeprefix('model').removeprefix('.')}." for path in swapped)
    if "." in inside:
        raise AblationError("the whole model is swapped, so nothing stays; train it: compose train.")
    outside = {name: value for name, value in new.items() if not name.startswith(inside)}
    unlike = [name for name, value in outside.items() if name not in old or old[name].shape != value.shape]
    if unlike:
        message = f"{len(unlike)} of the other weights change their shape with it, {unlike[0]} first"
        raise AblationError(f"{message}; train the changed recipe from the start: compose train.")
    if not outside:
        raise AblationError("nothing that is trained stays; train the changed recipe: compose train.")
    return {name: old[name] for name in outside}
