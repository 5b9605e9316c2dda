"""From the question to its cells: every combination of the axes' values, checked before anything runs."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from compose.ablation.question import Ablation, Asked, Axis, Budget
from compose.core import registry
from compose.core.errors import Fault, RecipeError
from compose.recipe.check import Checked, check_tree
from compose.recipe.cost import Cost, cost
from compose.recipe.fits import fits
from compose.recipe.read import read_tree
from compose.recipe.recipe import Phase, Recipe
from compose.recipe.tree import Change, KeyPath, Tree, apply, dotted, spoken
from compose.recipe.write import plain

#: What no number of a cell depends on.
_NO_PART_OF_A_CELL = ("ablation", "cli", "testing", "verification")


@dataclass(frozen=True)
class Variant:
    """One combination of the axes' values, whatever the seed.

    Args:
        label: What tables call it: ``prior=flow``; that of the base, where no combination equals it, is its recipe.
        values: The label of its value on each axis; empty for a base that no combination equals.
        recipe: Its recipe, with the budget; the seed is still the base's.
        counted: Gives what its model costs. That takes some tenths of a second, so nothing is counted before it is
            asked for, and nothing twice.
    """

    label: str
    values: dict[str, str]
    recipe: Recipe
    counted: Callable[[], Cost]


@dataclass(frozen=True)
class Cell:
    """A variant with a seed: one training.

    Args:
        id: Its address: a digest of all that its numbers depend on.
        label: Of its variant.
        seed: Its seed.
        recipe: What is trained.
    """

    id: str
    label: str
    seed: int
    recipe: Recipe


@dataclass
class Grid:
    """All cells of an ablation.

    Args:
        asked: The ablation.
        base: The label of the variant that all others are set against.
        variants: By label, the base first.
        cells: Seed by seed, so that a first answer is there early.
        faulty: What does not type-check or is the same as another: the label of the variant with its faults.
    """

    asked: Asked
    base: str
    variants: dict[str, Variant]
    cells: list[Cell] = field(default_factory=list)
    faulty: dict[str, list[Fault]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Value:
    """A value of an axis: what it is called, and the changes it stands for.

    Args:
        label: What it is called.
        changes: Applied one after the other.
        recipe: Another recipe that it starts from; none for the base.
    """

    label: str
    changes: tuple[Change, ...]
    recipe: str | None = None


def expand(asked: Asked) -> Grid:
    """All cells, each checked; nothing is trained.

    Raises:
        RecipeError: the base has a fault, an axis leads nowhere, two axes or two values of one have the same name, or
            not one cell is without a fault.
    """
    ablation = asked.ablation
    base = check_tree(_tree(asked, None))
    if base.faults:
        raise RecipeError(base.faults)
    axes = [list(_values(asked, i, axis, base.tree)) for i, axis in enumerate(ablation.axes)]
    names = [axis.title for axis in ablation.axes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        message, hint = f"two axes are called {', '.join(twice)}.", "Give one another name: name: ..."
        raise RecipeError([Fault("axes", message, hint, asked.tree.where(("axes",)))])
    found: dict[str, Variant] = {}
    faulty: dict[str, list[Fault]] = {}
    for combination in itertools.product(*axes):
        values = {name: value.label for name, value in zip(names, combination, strict=True)}
        label = ", ".join(f"{name}={value}" for name, value in values.items())
        checked, faults = _combined(asked, combination)
        if checked is None or faults:
            faulty[label] = faults
            continue
        variant = _variant(label, values, checked, ablation)
        same = next((known for known, other in found.items() if other.recipe == variant.recipe), None)
        if same is None:
            found[label] = variant
        else:
            faulty[label] = [_nothing_new(asked, same)]
    if not found:
        raise RecipeError(_once([fault for faults in faulty.values() for fault in faults]))
    own = _variant(ablation.base.removesuffix(".yaml"), {}, base, ablation)
    name = next((label for label, variant in found.items() if variant.recipe == own.recipe), own.label)
    variants = {name: found.pop(name, own), **found}
    return Grid(asked, name, variants, list(_cells(variants, ablation.each_seed)), faulty)


def _nothing_new(asked: Asked, same: str) -> Fault:
    message = f"the recipe is that of {same}: nothing changes from one to the other."
    hint = (
        "What a value of the same type leaves out stays as it is in the base: write out each option that is to change."
    )
    return Fault("axes", message, hint, asked.tree.where(("axes",)))


def _cells(variants: dict[str, Variant], seeds: list[int]) -> Iterator[Cell]:
    seen: set[str] = set()
    for seed in seeds:
        for variant in variants.values():
            recipe = variant.recipe.model_copy(update={"seed": seed})
            address = address_of(recipe)
            if address not in seen:
                yield Cell(address, variant.label, seed, recipe)
            seen.add(address)


def address_of(recipe: Recipe) -> str:
    """A digest of all that the numbers of a training depend on: recipe, seed, data, code and plugins."""
    said = {
        "recipe": plain(recipe, full=True),
        "data": _data_digest(json.dumps(plain(recipe, full=True)["data"]), recipe),
        "code": code_digest(),
        "plugins": sorted([*registry.plugins().values(), *registry.installed().values()]),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


_digests: dict[str, str] = {}


def _data_digest(written: str, recipe: Recipe) -> str:
    if written not in _digests:
        _digests[written] = recipe.data.load().digest
    return _digests[written]


@cache
def code_digest() -> str:
    """A digest of the source files of this package that a training runs through."""
    root, digest = Path(__file__).resolve().parent.parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        if file.relative_to(root).parts[0] not in _NO_PART_OF_A_CELL:
            digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _tree(asked: Asked, recipe: str | None, at: KeyPath = ("base",)) -> Tree:
    """The base recipe, or the one that a value takes in its place, with the changes that every cell has."""
    tree = read_tree(asked.recipe_named(recipe or asked.ablation.base, *at))
    faults = [apply(tree, change) for change in _changes(asked, asked.ablation.changes, ("changes",))]
    if any(faults):
        raise RecipeError([fault for fault in faults if fault])
    return tree


def _changes(asked: Asked, written: dict[str, Any], at: KeyPath) -> Iterator[Change]:
    for path, value in written.items():
        yield _change(asked, path, value, (*at, path))


def _change(asked: Asked, path: str, value: Any, at: KeyPath) -> Change:
    """The change that the entry at ``at`` of the ablation's file stands for; faults of it are located there."""
    marks = {inner[len(at) :]: mark for inner, mark in asked.tree.marks.items() if inner[: len(at)] == at}
    return Change(tuple(path.split(".")), copy.deepcopy(value), {(): asked.tree.mark(at), **marks})


