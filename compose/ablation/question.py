"""An ablation as a file says it: the question, the base recipe, the axes of change, seeds and budget."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import ValidationError, model_validator
from pydantic_core import PydanticCustomError

from compose.ablation.measure import MeasureName
from compose.core.declare import MAPPING, Declared
from compose.core.errors import Fault, RecipeError
from compose.recipe.read import read_tree
from compose.recipe.shipped import find, recipes_root
from compose.recipe.tree import KeyPath, Tree, clipped, dotted
from compose.recipe.wording import said


class Budget(Declared):
    """What every cell may spend on its training, over all its phases; these share it as their own budgets are."""

    steps: Annotated[int, Ge(1)] | None = None
    """The same number of steps."""
    seconds: Annotated[float, Gt(0)] | None = None
    """The same seconds of training, evaluation left out."""
    flops: Annotated[float, Gt(0)] | None = None
    """The same operations: three times those of ``log_prob``, times batch size and steps."""

    @model_validator(mode="after")
    def _one(self) -> Budget:
        given = [key for key in ("steps", "seconds", "flops") if getattr(self, key) is not None]
        if len(given) != 1:
            came = f"{' and '.join(given)} are given" if given else "none is given"
            raise PydanticCustomError(
                "budget", "a budget is equal in one thing, steps, seconds or flops, and {came}", {"came": came}
            )
        return self


class Axis(Declared):
    """One thing that changes from cell to cell."""

    at: str | None = None
    """The key path that changes; without it each value says its own."""
    name: str | None = None
    """What tables call it; by default the last name of ``at``."""
    values: Literal["fits"] | list[Any] | dict[str, Any]
    """A list; or a mapping that names each; or ``fits``: every part that type-checks at ``at``. Without ``at`` a
    mapping from names to changes, ``{PATH: value}``, in which ``recipe`` takes another recipe as a whole."""
    leave_out: list[str] = []
    """Of ``fits``: the parts to leave out."""

    @property
    def title(self) -> str:
        """What tables call it."""
        steps = [step for step in (self.at or "").split(".") if not step.isdigit()]
        return self.name or steps[-1]

    @model_validator(mode="after")
    def _goes_together(self) -> Axis:
        if self.at is None and not isinstance(self.values, dict):
            raise PydanticCustomError("axis", "without 'at' the values are named: {NAME: {PATH: value}}")
        if self.at is None and not self.name:
            raise PydanticCustomError("axis", "an axis needs 'at', the key path that changes, or a 'name'")
        if not self.values:
            raise PydanticCustomError("axis", "an axis has no values")
        if self.leave_out and self.values != "fits":
            raise PydanticCustomError("axis", "'leave_out' is of 'values: fits'; leave the others out of the list")
        return self


class Ablation(Declared):
    """What happens to a model if this is swapped for that: a base recipe, axes of one-line changes, seeds."""

    question: Annotated[str, MinLen(1)]
    """What is asked, in a sentence."""
    base: Annotated[str, MinLen(1)]
    """The recipe that every cell is set against: a file, relative to this one, or the name of a shipped recipe."""
    changes: dict[str, Any] = {}
    """Changes to every cell, the base too, ``{PATH: value}``."""
    axes: Annotated[list[Annotated[Axis, MAPPING]], MinLen(1)]
    """What changes; all combinations of their values are tried."""
    seeds: Annotated[int, Ge(1), Le(1000)] | Annotated[list[Annotated[int, Ge(0)]], MinLen(1)] = 3
    """How many, from 0; or which."""
    budget: Annotated[Budget, MAPPING] | None = None
    """Equal for every cell; by default each trains as its recipe says."""
    judged_by: MeasureName | None = None
    """The number that answers the question; -ELBO by default, without a likelihood what samples say."""

    @property
    def each_seed(self) -> list[int]:
        """The seeds."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(dict.fromkeys(self.seeds))


class Asked:
    """An ablation that was read, with the places where its entries stand.

    Args:
        ablation: What is asked.
        tree: The same as plain data with positions.
        name: What its folder and its report are called.
    """

    def __init__(self, ablation: Ablation, tree: Tree, name: str) -> None:
        self.ablation, self.tree, self.name = ablation, tree, name

    def recipe_named(self, name: str, *path: str | int) -> str:
        """A recipe that the entry at ``path`` names: beside the file in which it is written, else a shipped one."""
        beside = Path(self.tree.mark(path).file).parent / name
        return str(beside) if beside.is_file() else name


def read_ablation(ref: str | Path, overrides: Sequence[str] = ()) -> Asked:
    """Reads the file of an ablation.

    Args:
        ref: A file, or the name of a shipped ablation.
        overrides: Changes ``PATH=VALUE``, as in ``seeds=1`` or ``budget.steps=100``.

    Raises:
        RecipeError: with every fault, each located.
    """
    tree = read_tree(_file(str(ref)), overrides)
    return Asked(_validated(tree), tree, _name(str(ref)))


def shipped_ablations() -> list[str]:
    """Names of the shipped ablations, sorted."""
    root = recipes_root() / "ablations"
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def _file(ref: str) -> str:
    if Path(ref).is_file():
        return ref
    found = find(f"ablations/{ref}")
    if found is None:
        hint = f"Shipped are: {', '.join(shipped_ablations())}."
        raise RecipeError([Fault("", f"There is no file {clipped(ref)}, nor a shipped ablation of that name.", hint)])
    return str(found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found)


def _name(ref: str) -> str:
    """``prior``, or ``fashion-prior`` of a shipped one in a folder."""
    path = Path(ref)
    return path.stem if path.is_file() else str(path.with_suffix("")).replace("/", "-")


def _validated(tree: Tree) -> Ablation:
    """The ablation that was read; beside an unknown key the rest is looked at too."""
    data, faults = copy.deepcopy(tree.data), []
    while True:
        try:
            ablation = Ablation.model_validate(data)
        except ValidationError as error:
            faults += _faults(error, tree)
            unknown = [each["loc"] for each in error.errors() if each["type"] == "unknown_key"]
            if not unknown:
                raise RecipeError(faults) from error
            for *owner, key in (_path(data, loc) for loc in unknown):
                holder: Any = data
                for step in owner:
                    holder = holder[step]
                del holder[key]
            continue
        if faults:
            raise RecipeError(faults)
        return ablation


def _faults(error: ValidationError, tree: Tree) -> list[Fault]:
    """What pydantic found, each place once: of a union it says what is wrong with every member."""
    found: dict[KeyPath, Fault] = {}
    for detail in error.errors(include_url=False):
        path = _path(tree.data, detail["loc"])
        message, hint = said(detail)
        if detail["type"] == "missing":
            message = f"the key '{detail['loc'][-1]}' is missing."
        elif detail["type"] == "unknown_key":
            message = f"{clipped(str(detail['loc'][-1]))} is {message}"
            hint = f"It has: {detail.get('ctx', {}).get('options', '')}."
        found.setdefault(path, Fault(dotted(path), message, hint, tree.where(path)))
    return list(found.values())


def _path(data: Any, loc: tuple[str | int, ...]) -> KeyPath:
    """Where an error of pydantic's stands; its tags of unions are no part of the path."""
    here: Any = data
    path: KeyPath = ()
    for step in loc:
        inside: Any = dict(enumerate(here)) if isinstance(here, list) else here
        if isinstance(inside, dict) and step in inside:
            here, path = inside[step], (*path, step)
    return path
