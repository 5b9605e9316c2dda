"""The type check: every fault of a recipe, before any weight.

Form first (``validate``), then the types: the declarations are walked with the spaces that their owners hand them. A
part that does not fit passes on its best-guess space, so that the next fault is found too. Where something had to be
guessed, the types are checked in several worlds, and only what is wrong in all of them is reported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from compose.core import registry
from compose.core.declare import Misfit, Part, Slot, in_recipe
from compose.core.errors import DataError, Fault, RecipeError
from compose.core.kinds import Kind
from compose.core.roles import DensityPart, StagePart, takes_labels
from compose.core.spaces import Codes, Real, Space
from compose.recipe.read import read_tree
from compose.recipe.recipe import Phase, Player, Recipe
from compose.recipe.text import MAX_FAULTS
from compose.recipe.tree import MAX_DEPTH, KeyPath, Tree, clipped, dotted
from compose.recipe.validate import WORLDS, Form, read_form, within

_SHAPE = (1, 28, 28)
_CLASSES = Codes((), 10, ordered=False)
#: What unknown data are taken for, world by world.
_SOME_DATA: tuple[tuple[Space, Codes | None], ...] = (
    (Codes(_SHAPE, 256), None),
    (Codes(_SHAPE, 2), _CLASSES),
    (Real(_SHAPE), _CLASSES),
)


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
        RecipeError: the file cannot be read as a recipe at all, or has 100 faults of form.
    """
    return check_tree(read_tree(ref, overrides))


def check_tree(tree: Tree) -> Checked:
    """Finds every fault of a recipe that was read; of faults in what fits, the first 100.

    Raises:
        RecipeError: it has 100 faults of form.
    """
    form = read_form(tree)
    return _checked(tree, [form, *(read_form(tree, world) for world in range(1, WORLDS) if form.faults)])


def check_declared(recipe: Recipe) -> Checked:
    """Checks a recipe that was made in Python."""
    return _checked(Tree(recipe.model_dump(), {}, ""), [Form(recipe)])


def model_slot(space: Space, labels: Codes | None) -> Slot:
    """The slot of a model that closes the data."""
    return Slot("prior", space, labels=labels)


def objective_slot(space: Space, labels: Codes | None, model: Part, phase: Phase) -> Slot:
    """The slot of the objectives of a phase."""
    return Slot("objective", space, labels=labels, model=model, batch=phase.batch_size)


def kind_of(part: Part, slot: Slot) -> Kind | None:
    """What a stage or density promises in its slot; none for what has no likelihood to promise about."""
    return part.kind(slot) if isinstance(part, (DensityPart, StagePart)) else None


def candidates(role: str, slot: Slot) -> list[str]:
    """Names of the parts of a role that fit a slot with their defaults."""
    return [name for name in registry.names(role) if _fits_alone(role, name, slot)]


def _fits_alone(role: str, name: str, slot: Slot) -> bool:
    declaration = registry.load(role, name)
    if declaration.needs_options():
        return False
    return not any(misfit for _, part, inner in declaration().walk(slot) for misfit in part.misfits(inner))


class _Finding(NamedTuple):
    """What is wrong at a key path, as written; ``hint`` is called only where the finding is reported.

    It stands ``where`` the key path does, if nothing else is said.
    """

    at: KeyPath
    message: str
    hint: Callable[[], str] = str
    where: str = ""


def _checked(tree: Tree, worlds: list[Form]) -> Checked:
    """All faults of the first of several readings; of those in what fits, the ones that all readings share."""
    form, *others = worlds
    data = space, labels, trouble = _data(form, 0)
    if trouble:
        others = others or [form] * (WORLDS - 1)
    shared = [{each.at for each in _findings(other, *_data(other, world))} for world, other in enumerate(others, 1)]
    found = [_Finding(at, fault.message, partial(str, fault.hint), fault.where) for at, fault in form.faults.items()]
    found += [each for each in _findings(form, *data) if all(each.at in ats for ats in shared)]
    found.sort(key=lambda each: _order(tree, each.at))
    faults = [
        Fault(dotted(each.at), each.message, each.hint(), each.where or tree.where(each.at))
        for each in found[:MAX_FAULTS]
    ]
    return Checked(form.recipe, faults, space, labels, tree)


def _order(tree: Tree, path: KeyPath) -> tuple[bool, str, int, int]:
    """The order of the file; what a base or an override says comes after it."""
    mark = tree.mark(path)
    return mark.file != tree.file, mark.file, mark.line, mark.column


