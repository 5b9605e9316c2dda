"""The type check: every fault of a recipe, before any weight.

Form first (``validate``), then the types: the declarations are walked with the spaces that their owners hand them. A
part that does not fit passes on its best-guess space, so that the next fault is found too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compose.core import registry
from compose.core.declare import Misfit, Part, Slot
from compose.core.errors import DataError, Fault, RecipeError
from compose.core.kinds import Kind
from compose.core.roles import DensityPart, StagePart
from compose.core.spaces import Codes, Space
from compose.recipe.read import read_tree
from compose.recipe.recipe import Phase, Recipe
from compose.recipe.tree import KeyPath, Tree, dotted
from compose.recipe.validate import Form, read_form

#: What the data are taken for while their files cannot be read.
_SOME_IMAGE = Codes((1, 28, 28), 256, ordered=True)


@dataclass
class Checked:
    """A recipe and all that is wrong with it.

    Args:
        recipe: The declarations; best guesses where faulty.
        faults: Every fault, in the order of the file.
        space: Space of one datum.
        labels: Space of its label; none where the data give none.
        tree: The plain data with positions.
    """

    recipe: Recipe
    faults: list[Fault]
    space: Space
    labels: Codes | None
    tree: Tree

    @property
    def slot(self) -> Slot:
        """The slot of the whole model."""
        return model_slot(self.space, self.labels)


def load_recipe(ref: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        ref: A file, or the name of a shipped recipe.
        overrides: Changes ``PATH=VALUE``, as on the command line.

    Raises:
        RecipeError: with every fault, each located.
    """
    checked = check(ref, overrides)
    if checked.faults:
        raise RecipeError(checked.faults)
    return checked.recipe


def check(ref: str | Path, overrides: Sequence[str] = ()) -> Checked:
    """Reads a recipe and finds every fault.

    Raises:
        RecipeError: the file cannot be read as a recipe at all.
    """
    return check_tree(read_tree(ref, overrides))


def check_tree(tree: Tree) -> Checked:
    """Finds every fault of a recipe that was read."""
    form = read_form(tree)
    faults = list(form.faults)
    space, labels = _data(tree, form, faults)
    faults += _types(tree, form, model_slot(space, labels))
    faults += _training(tree, form, space, labels)
    order = {path: i for i, path in enumerate(_paths_in_order(tree))}
    faults.sort(key=lambda fault: order.get(_nearest(fault.path, order), len(order)))
    return Checked(form.recipe, faults, space, labels, tree)


def check_declared(recipe: Recipe) -> Checked:
    """Checks a recipe that was made in Python."""
    return check_tree(Tree(recipe.model_dump(), {}, ""))


def model_slot(space: Space, labels: Codes | None) -> Slot:
    """The slot of a model that closes the data."""
    return Slot("prior", space, labels=labels)


def kind_of(part: Part, slot: Slot) -> Kind | None:
    """What a stage or density promises in its slot; none for what has no likelihood to promise about."""
    return part.kind(slot) if isinstance(part, (DensityPart, StagePart)) else None


def candidates(role: str, slot: Slot) -> list[str]:
    """Names of the parts of a role that fit a slot with their defaults."""
    return [name for name in registry.names(role) if _fits_alone(role, name, slot)]


def _fits_alone(role: str, name: str, slot: Slot) -> bool:
    declaration = registry.load(role, name)
    if any(field.is_required() for field in declaration.model_fields.values()):
        return False
    return not any(misfit for _, part, inner in declaration().walk(slot) for misfit in part.misfits(inner))


def _data(tree: Tree, form: Form, faults: list[Fault]) -> tuple[Space, Codes | None]:
    if ("data",) in form.unknown:
        return _SOME_IMAGE, None
    try:
        return form.recipe.spaces()
    except DataError as error:
        if not any(path[0] == "data" for path in form.paths if path):
            faults.append(Fault("data", str(error), "", tree.where(("data",))))
        form.unknown.add(("data",))
        guess = getattr(form.recipe.data, "codes", None)
        labels = Codes((), 10, ordered=False) if getattr(form.recipe.data, "labels", False) else None
        return (guess(_SOME_IMAGE.shape) if guess else _SOME_IMAGE), labels


def _types(tree: Tree, form: Form, slot: Slot) -> Iterator[Fault]:
    for key, part, inner in form.recipe.model.walk(slot, "model"):
        path = _steps(key)
        if _unsure(path, form):
            continue
        for misfit in part.misfits(inner):
            at = (*path, *_steps(misfit.key))
            if at not in form.paths:
                yield Fault(dotted(at), misfit.message, _hint(part, inner, misfit), tree.where(at))


