"""In what two recipes differ, key by key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from compose.recipe.recipe import Recipe
from compose.recipe.write import plain


def changes(a: Recipe, b: Recipe) -> Iterator[tuple[str, str, str]]:
    """The key paths at which two recipes differ, defaults written out, with both values."""
    left, right = (dict(_leaves(plain(recipe, full=True))) for recipe in (a, b))
    for key in dict.fromkeys((*left, *right)):
        if left.get(key) != right.get(key):
            yield key, left.get(key, ""), right.get(key, "")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every plain value by its key path; a list of plain values counts as one."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value):
        below = ()
    if not below:
        yield path, value if isinstance(value, str) else json.dumps(value)
    for key, inner in below:
        yield from _leaves(inner, f"{path}.{key}" if path else str(key))