def _values(asked: Asked, index: int, axis: Axis, base: Tree) -> Iterator[_Value]:
    """The values of an axis.

    Raises:
        RecipeError: ``fits`` is asked where no part stands, or two values have one name.
    """
    at: KeyPath = ("axes", index, "values")
    if axis.values == "fits":
        assert axis.at is not None
        names = [name for name in _fitting(asked, index, axis.at, base) if name not in axis.leave_out]
        found = [_Value(name, (Change(tuple(axis.at.split(".")), name, {(): asked.tree.mark(at)}),)) for name in names]
    elif isinstance(axis.values, list):
        assert axis.at is not None
        found = [
            _Value(_label(value), (_change(asked, axis.at, value, (*at, i)),)) for i, value in enumerate(axis.values)
        ]
    else:
        found = [_named(asked, axis, name, value, (*at, name)) for name, value in axis.values.items()]
    labels = [value.label for value in found]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        message = f"two values are called {', '.join(twice)}."
        hint = "Name them: a mapping {NAME: value} in place of the list."
        raise RecipeError([Fault(dotted(at), message, hint, asked.tree.where(at))])
    yield from found


def _fitting(asked: Asked, index: int, at: str, base: Tree) -> list[str]:
    try:
        return [fit.name for fit in fits(base, at)]
    except RecipeError as error:
        where = asked.tree.where(("axes", index, "at"))
        raise RecipeError([replace(fault, where=fault.where or where) for fault in error.faults]) from error


