"""A recipe as plain data in which every entry knows where it was written, and the rules of changing one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compose.core.errors import Fault

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 32


@dataclass(frozen=True)
class Mark:
    """A place in a recipe, said as ``recipes/vq.yaml:9:3``.

    Args:
        file: The file as its user wrote it, or a command-line override.
        line: From 1; 0 where there is no line to point at, and then only ``file`` is said.
        column: From 1, in characters.
    """

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass
class Tree:
    """A recipe before anyone asks what it means.

    Args:
        data: Mappings, lists, strings, numbers, truth values and nulls.
        marks: Where each entry was written: a mapping's at its key, a list's at the item, ``()`` at the first key.
        file: The file as its user wrote it.
    """

    data: dict[str, Any]
    marks: dict[KeyPath, Mark]
    file: str

    def mark(self, path: KeyPath) -> Mark:
        """The mark of ``path``, or of its nearest ancestor that has one; an empty one where none has."""
        known = (self.marks[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.marks)
        return next(known, Mark(""))

    def where(self, path: KeyPath) -> str:
        """The mark of ``path`` as messages say it; empty where there is none."""
        return str(self.mark(path))


@dataclass(frozen=True)
class Change:
    """A value for one key path: an entry of a variant, or a command-line override.

    Args:
        path: Keys from the top; an index of a list is still text here.
        value: Merged onto what stands there.
        marks: Marks of the value's entries relative to it; ``()`` is the change itself.
    """

    path: tuple[str, ...]
    value: Any
    marks: dict[KeyPath, Mark]


def dotted(path: KeyPath) -> str:
    """A key path as recipes write it: ``model.stages.0.dim``."""
    return ".".join(str(step) for step in path)


def apply(tree: Tree, change: Change) -> Fault | None:
    """Merges a change into the tree, in place.

    A mapping merges into a mapping key by key, unless it names another ``type``: then it replaces the whole, so that
    no option of the old part is left over. Anything else replaces. A part written as its bare name becomes
    ``{type: name}`` where a key below it is set.

    Returns:
        Why the path leads nowhere, if it does.
    """
    if len(change.path) > MAX_DEPTH or not all(step and step.isprintable() for step in change.path):
        hint = "Wanted keys joined by dots, as in model.stages.0.dim."
        return Fault("", f"{clipped(dotted(change.path))} is no key path.", hint, str(change.marks[()]))
    holder: Any = tree.data
    at: KeyPath = ()
    for depth, step in enumerate(change.path):
        key = _key(holder, step, at)
        if isinstance(key, Fault):
            return Fault(dotted(change.path), key.message, key.hint, str(change.marks[()]))
        at = (*at, key)
        if depth + 1 == len(change.path):
            _merge(tree, holder, at, change)
        else:
            holder = _enter(tree, holder, at, change)
    return None


def _key(holder: Any, step: str, at: KeyPath) -> str | int | Fault:
    """The key that ``step`` stands for in what it is to be looked up in."""
    if isinstance(holder, dict):
        return step
    if not isinstance(holder, list):
        return Fault(
            "", f"'{dotted(at)}' is {spoken(holder)}, and nothing lies below it.", f"Set '{dotted(at)}' itself."
        )
    if step.isascii() and step.isdigit() and len(step) < 9 and int(step) < len(holder):
        return int(step)
    hint = f"Wanted an index from 0 to {len(holder) - 1}." if holder else "It is empty."
    return Fault("", f"'{dotted(at)}' is a list of {len(holder)}, and has no entry {clipped(step)}.", hint)


def _enter(tree: Tree, holder: Any, at: KeyPath, change: Change) -> Any:
    """What the next step is looked up in: made where it is missing, spelled out where it is a bare name."""
    key = at[-1]
    if isinstance(holder, dict) and key not in holder:
        holder[key] = {}
        tree.marks[at] = change.marks[()]
    return _spelled_out(tree, holder, at)


def _spelled_out(tree: Tree, holder: Any, at: KeyPath) -> Any:
    value = holder[at[-1]]
    if isinstance(value, str):
        value = holder[at[-1]] = {"type": value}
        # A recipe made in Python has no marks.
        if at in tree.marks:
            tree.marks[(*at, "type")] = tree.marks[at]
    return value


def _merge(tree: Tree, holder: Any, at: KeyPath, change: Change, inner: KeyPath = ()) -> None:
    """Merges the entry ``inner`` of the change's value onto what stands at ``at``, the last key of ``holder``."""
    new: Any = change.value
    for step in inner:
        new = new[step]
    old = holder.get(at[-1]) if isinstance(holder, dict) else holder[at[-1]]
    if isinstance(new, dict) and isinstance(old, (dict, str)) and _same_type(old, new):
        old = _spelled_out(tree, holder, at)
        for key in new:
            _merge(tree, old, (*at, key), change, (*inner, key))
        return
    for path in _paths(old):
        tree.marks.pop(at + path, None)
    holder[at[-1]] = new
    for path in _paths(new):
        tree.marks[at + path] = change.marks[inner + path]


def _same_type(old: dict[str, Any] | str, new: dict[str, Any]) -> bool:
    was = old if isinstance(old, str) else old.get("type")
    return new.get("type", was) == was


def _paths(value: Any) -> Iterator[KeyPath]:
    """The path of a value and of everything below it, relative to it."""
    yield ()
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in below:
        for path in _paths(inner):
            yield (key, *path)


def spoken(value: Any) -> str:
    """What a value is, in the words of a message: ``a list``, ``the text 'flow'``."""
    if value is None:
        return "null"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return f"the text {clipped(value)}"
    return f"the truth value {str(value).lower()}" if isinstance(value, bool) else f"the number {value}"


def clipped(text: str, width: int = 60) -> str:
    """A text in quotes, safe to print: escaped, and cut where it is long."""
    return repr(text if len(text) <= width else text[: width - 3] + "...")
