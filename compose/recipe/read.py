"""Reads a recipe: the file, those it extends, and the overrides, into plain data that knows where each entry stands."""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from compose.core.errors import Fault, RecipeError
from compose.recipe.shipped import closest, find
from compose.recipe.text import MAX_BYTES, end_of, parse_text, parse_value
from compose.recipe.tree import Change, KeyPath, Mark, Tree, apply, clipped, spoken

__all__ = ["Mark", "Tree", "parse_text", "read_tree"]

MAX_BASES = 10


def read_tree(ref: str | Path, overrides: Sequence[str] = ()) -> Tree:
    """Reads a recipe file with what it extends, then applies overrides.

    Args:
        ref: A file, or the name of a shipped recipe.
        overrides: ``PATH=VALUE`` each, the value in YAML: ``model.prior=flow``, ``train.0.steps=100``.

    Raises:
        RecipeError: with every fault found in the files and the overrides, each located.
    """
    faults: list[Fault] = []
    tree = None
    try:
        tree = _folded(_chain(ref), faults)
    except RecipeError as error:
        faults += error.faults
    for text in overrides:
        try:
            change = _override(text)
        except RecipeError as error:
            faults += error.faults
            continue
        if tree is not None and (fault := apply(tree, change)):
            faults.append(fault)
    if tree is None or faults:
        raise RecipeError(faults)
    return tree


def _chain(ref: str | Path) -> list[Tree]:
    """The recipe's own tree, then that of each file it extends, down to the one that extends none."""
    path = _existing(str(ref), Path(ref))
    if path is None:
        raise RecipeError([_missing(str(ref), Path(ref))])
    chain: list[Tree] = []
    files: list[Path] = []
    while path is not None:
        files.append(path.resolve())
        shown = os.path.normpath(path)
        chain.append(parse_text(_text(path, shown), shown))
        path = _base(chain, path, files)
    return chain


def _base(chain: list[Tree], path: Path, files: list[Path]) -> Path | None:
    """The file that the last tree of the chain, read from ``path``, extends; none where it extends none."""
    tree = chain[-1]
    if "extends" not in tree.data:
        return None
    where = tree.where(("extends",))
    name: Any = tree.data.pop("extends")
    if not isinstance(name, str) or not name or "://" in name:
        hint = "Wanted a file, relative to this one, or the name of a shipped recipe."
        raise RecipeError([Fault("extends", f"What is extended is {spoken(name)}.", hint, where)])
    base = _existing(name, path.parent / name)
    if base is None:
        raise RecipeError([_missing(name, path.parent / name, "extends", where)])
    if base.resolve() in files:
        circle = " -> ".join([*(each.file for each in chain), os.path.normpath(base)])
        raise RecipeError([Fault("extends", f"It leads in a circle: {circle}.", "Take one 'extends' out.", where)])
    if len(files) > MAX_BASES:
        hint = "Extend one of the first recipes of the chain."
        raise RecipeError([Fault("extends", f"The chain of recipes is longer than {MAX_BASES}.", hint, where)])
    return base


def _folded(chain: list[Tree], faults: list[Fault]) -> Tree:
    """The last tree of the chain, changed by each one before it; entries that lead nowhere are added to ``faults``."""
    *variants, tree = chain
    for variant in reversed(variants):
        marks: dict[Any, dict[KeyPath, Mark]] = {}
        for path, mark in variant.marks.items():
            marks.setdefault(path[:1], {})[path[1:]] = mark
        for key, value in variant.data.items():
            if fault := apply(tree, Change(tuple(key.split(".")), value, marks[(key,)])):
                faults.append(fault)
        tree.marks[()] = variant.marks[()]
        tree.file = variant.file
    return tree


def _override(text: str) -> Change:
    """The change that ``PATH=VALUE`` asks for; an empty value is null."""
    mark = Mark(f"override {clipped(text)}")
    left, equals, right = text.partition("=")
    path = tuple(left.strip().split("."))
    if not equals or path[0] == "extends":
        message = "'extends' cannot be overridden." if equals else "There is no '=' in it."
        hint = "Wanted PATH=VALUE, as in model.prior=flow or train.0.steps=100."
        raise RecipeError([Fault("", message, hint, str(mark))])
    if not right.strip():
        return Change(path, None, {(): mark})
    value, marks = parse_value(right, mark, path)
    return Change(path, value, marks)


def _existing(name: str, path: Path) -> Path | None:
    """The file at ``path``, else the shipped recipe called ``name``."""
    try:
        if path.is_file():
            return path
        found = find(name)
        return found.relative_to(Path.cwd()) if found and found.is_relative_to(Path.cwd()) else found
    except (OSError, ValueError):  # a name too long for the file system, or with a null character in it
        return None


def _missing(name: str, path: Path, key: str = "", where: str = "") -> Fault:
    """Says that there is no such recipe, and which of the shipped ones was meant."""
    message = f"There is no file {clipped(name)}, nor a shipped recipe of that name."
    with suppress(OSError, ValueError):
        message = f"{clipped(name)} is a folder." if path.is_dir() else message
    near = closest(name)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return Fault(key, message, f"{meant}'compose recipes' lists what is shipped.", where)


def _text(path: Path, shown: str) -> str:
    """A file's text; no more of it is read than a recipe may hold."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError([Fault("", f"The file cannot be read: {error.strerror}.", where=shown)]) from error
    if len(raw) > MAX_BYTES:
        message = f"The file has more than {MAX_BYTES // 1024} KiB."
        raise RecipeError([Fault("", message, "Is this a recipe at all?", shown)])
    raw = raw.removeprefix(BOM_UTF8)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        where = Mark(shown, *end_of(raw[: error.start].decode()))
        message = f"The byte 0x{raw[error.start]:02x} is no UTF-8."
        raise RecipeError([Fault("", message, "Save the file as UTF-8.", str(where))]) from error