def _hint(part: Part, slot: Slot, misfit: Misfit) -> str:
    if not misfit.swap:
        return ""
    names = [name for name in candidates(part.role, slot) if name != part.type]
    return f"Fits here: {', '.join(names)}." if names else f"No {part.role} fits here."


def _unsure(path: KeyPath, form: Form) -> bool:
    """Whether what is known about ``path`` rests on a part that could not be read."""
    for unknown in form.unknown:
        if path[: len(unknown)] == unknown:
            return True
        if unknown == ("data",) and path[:2] in (("model", "stages"), ("model", "prior")) and len(path) > 1:
            # The first stage and a prior alone on the data see the data's space; those further up do not.
            if path[:3] == ("model", "stages", 0) or not form.recipe.model.stages:
                return True
        if len(unknown) >= 2 and unknown[-2] == "stages":
            owner, index = unknown[:-2], unknown[-1]
            rest = path[len(owner) :]
            above = rest[:1] == ("prior",) or (rest[:1] == ("stages",) and rest[1] > index)  # type: ignore[operator]
            if path[: len(owner)] == owner and above:
                return True
    return False


def _training(tree: Tree, form: Form, space: Space, labels: Codes | None) -> Iterator[Fault]:
    recipe = form.recipe
    parts = {key for key, _, _ in recipe.model.walk(model_slot(space, labels), "model")}
    for i, phase in enumerate(recipe.train):
        for j, player in enumerate(phase.players):
            base: KeyPath = ("train", i, "players", j)
            for k, path in enumerate(player.trains):
                at = _existing(tree, (*base, "trains", k))
                if path not in parts and at not in form.paths and not form.unknown and not _faulty_model(form):
                    known = ", ".join(sorted(parts)[:12])
                    yield Fault(dotted(at), f"there is no part at '{path}' to train.", f"There is: {known}.", tree.where(at))
            for k, term in enumerate(player.objectives):
                at = _existing(tree, (*base, "objectives", k, "objective"))
                yield from _objective(tree, form, term.objective, replace(_model(recipe, space, labels), use="objective"), at)
        yield from _claims(tree, phase, i)


def _model(recipe: Recipe, space: Space, labels: Codes | None) -> Slot:
    return Slot("objective", space, labels=labels, model=recipe.model)


def _objective(tree: Tree, form: Form, part: Part, slot: Slot, at: KeyPath) -> Iterator[Fault]:
    if at in form.unknown or form.unknown & {("model",)}:
        return
    if any(unknown[0] == "model" for unknown in form.unknown):
        return
    for misfit in part.misfits(slot):
        where = (*at, *_steps(misfit.key))
        if where not in form.paths:
            hint = _hint(part, slot, misfit)
            yield Fault(dotted(where), misfit.message, hint, tree.where(where))


def _claims(tree: Tree, phase: Phase, i: int) -> Iterator[Fault]:
    """No parameter belongs to two players of one phase."""
    claimed: dict[str, int] = {}
    for j, player in enumerate(phase.players):
        for k, path in enumerate(player.trains):
            for other, owner in claimed.items():
                same = path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")
                if same and owner != j:
                    at = _existing(tree, ("train", i, "players", j, "trains", k))
                    message = f"players {owner} and {j} both train '{path if len(path) > len(other) else other}'."
                    yield Fault(dotted(at), message, "Give each part to one player.", tree.where(at))
            claimed[path] = j


def _faulty_model(form: Form) -> bool:
    return any(path[:1] == ("model",) for path in form.paths)


def _existing(tree: Tree, path: KeyPath) -> KeyPath:
    """``path`` as the file has it: a phase may write its one player's keys itself."""
    here, found = tree.data, []
    for step in path:
        if isinstance(here, dict) and step in here:
            here = here[step]
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
        else:
            continue
        found.append(step)
    return tuple(found)


def _steps(key: str) -> KeyPath:
    return tuple(int(step) if step.isdigit() else step for step in key.split(".")) if key else ()


def _paths_in_order(tree: Tree) -> list[str]:
    return [dotted(path) for path in sorted(tree.marks, key=lambda path: (tree.marks[path].line, tree.marks[path].column))]


def _nearest(path: str, known: dict[str, int]) -> str:
    while path and path not in known:
        path = path.rpartition(".")[0]
    return path
