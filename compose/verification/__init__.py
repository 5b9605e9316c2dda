"""``compose verify``: any composed likelihood, proven by something independent.

A recipe is shrunk to a tiny space of the same kind, its weights are shaken, and every check that applies is made in
float64: sums over all data, integrals over all noise, Jacobians, finite differences, Pyro's trace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from compose.core import random
from compose.core.errors import ComposeError, RecipeError
from compose.core.model import ModelDensity
from compose.core.spaces import Codes, Space
from compose.parts.densities.model import Model
from compose.recipe.check import check_declared, load_recipe
from compose.recipe.recipe import Recipe
from compose.run.directory import Run
from compose.verification import gradients, likelihood, programs, structure
from compose.verification.report import Check, Finding, Report
from compose.verification.tiny import Tiny, shrink

__all__ = ["CHECKS", "Check", "Finding", "Report", "verify", "verify_all"]

CHECKS: tuple[Check, ...] = (
    *likelihood.CHECKS,
    *structure.CHECKS,
    *gradients.CHECKS,
    *programs.CHECKS,
)
Told = Callable[[Report], None]


def verify(
    what: Recipe | Model | ModelDensity | Run | str | Path,
    space: Space | None = None,
    labels: Codes | None = None,
    *,
    seed: int = 0,
    only: Iterable[str] | None = None,
) -> Report:
    """Verifies one model.

    Args:
        what: A recipe, its file or name; a run; a declared model with its ``space``; a model that ``build`` built.
        space: Of one datum, for a declared model.
        labels: Of the class label, for a declared model.
        seed: Of the weights and draws.
        only: Names of checks; all by default.

    Raises:
        RecipeError: the recipe is faulty.
        ComposeError: there is no check of a name, or nothing that could be verified.
    """
    chosen = _chosen(only)
    name, declared, space, labels = _declared(what, space, labels)
    return _verified(name, shrink(declared, space, labels, seed), chosen)


def verify_all(
    names: Iterable[str | Path], *, seed: int = 0, only: Iterable[str] | None = None, told: Told = lambda report: None
) -> list[Report]:
    """Verifies recipes, runs, and all recipes in folders; what shrinks to the same thing is verified once.

    Args:
        names: Files, names of shipped recipes, runs, folders.
        seed: Of the weights and draws.
        only: Names of checks; all by default.
        told: Told each report as it comes.

    Raises:
        RecipeError: a recipe is faulty.
        ComposeError: there is no check of a name, or no recipe in a folder.
    """
    chosen, done, reports = _chosen(only), {}, []
    for each in _spread(names):
        name, declared, space, labels = _declared(each)
        tiny = shrink(declared, space, labels, seed)
        first = done.setdefault(tiny.key, name)
        if first == name:
            report = _verified(name, tiny, chosen)
        else:
            report = replace(next(one for one in reports if one.name == first), name=name, same_as=first, seconds=0.0)
        reports.append(report)
        told(report)
    return reports


def _chosen(only: Iterable[str] | None) -> list[Check]:
    names = None if only is None else list(only)
    known = [each.name for each in CHECKS]
    if unknown := [name for name in names or () if name not in known]:
        raise ComposeError(f"There is no check {', '.join(map(repr, unknown))}; there is: {', '.join(known)}.")
    return [each for each in CHECKS if names is None or each.name in names]


def _declared(
    what: Recipe | Model | ModelDensity | Run | str | Path, space: Space | None = None, labels: Codes | None = None
) -> tuple[str, Model, Space, Codes | None]:
    """What something is called, its declaration, the space of its data, and that of its labels."""
    name = str(what) if isinstance(what, (str, Path)) else type(what).__name__.lower()
    if isinstance(what, (str, Path)):
        what = Run(what) if (Path(what) / "recipe.yaml").is_file() else load_recipe(what)
    if isinstance(what, Run):
        name, what = str(what.path), what.recipe
    if isinstance(what, Recipe):
        faults = check_declared(what).faults
        if faults:
            raise RecipeError(faults)
        return name, what.model, *what.spaces()
    if isinstance(what, ModelDensity):
        if not isinstance(what.declared, Model):
            raise ComposeError("This model was put together by hand, so nothing declares how to shrink it; build it.")
        return "model", what.declared, what.space, what.labels
    if space is None:
        raise ComposeError(
            "A declared model says nothing of its data; hand over their space, as in space=Codes((2,), 3)."
        )
    return "model", what, space, labels


def _spread(names: Iterable[str | Path]) -> Iterator[str | Path]:
    """Folders that are no run, as the recipes in them."""
    for name in names:
        folder = Path(name)
        if not folder.is_dir() or (folder / "recipe.yaml").is_file():
            yield name
            continue
        found = sorted(path for path in folder.rglob("*.yaml") if "ablations" not in path.relative_to(folder).parts)
        if not found:
            raise ComposeError(f"There is no recipe in {name}; wanted a recipe, a run, or a folder with recipes.")
        yield from found


def _verified(name: str, tiny: Tiny, chosen: list[Check]) -> Report:
    """Makes every check; one that breaks down says so and fails."""
    began, findings = time.perf_counter(), {}
    for each in chosen:
        with random.region(tiny.seed, "verify", each.name):
            findings[each.name] = _found(each, tiny if each.sums else tiny.rich or tiny)
    shrunk = str(tiny) if tiny.rich is None else f"{tiny.rich}; where all data are summed over, to {tiny}"
    return Report(name, shrunk, findings, time.perf_counter() - began)


def _found(each: Check, tiny: Tiny) -> list[Finding]:
    try:
        return list(each.find(tiny))
    except Exception as error:
        said = str(error) if isinstance(error, ComposeError) else f"{error.__class__.__name__}: {error}"
        return [Finding("the check itself", float("inf"), 0.0, f"broke down: {said}")]