def _data(form: Form, world: int) -> tuple[Space, Codes | None, str]:
    """The spaces of a datum and of its label, as good as can be told, and why they are a guess."""
    if ("data",) in form.unknown:
        return *_SOME_DATA[world], ""
    try:
        return *form.recipe.spaces(), ""
    except DataError as error:
        data = form.recipe.data
        codes = getattr(data, "codes", None)
        labels = _CLASSES if getattr(data, "labels", False) else None
        return codes(_SHAPE) if codes else _SOME_DATA[world][0], labels, str(error)


def _findings(form: Form, space: Space, labels: Codes | None, trouble: str) -> list[_Finding]:
    found = list(_misfits(form, model_slot(space, labels)))
    sound, trained = not (found or form.faults), list(_training(form, space, labels))
    found += [*trained, *_drawing(form)]
    if sound:
        # Where an objective does not suit the model, what its gradient reaches is beside the point.
        phases = {each.at[:2] for each in trained}
        found += [each for each in _idle(form, space, labels) if each.at[:2] not in phases]
        found += _unseen(form, space, labels)
    if trouble and not any(path[:1] == ("data",) for path in form.faults):
        found.append(_Finding(("data",), trouble))
    first = {each.at: each for each in reversed(found) if form.judged(each.at)}
    return [first[at] for at in reversed(first)]


def _misfits(form: Form, slot: Slot) -> Iterator[_Finding]:
    """The parts of the model that do not fit their slots."""
    for key, part, inner in form.recipe.model.walk(slot, "model"):
        for misfit in part.misfits(inner):
            yield _finding(form, _steps(in_recipe(key)), part, inner, misfit)


def _finding(form: Form, at: KeyPath, part: Part, slot: Slot, misfit: Misfit) -> _Finding:
    hint = partial(_fitting, part, slot) if misfit.swap else str
    return _Finding(form.written((*at, *_steps(misfit.key))), misfit.message, hint)


def _fitting(part: Part, slot: Slot) -> str:
    names = [name for name in candidates(part.role, slot) if name != part.type]
    return f"Fits here: {', '.join(names)}." if names else f"No {part.role} fits here."


def _training(form: Form, space: Space, labels: Codes | None) -> Iterator[_Finding]:
    """What is wrong with the phases: parts to train that do not exist, objectives that do not suit the model."""
    model = form.recipe.model
    parts = {in_recipe(key) for key, _, _ in model.walk(model_slot(space, labels), "model")}
    for i, phase in enumerate(form.recipe.train):
        slot = objective_slot(space, labels, model, phase)
        for j, player in enumerate(phase.players):
            at: KeyPath = ("train", i, "players", j)
            for k, path in enumerate(player.trains):
                if path not in parts and not _in_guess(form, path):
                    message = f"there is no part at {clipped(path)} to train."
                    yield _Finding(form.written((*at, "trains", k)), message, partial(_known, parts))
            for k, term in enumerate(player.objectives if ("model",) not in form.guessed else ()):
                inner = (*at, "objectives", k, "objective")
                for key, part, place in term.objective.walk(slot):
                    for misfit in part.misfits(place):
                        yield _finding(form, (*inner, *_steps(in_recipe(key))), part, place, misfit)
        yield from _claims(form, phase, ("train", i, "players"), parts)


def _drawing(form: Form) -> Iterator[_Finding]:
    """What is said of how samples are drawn that this model does not do."""
    for key, message in drawn_otherwise(form.recipe, ("model",) in form.guessed):
        yield _Finding(form.written(("evaluate", key)), message)


def drawn_otherwise(recipe: Recipe, guessed: bool = False) -> Iterator[tuple[str, str]]:
    """What ``evaluate`` of a recipe says of how samples are drawn that its model does not do: the key, and why.

    Args:
        recipe: Of any model.
        guessed: Whether its model is only thought to be that.
    """
    links, walked = recipe.model.links, recipe.model.samplers
    sampler, steps = recipe.evaluate.sampler, recipe.evaluate.steps
    if sampler is not None and walked and sampler not in walked:
        yield (
            "sampler",
            f"the prior is not drawn from by '{sampler}'; by {', '.join(walked)}, or as it is scored: leave it out.",
        )
    for key, value in (("sampler", sampler), ("steps", steps)):
        if value is not None and not recipe.model.denoises and not guessed:
            yield key, f"'{key}' says how a diffusion is drawn from, and the prior is none."
    if steps is not None and links is not None and steps > links and sampler in (None, "ancestral"):
        yield (
            "steps",
            f"{steps} ancestral steps are more than the {links} links of this chain; take fewer, or another sampler.",
        )


