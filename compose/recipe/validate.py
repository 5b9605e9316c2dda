"""From plain data to declarations: every fault of form at once, and a best guess in place of what is faulty.

Pydantic says what is wrong. What it rejects is then mended (a misspelt key or name becomes the close one, a bad value
its default, an unreadable part a stand-in) and read again, so that faults behind the first ones are found too and the
types can still be checked around them.
"""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from compose.core import registry
from compose.core.errors import Fault
from compose.recipe.recipe import Recipe
from compose.recipe.tree import KeyPath, Tree, dotted, spoken

#: What stands in for a required entry that is missing or unreadable.
_GUESSES: dict[str, Any] = {
    "data": "digits",
    "model": {},
    "train": [{"steps": 1}],
    "objective": "elbo",
    "folder": ".",
    "stages": [],
    "players": [{"objectives": [{"objective": "elbo"}]}],
    "objectives": [{"objective": "elbo"}],
    "trains": ["model"],
}
_STAND_INS = {"stage": "latent", "density": "normal", "net": "mlp", "objective": "elbo", "data": "digits"}
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
}
_LIMITS = {
    "greater_than": (">", "gt"),
    "greater_than_equal": (">=", "ge"),
    "less_than": ("<", "lt"),
    "less_than_equal": ("<=", "le"),
    "too_short": ("a length of at least", "min_length"),
    "too_long": ("a length of at most", "max_length"),
}
_ROUNDS = 40


@dataclass
class Form:
    """A recipe whose form was read, with all that was wrong with it.

    Args:
        recipe: The declarations, best guesses where faulty.
        faults: One for each key path at fault, each with where it was written.
        paths: Those key paths.
        unknown: Key paths of parts that had to be replaced by a stand-in: nothing that depends on them is known.
    """

    recipe: Recipe
    faults: list[Fault] = field(default_factory=list)
    paths: set[KeyPath] = field(default_factory=set)
    unknown: set[KeyPath] = field(default_factory=set)


def read_form(tree: Tree) -> Form:
    """Validates the data of a tree against the recipe's form."""
    data: Any = copy.deepcopy(tree.data)
    form = Form(recipe=None)  # type: ignore[arg-type]
    for _ in range(_ROUNDS):
        try:
            form.recipe = Recipe.model_validate(data)
            return form
        except ValidationError as error:
            # Deepest first: mending an owner would hide what is wrong inside it.
            details = sorted(error.errors(include_url=False), key=lambda each: -len(each["loc"]))
            for detail in details:
                path = _as_written(data, detail["loc"])
                if not _consequence(form, path, detail):
                    form.faults.append(_fault(tree, path, detail))
                form.paths.add(path)
                data = _mend(data, path, detail, form)
    raise AssertionError(f"a recipe was still unreadable after {_ROUNDS} rounds of mending: {form.faults}")


def _as_written(data: Any, loc: tuple[int | str, ...]) -> KeyPath:
    """The key path in the file: without pydantic's tags, and without the player that a phase stands for."""
    path: list[str | int] = []
    here = data
    for i, step in enumerate(loc):
        last = i == len(loc) - 1
        if isinstance(here, dict) and step in here:
            here = here[step]
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
        elif step in ("players", "objectives") or (isinstance(step, int) and not isinstance(here, list)):
            if not last or not isinstance(here, dict):
                continue
        elif not last or not (isinstance(here, dict) and isinstance(step, str)):
            # A tag of a union, or something inside a part that was written as its bare name.
            continue
        path.append(step)
    return tuple(path)


def _consequence(form: Form, path: KeyPath, detail: ErrorDetails) -> bool:
    """Whether this error only follows from one already reported."""
    if path in form.paths:
        return True
    concerned = str(detail.get("ctx", {}).get("keys", "")).split()
    return any((*path, key) in form.paths for key in concerned)


def _fault(tree: Tree, path: KeyPath, detail: ErrorDetails) -> Fault:
    kind, context, came = detail["type"], detail.get("ctx", {}), spoken(detail["input"])
    message, hint = f"{came} came; {detail['msg']}.", ""
    if kind == "unknown_key":
        message = f"'{path[-1]}' is no option of '{context['name']}'."
        hint = f"{_close(path[-1], context['options'].split(', '))}It has: {context['options']}."
    elif kind == "missing":
        message = f"the key '{path[-1]}' is missing."
    elif kind == "literal_error":
        message = f"{came} came, wanted {context['expected']}."
        hint = _close(detail["input"], context["expected"].replace("'", "").replace(" or ", ", ").split(", ")).strip()
    elif kind == "part_type":
        names = registry.names(context["role"])
        message = f"{detail['msg']}{'' if detail['msg'].endswith('?') else '.'}"
        hint = f"{_close(context.get('name', ''), names)}There is: {', '.join(names)}."
    elif kind.startswith("part_") or "keys" in context:
        message = f"{detail['msg']}."
    elif kind in _WANTED:
        message = f"{came} came, wanted {_WANTED[kind]}."
    elif kind in _LIMITS:
        sign, key = _LIMITS[kind]
        message = f"{came} came, wanted {sign} {context[key]}."
    return Fault(dotted(path), message, hint, tree.where(path))


def _close(word: Any, known: list[str]) -> str:
    """A proposal, with a blank after it, or nothing."""
    near = difflib.get_close_matches(str(word), known, 1)
    return f"Did you mean '{near[0]}'? " if near and near[0] != word else ""


def _mend(data: Any, path: KeyPath, detail: ErrorDetails, form: Form) -> Any:
    """The data with a best guess at ``path``."""
    kind, context = detail["type"], detail.get("ctx", {})
    if not path:
        return {}
    holder = data
    for step in path[:-1]:
        holder = holder[step]
    key = path[-1]
    if isinstance(holder, str):
        return data
    if kind == "unknown_key":
        value = holder.pop(key)
        near = difflib.get_close_matches(str(key), context["options"].split(", "), 1)
        if near and near[0] not in holder:
            holder[near[0]] = value
    elif kind == "part_type":
        near = difflib.get_close_matches(context.get("name", ""), registry.names(context["role"]), 1)
        if near:
            holder[key] = {**holder[key], "type": near[0]} if isinstance(holder[key], dict) else near[0]
        else:
            form.unknown.add(path)
            holder[key] = _STAND_INS[context["role"]]
    elif kind.startswith("part_"):
        form.unknown.add(path)
        holder[key] = _STAND_INS[context["role"]]
    elif "keys" in context:
        # Two keys that exclude each other stand side by side; the first to go is the one with a default.
        inside = holder[key]
        present = [name for name in context["keys"].split() if inside.get(name)]
        for name in present[1:]:
            inside.pop(name)
        if not present:
            inside[context["keys"].split()[0]] = 1
    elif isinstance(holder, list):
        # The item keeps its place, since later errors count from it.
        guesses = _GUESSES.get(str(path[-2])) or ["model" if kind == "string_type" else 8]
        holder[key] = copy.deepcopy(guesses[0])
    elif kind == "missing":
        form.unknown |= {path} if key in ("data", "model") else set()
        holder[key] = copy.deepcopy(_GUESSES[str(key)])
    else:
        holder.pop(key, None)
    return data