def _named(asked: Asked, axis: Axis, name: str, value: Any, at: KeyPath) -> _Value:
    """A value of an axis that names its values."""
    if axis.at is not None:
        return _Value(name, (_change(asked, axis.at, value, at),))
    if not isinstance(value, dict):
        message, hint = f"{spoken(value)} came, wanted changes.", "As in {model.prior: flow, train.0.steps: 500}."
        raise RecipeError([Fault(dotted(at), message, hint, asked.tree.where(at))])
    written = {path: inner for path, inner in value.items() if path != "recipe"}
    return _Value(name, tuple(_changes(asked, written, at)), value.get("recipe"))


def _label(value: Any) -> str:
    """What a value is called: its own name, with the options that are written."""
    if isinstance(value, dict):
        options = ", ".join(f"{key} {_label(inner)}" for key, inner in value.items() if key != "type")
        kind = str(value.get("type", ""))
        return f"{kind} ({options})" if kind and options else kind or options
    if isinstance(value, list):
        return "[" + ", ".join(map(_label, value)) + "]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _combined(asked: Asked, values: tuple[_Value, ...]) -> tuple[Checked | None, list[Fault]]:
    """The recipe of one combination of values, and what is wrong with it."""
    recipes = [value.recipe for value in values if value.recipe is not None]
    try:
        tree = _tree(asked, recipes[-1] if recipes else None)
    except RecipeError as error:
        return None, list(error.faults)
    faults = [fault for value in values for change in value.changes if (fault := apply(tree, change))]
    if faults:
        return None, faults
    try:
        checked = check_tree(tree)
    except RecipeError as error:
        return None, list(error.faults)
    return checked, checked.faults


def _variant(label: str, values: dict[str, str], checked: Checked, ablation: Ablation) -> Variant:
    counted = cache(lambda: cost(checked).parts[0])
    recipe = checked.recipe
    if ablation.budget is not None:
        recipe = within(recipe, ablation.budget, counted)
    return Variant(label, values, recipe, counted)


def within(recipe: Recipe, budget: Budget, counted: Callable[[], Cost]) -> Recipe:
    """The recipe with a budget, shared among its phases as their own are.

    Args:
        recipe: Whose phases all have their budget in one unit.
        budget: Over all phases together.
        counted: Gives what its model costs, which a budget in FLOPs asks for.

    Raises:
        RecipeError: the phases have budgets of several units, which cannot be added up.
    """
    kinds = {kind for phase in recipe.train for kind in ("steps", "epochs", "seconds") if getattr(phase, kind)}
    if len(kinds) > 1:
        message = f"its phases have budgets in {' and '.join(sorted(kinds))}, which no equal one can be shared by."
        raise RecipeError([Fault("train", message, "Give all phases a budget in steps.")])
    kind = kinds.pop()
    own = [float(getattr(phase, kind)) for phase in recipe.train]
    shares = [each / sum(own) for each in own]
    phases = [_with(phase, budget, share, counted) for phase, share in zip(recipe.train, shares, strict=True)]
    return recipe.model_copy(update={"train": phases})


def _with(phase: Phase, budget: Budget, share: float, counted: Callable[[], Cost]) -> Phase:
    none: dict[str, Any] = {"steps": None, "epochs": None, "seconds": None}
    if budget.seconds is not None:
        return phase.model_copy(update={**none, "seconds": budget.seconds * share})
    steps = budget.steps
    if budget.flops is not None:
        # A step goes forward and back, which costs twice as much again.
        steps = budget.flops / (3 * max(1, counted().flops) * phase.batch_size)
    assert steps is not None
    return phase.model_copy(update={**none, "steps": max(1, math.floor(steps * share + 0.5))})


def _once(faults: list[Fault]) -> list[Fault]:
    """Each fault once, however many cells have it."""
    return list({(fault.path, fault.message): fault for fault in faults}.values())
