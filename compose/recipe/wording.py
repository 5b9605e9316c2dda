"""What is wrong with the form of a recipe, in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic_core import ErrorDetails

from compose.core import registry
from compose.recipe.tree import clipped, spoken

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "path_type": "a text",
    "list_type": "a list",
    "dict_type": "a mapping",
}
_LIMITS = {
    "greater_than": "> {gt}",
    "greater_than_equal": ">= {ge}",
    "less_than": "< {lt}",
    "less_than_equal": "<= {le}",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
}


def no_part(role: str, options: Any) -> str:
    """Why a value, a bare name spelled out, stands for no part of a role."""
    if not isinstance(options, dict):
        return f"{spoken(options)} came, wanted a part ({role}): its name, or {{type: name, ...}}."
    if options.get("type") is None:
        return f"the key 'type' is missing: which {role}?"
    name = options["type"]
    shelf = next((shelf for shelf in registry.ROLES if name in registry.names(shelf)), None)
    called = clipped(name) if isinstance(name, str) else spoken(name)
    return f"there is no {role} called {called}{f'; that is a {shelf}' if shelf else ''}."


def said(detail: ErrorDetails) -> tuple[str, str]:
    """Message and hint of an error of pydantic's, or of a validator's own."""
    kind, context, came = detail["type"], detail.get("ctx", {}), spoken(detail["input"])
    if kind == "literal_error":
        choices = re.findall("'([^']*)'", context["expected"])
        return f"{came} came, wanted {context['expected']}.", meant(near(detail["input"], choices))
    if kind in _WANTED:
        return f"{came} came, wanted {_WANTED[kind]}.", ""
    if kind in _LIMITS:
        came = f"{came} of length {context['actual_length']}" if "actual_length" in context else came
        limits = {key: f"{limit:.15g}" for key, limit in context.items() if not isinstance(limit, str)}
        return f"{came} came, wanted {_LIMITS[kind].format(**limits)}.", ""
    return f"{detail['msg'].removeprefix('Value error, ')}.", ""


def near(word: Any, known: Iterable[str]) -> str:
    """The name that a word comes close to; empty where there is none."""
    found = difflib.get_close_matches(word, known, 1, cutoff=0.7) if isinstance(word, str) else []
    return found[0] if found else ""


def meant(name: str, others: str = "") -> str:
    """A hint that proposes a name, if there is one, before what else there is."""
    return " ".join(text for text in (f"Did you mean '{name}'?" if name else "", others) if text)
