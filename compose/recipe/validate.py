"""From plain data to declarations: every fault of form at once, and a best guess in place of what is faulty.

The data are walked record by record beside the declarations; pydantic says of each record what is wrong with it. What
is faulty is replaced (a misspelt name by the close one, a bad value by the default, an unreadable part by a stand-in),
so that the types can still be checked around it. Some guesses differ from *world* to world: what is wrong in every
world is wrong whatever was meant.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from compose.core import registry
from compose.core.declare import Declared, Part, PartOf
from compose.core.errors import Fault, RecipeError
from compose.core.roles import StagePart
from compose.core.spaces import Codes, Space
from compose.recipe.recipe import Phase, Player, Recipe, Term
from compose.recipe.text import MAX_FAULTS
from compose.recipe.tree import KeyPath, Tree, clipped, dotted, spoken
from compose.recipe.wording import meant, near, no_part, said

WORLDS = 3


class _GivesCodes(StagePart):
    """Stands in for a stage that may have given codes."""

    type = "unknown"

    def above(self, below: Space) -> Codes:
        return Codes(below.shape, 2)

    def terms(self) -> dict[str, str]:
        return {}


#: What stands for an unreadable part, world by world: a latent and an exact one, reals above and codes.
_STAND_INS: dict[str, list[Any]] = {
    "stage": ["latent", "bijection", _GivesCodes()],
    "quantizer": ["vq"],
    "density": ["normal", {"type": "model", "stages": ["latent"]}],
    "net": ["mlp"],
    "objective": ["elbo"],
    "data": ["digits"],
}
#: What stands for a faulty option: its default in the first world, in each other one of these if it will do.
_VALUES = (True, 2, 0.5, "?", [])


@dataclass
class Form:
    """A recipe whose form was read, with all that was wrong with it.

    Args:
        recipe: The declarations, best guesses where faulty.
        faults: By the key path at fault, as written.
        unknown: Key paths of parts that a stand-in replaces.
        guessed: Key paths of all values that are guesses; nothing at or below them is to be judged.
        spelled: Where entries stand that have another key path in the declarations: below a misspelt key, or of the
            one player whose keys a phase holds itself.
    """

    recipe: Recipe
    faults: dict[KeyPath, Fault] = field(default_factory=dict)
    unknown: set[KeyPath] = field(default_factory=set)
    guessed: set[KeyPath] = field(default_factory=set)
    spelled: dict[KeyPath, KeyPath] = field(default_factory=dict)

    def written(self, path: KeyPath) -> KeyPath:
        """A key path of the declarations, as it is written in the file."""
        found: KeyPath = ()
        for step in path:
            found = self.spelled.get((*found, step), (*found, step))
        return found

    def judged(self, path: KeyPath) -> bool:
        """Whether what stands at ``path`` was said by the recipe, and is not already found faulty."""
        return path not in self.faults and not within(path, self.guessed)


def within(path: KeyPath, owners: set[KeyPath]) -> bool:
    """Whether ``path`` is one of the owners or lies below one."""
    return any(path[:end] in owners for end in range(len(path) + 1))


def read_form(tree: Tree, world: int = 0) -> Form:
    """Reads the data of a tree as a recipe, with the guesses of a world.

    Raises:
        RecipeError: with the first 100 faults, where there are so many.
    """
    reader = _Reader(tree, world)
    recipe = reader.record(Recipe, tree.data, ())
    assert isinstance(recipe, Recipe)
    return Form(recipe, reader.faults, reader.unknown, reader.guessed, reader.spelled)


class _Reader:
    """Walks the data of a recipe beside its declarations.

    Args:
        tree: The data.
        world: Which guesses to take.
    """

    def __init__(self, tree: Tree, world: int) -> None:
        self.tree, self.world = tree, world
        self.faults: dict[KeyPath, Fault] = {}
        self.unknown: set[KeyPath] = set()
        self.guessed: set[KeyPath] = set()
        self.spelled: dict[KeyPath, KeyPath] = {}

    def fault(self, path: KeyPath, message: str, hint: str = "", where: str = "") -> None:
        """Notes what is wrong at ``path``, unless that only follows from what is noted already."""
        if path in self.faults or within(path, self.guessed):
            return
        self.faults[path] = Fault(dotted(path), message, hint, where or self.tree.where(path))
        if len(self.faults) >= MAX_FAULTS:
            raise RecipeError(self.faults.values())

    def record(self, kind: type[Declared], value: Any, at: KeyPath) -> Declared:
        """The record of ``kind`` that stands at ``at``."""
        if not isinstance(value, dict):
            self.fault(at, f"{spoken(value)} came, wanted a mapping.")
            self.guessed.add(at)
            value = {}
        given = self.given(kind, value, at)
        if kind is Phase:
            given = self.players(given, at)
        return self.filled(kind, given, at)

    def given(self, kind: type[Declared], value: dict[str, Any], at: KeyPath) -> dict[str, tuple[Any, KeyPath]]:
        """What a mapping gives for each field of a record, with the key path it is written at."""
        known = [*kind.shorthand, *kind.model_fields]
        found = {key: (inner, (*at, key)) for key, inner in value.items() if key in known}
        for key in value:
            if key in known or (key == "type" and issubclass(kind, Part) and value[key] == kind.type):
                continue
            name = near(key, [name for name in known if name not in found]) or near(key, known)
            message = f"{clipped(key)} is no option of '{kind.called()}'."
            self.fault((*at, key), message, meant(name, f"It has: {', '.join(known) or 'none'}."))
            if name and name not in found:
                found[name] = (value[key], (*at, key))
                self.spelled[(*at, name)] = (*at, key)
        return found

    def players(self, given: dict[str, tuple[Any, KeyPath]], at: KeyPath) -> dict[str, tuple[Any, KeyPath]]:
        """Moves the keys of its one player, which a phase may hold itself, into that player."""
        own = {key: given.pop(key) for key in Phase.shorthand if key in given}
        if "players" in given:
            for key, (_, path) in own.items():
                self.fault(path, f"'{key}' stands beside 'players'.", "It belongs to one of the players.")
            return given
        self.spelled[(*at, "players", 0)] = self.spelled[(*at, "objectives", 0)] = at
        term = self.filled(Term, {"objective": own.pop("objective", ("elbo", at))}, at)
        player = self.filled(Player, {**own, "objectives": ([term], at)}, at)
        return {**given, "players": ([player], at)}

    def filled(self, kind: type[Declared], given: dict[str, tuple[Any, KeyPath]], at: KeyPath) -> Declared:
        """The record made of what is given, and of guesses for what is faulty or missing."""
        values = {name: self.entry(kind, name, *where) for name, where in given.items()}
        for name, option in kind.model_fields.items():
            if option.is_required() and name not in given:
                self.fault((*at, name), f"the key '{name}' is missing.", " ".join((option.description or "").split()))
                values[name] = self.guess(kind, name, (*at, name))
        made, errors = _made(kind, values)
        faulty: set[str] = set()
        for detail in errors:
            name = str(detail["loc"][0]) if detail["loc"] else ""
            if name in given and _own(kind, detail["loc"]):
                self.fault(self.inside(given[name], detail["loc"][1:]), *said(detail))
                faulty.add(name)
        if faulty:
            values |= {name: self.guess(kind, name, given[name][1]) for name in faulty}
            made, errors = _made(kind, values)
        for detail in errors:
            if not detail["loc"]:
                self.conflict(detail, at)
        return made or self.forced(kind, values, at)

    def inside(self, entry: tuple[Any, KeyPath], loc: tuple[int | str, ...]) -> KeyPath:
        """The key path of an error inside an entry; pydantic's tags of unions are no part of it."""
        here, path = entry
        for step in loc:
            inner: Any = dict(enumerate(here)) if isinstance(here, list) else here
            if isinstance(inner, dict) and step in inner:
                here, path = inner[step], (*path, step)
        return path

    def conflict(self, detail: ErrorDetails, at: KeyPath) -> None:
        """Notes an error about several entries of a record, unless one of them is a guess.

        It is found in the record, or in what a variant or an override changed of it: that came last, and is to blame.
        """
        keys = str(detail.get("ctx", {}).get("keys", "")).split()
        concerned = [self.spelled.get((*at, key), (*at, key)) for key in keys]
        marks = [self.tree.marks[path] for path in concerned if path in self.tree.marks]
        changed = [str(mark) for mark in marks if mark.file != self.tree.mark(at).file]
        if not (self.guessed & {*concerned} if keys else any(path[: len(at)] == at for path in self.guessed)):
            self.fault(at, *said(detail), where=changed[-1] if changed else "")

    def forced(self, kind: type[Declared], values: dict[str, Any], at: KeyPath) -> Declared:
        """The record with values that are each right but do not go together."""
        defaults = {
            name: self.entry(kind, name, option.get_default(call_default_factory=True), (*at, name))
            for name, option in kind.model_fields.items()
            if name not in values
        }
        return kind.model_construct(**defaults, **values)

    def entry(self, kind: type[Declared], name: str, value: Any, path: KeyPath) -> Any:
        """The value of a field: the parts and records in it are read, all else is left to pydantic."""
        option = kind.model_fields.get(name)
        what, many = _content(option)
        if what is None or (value is None and _optional(option)):
            return value
        if not many:
            return self.item(what, value, path)
        return [self.item(what, each, (*path, i)) for i, each in enumerate(value)] if isinstance(value, list) else value

    def item(self, what: str | type[Declared], value: Any, path: KeyPath) -> Declared:
        """A part of the role ``what``, or a record of that type."""
        if isinstance(value, Declared):
            return value
        return self.part(what, value, path) if isinstance(what, str) else self.record(what, value, path)

    def part(self, role: str, value: Any, path: KeyPath) -> Declared:
        """The part at ``path``; where there is none of its name, the one whose name is close, or a stand-in."""
        options = {"type": value} if isinstance(value, str) else value
        name = options.get("type") if isinstance(options, dict) else None
        names = registry.names(role)
        if not isinstance(options, dict) or name not in names:
            name = near(name, names)
            self.fault(path, no_part(role, options), meant(name, f"There is: {', '.join(names)}."))
            if not name:
                return self.stand_in(role, path)
        kind = registry.load(role, str(name))
        return self.record(kind, {key: inner for key, inner in options.items() if key != "type"}, path)

    def stand_in(self, what: str | type[Declared], path: KeyPath) -> Declared:
        """What is taken for a part or record of which nothing is known."""
        self.guessed.add(path)
        if not isinstance(what, str):
            return self.item(what, {}, path)
        self.unknown.add(path)
        return self.item(what, _STAND_INS[what][self.world % len(_STAND_INS[what])], path)

    def guess(self, kind: type[Declared], name: str, path: KeyPath) -> Any:
        """A value for a field that is missing or faulty."""
        self.guessed.add(path)
        option = kind.model_fields[name]
        what, many = _content(option)
        if what is not None:
            found = self.stand_in(what, (*path, 0) if many else path)
            return [found] if many else found
        others = _VALUES if option.is_required() else _VALUES[: self.world][-1:]
        default = None if option.is_required() else option.get_default(call_default_factory=True)
        return next((value for value in others if _accepted(kind, name, value)), default)


