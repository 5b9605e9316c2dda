"""Recipe text to plain data with positions: YAML 1.2 core schema, data only.

The text is read as parser events and never composed or constructed by the library, so aliases, tags and deep nesting
are refused as they come by, before anything is made of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isfinite
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from compose.core.errors import Fault, RecipeError
from compose.recipe.tree import MAX_DEPTH, KeyPath, Mark, Tree, clipped, dotted, spoken

MAX_BYTES = 256 * 1024
MAX_NODES = 20_000
MAX_FAULTS = 100
MAX_DIGITS = 18

# YAML 1.2.2, section 10.3.2; ruamel's own resolver also takes 1_000, 0b1 and dates.
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")

_PLAIN = "A recipe is plain data: write the value out, or use 'extends'."
_TOP = "Wanted a mapping: 'data: ...', 'model: ...'."
_ODD = "Is this a recipe at all?"
_SYNTAX = "Often a missing space after ':', an unclosed bracket or quote, a tab, or an indent that does not line up."


def parse_text(text: str, file: str) -> Tree:
    """Reads one recipe; ``extends`` is left as an entry like any other.

    Args:
        text: One YAML document with a mapping at its top.
        file: What positions call it.

    Raises:
        RecipeError: with every fault of the text, each located; a text with 100 of them is not read on.
    """
    reader = _Reader(text, lambda line, column: Mark(file, line, column))
    data = reader.document()
    if not reader.faults and not isinstance(data, dict):
        reader.fault((), f"The top level is {spoken(data)}.", _TOP, Mark(file, 1, 1))
    if reader.faults:
        raise RecipeError(reader.faults)
    return Tree(data, reader.marks, file)


def parse_value(text: str, mark: Mark, path: tuple[str, ...]) -> tuple[Any, dict[KeyPath, Mark]]:
    """Reads the value of an override: the value and the marks of its entries, which all are ``mark``.

    Raises:
        RecipeError: with every fault of the text, each below ``path``.
    """
    reader = _Reader(text, lambda line, column: mark, path)
    value = reader.document()
    if reader.faults:
        raise RecipeError(reader.faults)
    return value, reader.marks


def end_of(text: str) -> tuple[int, int]:
    """Line and column, both from 1, of what follows ``text``."""
    lines = re.split(r"\r\n|\r|\n", text)
    return len(lines), len(lines[-1]) + 1


class _Reader:
    """One document, event by event.

    Args:
        text: What to read.
        locate: The mark of a line and a column, both from 1.
        above: Key path that the document's value will stand at.
    """

    def __init__(self, text: str, locate: Callable[[int, int], Mark], above: tuple[str, ...] = ()) -> None:
        self.text, self.locate, self.above = text, locate, above
        self.faults: list[Fault] = []
        self.marks: dict[KeyPath, Mark] = {}
        self.nodes = 0
        self.here = locate(1, 1)
        self.events = YAML(typ="safe", pure=True).parse(text)

    def document(self) -> Any:
        """The document's value, as good as it can be told; what is wrong with it lies in ``faults``."""
        try:
            self._characters()
            return self._document()
        except _StopReading:
            return None

    def fault(self, path: KeyPath, message: str, hint: str = "", mark: Mark | None = None) -> None:
        """Notes a fault, at the event read last unless told; a text with too many is not read on."""
        self.faults.append(Fault(dotted((*self.above, *path)), message, hint, str(mark or self.here)))
        if len(self.faults) >= MAX_FAULTS:
            raise _StopReading

    def _characters(self) -> None:
        if len(self.text) > MAX_BYTES:
            self.fault((), f"The text has {len(self.text)} characters.", f"At most {MAX_BYTES // 1024} KiB are read.")
            raise _StopReading
        if odd := _UNPRINTABLE.search(self.text):
            mark = self.locate(*end_of(self.text[: odd.start()]))
            self.fault((), f"The character U+{ord(odd[0]):04X} does not belong in a text.", _ODD, mark)
            raise _StopReading

    def _next(self) -> Any:
        try:
            event = next(self.events)
        except MarkedYAMLError as error:
            at = error.problem_mark or error.context_mark
            mark = self.locate(at.line + 1, at.column + 1) if at else None
            said = " ".join(part for part in (error.problem, error.context) if part)
            self.fault((), f"This is no YAML: {said}.", _SYNTAX, mark)
            raise _StopReading from None
        except Exception as error:  # ruamel lets others out of broken texts: an OverflowError of "\UFFFFFFFF", ...
            self.fault((), f"This is no YAML: {error.__class__.__name__}, {clipped(str(error))}.", _SYNTAX)
            raise _StopReading from error
        self.here = self.locate(event.start_mark.line + 1, event.start_mark.column + 1)
        return event

    def _document(self) -> Any:
        self._next()
        if isinstance(self._next(), StreamEndEvent):
            self.fault((), "There is nothing in it.", _TOP, self.locate(1, 1))
            return None
        first = self._next()
        self.marks[()] = self.here
        value = self._value(first, ())
        self._next()
        if isinstance(self._next(), DocumentStartEvent):
            self.fault((), "A second document begins here.", "One file holds one recipe; take out the '---'.")
        return value

    def _value(self, event: Any, path: KeyPath) -> Any:
        """The value that begins with ``event``; ``path`` is where it stands, and its length the depth of nesting."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            self.fault(path, f"The text has more than {MAX_NODES} entries.", _ODD)
            raise _StopReading
        if isinstance(event, AliasEvent):
            return self.fault(path, f"The alias {clipped('*' + event.anchor)} does not belong in a recipe.", _PLAIN)
        if event.anchor:
            self.fault(path, f"The anchor {clipped('&' + event.anchor)} does not belong in a recipe.", _PLAIN)
        if event.tag:
            self.fault(path, f"The tag {clipped(event.tag)} does not belong in a recipe.", _PLAIN)
        if isinstance(event, ScalarEvent):
            return self._scalar(event, path)
        if len(self.above) + len(path) >= MAX_DEPTH:
            self.fault(path[:4], f"Entries are nested more than {MAX_DEPTH} deep.", _ODD)
            raise _StopReading
        return self._list(path) if isinstance(event, SequenceStartEvent) else self._mapping(path)

    def _list(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            inner = (*path, len(items))
            self.marks[inner] = self.here
            items.append(self._value(event, inner))
        return items

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            mark = self.here
            key = self._key(event, path, mark)
            inner = (*path, "?" if key is None else key)
            if key in entries:
                message = f"The key is written twice; first at {self.marks[inner]}."
                self.fault(inner, message, "Take one of them out.", mark)
            value = self._value(self._next(), inner)
            if key is not None:
                self.marks.setdefault(inner, mark)
                entries[key] = value
        return entries

    def _key(self, event: Any, path: KeyPath, mark: Mark) -> str | None:
        """The key that begins with ``event``; none where it is no name."""
        known = len(self.faults)
        key = self._value(event, (*path, "?"))
        if len(self.faults) > known:
            return None
        if key == "<<":
            self.fault(path, "'<<' merges mappings, which a recipe does not.", _PLAIN, mark)
            return None
        if not isinstance(key, str):
            hint = "" if isinstance(key, (dict, list)) else "Put it in quotes if it is a name."
            self.fault(path, f"A key is {spoken(key)}; wanted a name.", hint, mark)
            return None
        return key

    def _scalar(self, event: ScalarEvent, path: KeyPath) -> str | int | float | bool | None:
        text: str = event.value
        if odd := _UNPRINTABLE.search(text):
            return self.fault(path, f"The text holds the character U+{ord(odd[0]):04X}.", "Leave it out.")
        if event.style:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            digits = text.lstrip("+-").removeprefix("0x").removeprefix("0o")
            if len(digits) > MAX_DIGITS:
                return self.fault(path, f"The number has {len(digits)} digits.", f"At most {MAX_DIGITS} are read.")
            return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
        if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and not isfinite(float(text))):
            return self.fault(path, f"The number {clipped(text)} is not finite.", "Wanted a finite number.")
        return float(text) if _FLOAT.fullmatch(text) else text


class _StopReading(Exception):  # noqa: N818 - no error: the faults are noted already
    """Ends the reading of a text whose faults are noted."""
