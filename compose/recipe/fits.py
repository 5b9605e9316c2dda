"""Which parts fit at a place of a recipe: each is put there, with its defaults, and the whole recipe is checked."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from compose.core import registry
from compose.core.declare import Part, in_recipe
from compose.core.errors import Fault, RecipeError
from compose.core.kinds import Kind
from compose.recipe.check import Checked, check_tree, kind_of, objective_slot
from compose.recipe.read import read_tree
from compose.recipe.recipe import Recipe
from compose.recipe.tree import Change, Mark, Tree, apply, dotted
from compose.recipe.validate import read_form

_LONG = ".players.0.objectives.0.objective"


@dataclass(frozen=True)
class Fit:
    """What came of putting a part somewhere.

    Args:
        name: The part's name in recipes.
        kind: What its log-probability promises there; none for what has none, and for what does not fit.
        note: What it is, in a line; of a part that does not fit, why.
        fits: Whether it does.
    """

    name: str
    kind: Kind | None
    note: str
    fits: bool = True


def fits(recipe: Recipe | Tree | str | Path, path: str) -> list[Fit]:
    """The parts that fit at a key path: those for which the override ``PATH=NAME`` brings no fault.

    What is wrong elsewhere in the recipe already does not count.

    Args:
        recipe: A recipe, a tree that was read, a file, or the name of a shipped recipe.
        path: Where a part stands, written or by default: ``model.prior``, ``model.stages.0.encoder``,
            ``train.0.objective``, ``data``.

    Raises:
        RecipeError: no part stands at ``path``; the parts' paths are listed.
    """
    return [fit for fit in survey(recipe, path) if fit.fits]


def survey(recipe: Recipe | Tree | str | Path, path: str) -> list[Fit]:
    """Every registered part of the role that stands at a key path: whether it fits there, and why not.

    Raises:
        RecipeError: no part stands at ``path``; the parts' paths are listed.
    """
    tree = _tree(recipe)
    before = check_tree(tree)
    standing = positions(before)
    path = _as_written(path, standing)
    if path not in standing:
        hint = f"Parts stand at: {', '.join(standing)}."
        raise RecipeError([Fault(path, f"there is no part at '{path}'.", hint)])
    _refuse_guesses(tree, before, path)
    known = {fault.path for fault in before.faults if not _within(fault.path, path)}
    role = standing[path].role
    return [_tried(tree, path, registry.load(role, name), known) for name in registry.names(role)]


def positions(checked: Checked) -> dict[str, Part]:
    """Every key path at which another part could stand, with the part that does."""
    recipe = checked.recipe
    found: dict[str, Part] = dict(_with_options(recipe.data, "data"))
    found |= {in_recipe(key): part for key, part, _ in recipe.model.walk(checked.slot, "model") if key != "model"}
    for i, phase in enumerate(recipe.train):
        slot = objective_slot(checked.space, checked.labels, recipe.model, phase)
        for j, player in enumerate(phase.players):
            for k, term in enumerate(player.objectives):
                key = f"train.{i}.players.{j}.objectives.{k}.objective"
                path = key if _has_players(checked.tree, i) else f"train.{i}.objective"
                found |= {in_recipe(key): part for key, part, _ in term.objective.walk(slot, path)}
    return found


def _with_options(part: Part, path: str) -> Iterator[tuple[str, Part]]:
    """Data, and the data that they are made of: these stand in no slot that a walk could come by."""
    yield path, part
    for name in type(part).model_fields:
        if isinstance(inner := getattr(part, name), Part):
            yield from _with_options(inner, f"{path}.{name}")


def _tree(recipe: Recipe | Tree | str | Path) -> Tree:
    if isinstance(recipe, Recipe):
        return Tree(recipe.model_dump(), {}, "")
    return recipe if isinstance(recipe, Tree) else read_tree(recipe)


def _refuse_guesses(tree: Tree, before: Checked, path: str) -> None:
    """Beside a part that cannot be read, what it hands on is unknown, and everything would seem to fit."""
    unknown = {"data", *(dotted(at) for at in read_form(tree).unknown)}
    unread = [fault for fault in before.faults if fault.path in unknown and not _within(fault.path, path)]
    if unread:
        raise RecipeError([*unread, Fault(path, "what fits here cannot be told before that is mended.")])


def _has_players(tree: Tree, phase: int) -> bool:
    phases = tree.data.get("train")
    written = phases[phase] if isinstance(phases, list) and phase < len(phases) else None
    return isinstance(written, dict) and "players" in written


def _as_written(path: str, standing: dict[str, Part]) -> str:
    """An objective's short path and its long one mean the same where its phase is its own player."""
    short = path.replace(_LONG, ".objective")
    return next((name for name in (path, short, short.replace(".objective", _LONG)) if name in standing), path)


def _tried(tree: Tree, path: str, declaration: type[Part], known: set[str]) -> Fit:
    after = check_tree(_with(tree, path, declaration.type))
    arisen = [fault for fault in after.faults if fault.path not in known]
    if arisen:
        return Fit(declaration.type, None, _why(arisen[0], path), fits=False)
    return Fit(declaration.type, _kind(after, path), first_line(declaration))


def _with(tree: Tree, path: str, name: str) -> Tree:
    changed = replace(tree, data=copy.deepcopy(tree.data), marks=dict(tree.marks))
    fault = apply(changed, Change(tuple(path.split(".")), name, {(): Mark("")}))
    if fault:
        raise RecipeError([replace(fault, where="")])
    return changed


def _kind(checked: Checked, path: str) -> Kind | None:
    return next(
        (
            kind_of(part, slot)
            for key, part, slot in checked.recipe.model.walk(checked.slot, "model")
            if in_recipe(key) == path
        ),
        None,
    )


def _why(fault: Fault, path: str) -> str:
    where = "" if fault.path == path else f"{fault.path}: "
    return where + fault.message


def _within(path: str, owner: str) -> bool:
    return path == owner or path.startswith(f"{owner}.")


def first_line(declaration: type) -> str:
    """What a part is, in the first line of its docstring, without its markup."""
    return (declaration.__doc__ or "").strip().partition("\n")[0].replace("``", "")