def _idle(form: Form, space: Space, labels: Codes | None) -> Iterator[_Finding]:
    """Players whose parts own no parameter; of a model without a fault, since its parts have to be built for it."""
    built: dict[str, list[tuple[Part, Slot]]] = {}
    for key, part, slot in form.recipe.model.walk(model_slot(space, labels), "model"):
        built.setdefault(in_recipe(key), []).append((part, slot))
    for i, phase in enumerate(form.recipe.train):
        for j, player in enumerate(phase.players):
            if all(path in built and path != "model" and not _trainable(_below(built, path)) for path in player.trains):
                message = f"nothing to train: there is no parameter in {', '.join(player.trains)}."
                hint = "Name a part with weights, or leave the player out."
                yield _Finding(form.written(("train", i, "players", j, "trains")), message, partial(str, hint))
            elif (message := _unreached(player, built)) is not None:
                hint = "Name no more than it trains: [model.stages.0], say, or [model.prior]; or add an objective."
                yield _Finding(form.written(("train", i, "players", j, "trains")), message, partial(str, hint))


def _unreached(player: Player, built: dict[str, list[tuple[Part, Slot]]]) -> str | None:
    """Says what a player is to train and none of its objectives gives a gradient."""
    reached = {side for term in player.objectives for side in term.objective.reaches}
    for side in ("stages", "prior"):
        if side in reached:
            continue
        # What is named: a part on that side, or the whole model, which has it.
        named = [path for path in player.trains if path == "model" or f"{path}.".startswith(f"model.{side}.")]
        below = {f"model.{side}" if path == "model" else path for path in named}
        inside = [placed for key, each in built.items() for placed in each if _within(key, below)]
        if inside and _trainable(inside):
            said = ", ".join(f"'{term.objective.type}'" for term in player.objectives)
            return f"it names {', '.join(named)}, and no gradient of {said} reaches the {side}."
    return None


def _within(key: str, paths: set[str]) -> bool:
    return any(f"{key}.".startswith(f"{path}.") for path in paths)


def _unseen(form: Form, space: Space, labels: Codes | None) -> Iterator[_Finding]:
    """Class labels that are asked for and no part takes; of a model without a fault, so none is misspelt that would."""
    asked = labels is not None and "labels" in type(form.recipe.data).model_fields
    if asked and not takes_labels(form.recipe.model, model_slot(space, labels)):
        hint = "Set it on one that does (model.prior.labels=true, say), or leave the labels out."
        yield _Finding(("data", "labels"), "no part of this model takes the class label.", partial(str, hint))


def _below(built: dict[str, list[tuple[Part, Slot]]], path: str) -> list[tuple[Part, Slot]]:
    """The parts inside the one at ``path``, then itself: most often the first is small and tells."""
    inside = [placed for key, all_placed in built.items() if key.startswith(f"{path}.") for placed in all_placed]
    return [*inside, *built[path]]


def _trainable(parts: Sequence[tuple[Part, Slot]]) -> bool:
    import torch

    from compose.core.meta import without_memory

    with without_memory(), torch.random.fork_rng(devices=[]):
        # A module handed over in Python stays as it is.
        return any(any(True for _ in copy.deepcopy(part).build(slot).parameters()) for part, slot in parts)


def _in_guess(form: Form, path: str) -> bool:
    """Whether a part of the model may stand at ``path`` for all that can be told."""
    return path.startswith("model") and within(form.written(_steps(path)[:MAX_DEPTH]), form.guessed)


def _known(parts: set[str]) -> str:
    return f"There is: {', '.join(sorted(parts)[:12])}."


def _claims(form: Form, phase: Phase, base: KeyPath, parts: set[str]) -> Iterator[_Finding]:
    """Parts that belong to two players of one phase."""
    whole: dict[str, tuple[int, str]] = {}  # what is trained with all below it, by which player
    above: dict[str, tuple[int, str]] = {}  # what holds something that is trained, by which player and what
    for j, player in enumerate(phase.players):
        for k, path in enumerate(player.trains):
            at = form.written((*base, j, "trains", k))
            if path not in parts or not form.judged(at):
                continue
            owners = [path[:end] for end in range(1, len(path) + 1) if path[end : end + 1] in (".", "")]
            claims = [whole[owner] for owner in owners if owner in whole] + [above.get(path, (j, path))]
            rival, other = next((claim for claim in claims if claim[0] != j), (j, path))
            if rival != j:
                message = f"players {rival} and {j} both train '{max(path, other, key=len)}'."
                yield _Finding(at, message, lambda: "Give each part to one player.")
            for owner in owners:
                above.setdefault(owner, (j, path))
            whole.setdefault(path, (j, path))


def _steps(key: str) -> KeyPath:
    return tuple(int(step) if step.isdigit() else step for step in key.split(".")) if key else ()