def _content(option: FieldInfo | None) -> tuple[str | type[Declared] | None, bool]:
    """The role of the part or the type of the record that a field holds, if it does, and whether it lists them."""
    inner, marks = (option.annotation, option.metadata) if option else (None, [])
    many = get_origin(inner) is list
    if many or _optional(option):
        inner = get_args(inner)[0]
        if get_origin(inner) is Annotated:
            inner, *marks = get_args(inner)
    role = next((mark.role for mark in marks if isinstance(mark, PartOf)), None)
    record = inner if inspect.isclass(inner) and issubclass(inner, Declared) else None
    return role or record, many


def _optional(option: FieldInfo | None) -> bool:
    """Whether a field may be left empty."""
    return option is not None and type(None) in get_args(option.annotation)


def _own(kind: type[Declared], loc: tuple[int | str, ...]) -> bool:
    """Whether an error is a record's own: not inside a part or record in it, which was read before it."""
    what, many = _content(kind.model_fields.get(str(loc[0])))
    return what is None or (many and len(loc) == 1)


def _made(kind: type[Declared], values: dict[str, Any]) -> tuple[Declared | None, list[ErrorDetails]]:
    try:
        return kind.model_validate(values), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def _accepted(kind: type[Declared], name: str, value: Any) -> bool:
    return all(detail["loc"][:1] != (name,) for detail in _made(kind, {name: value})[1])
