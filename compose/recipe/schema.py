"""The JSON schema of recipes, for editors: from the declarations alone.

A recipe stands whole in ``recipe``. One that extends another is a ``variant``: its mappings merge onto what they
change, so nothing in them is required, while its lists replace. Every definition therefore comes twice.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic.json_schema import GenerateJsonSchema, PydanticJsonSchemaWarning

from compose.core import registry
from compose.core.declare import Declared, Part
from compose.core.optimizer import Optimizer
from compose.recipe.recipe import Evaluation, Phase, Player, Recipe, Term

Schema = dict[str, Any]

_BUDGETS = ("steps", "epochs", "seconds")
_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def schema() -> Schema:
    """The schema of a recipe file, JSON Schema draft 2020-12; knows the parts of plugins that are loaded."""
    whole = {**_records(), **_parts()}
    partial = {f"variant.{name}": _partial(name, definition, whole) for name, definition in whole.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A compose recipe",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/variant"},
        "else": {"$ref": "#/$defs/recipe"},
        "$defs": {**whole, "variant": _variant(partial), **partial},
    }


class _Generator(GenerateJsonSchema):
    """Without a title for every field, which would only repeat its key."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _of(declaration: type[Declared]) -> Schema:
    """A declaration's own schema; what it nests is referred to."""
    with warnings.catch_warnings():
        # What only Python can hand over (a torch module) has no form in a file.
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
        own = declaration.model_json_schema(ref_template="#/$defs/{model}", schema_generator=_Generator)
    own.pop("$defs", None)
    own.pop("title", None)
    return _renamed(own)


def _renamed(node: Any) -> Any:
    """The same schema with references to our definitions: roles, ``density.model``, records in lower case."""
    if isinstance(node, list):
        return [_renamed(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return {**node, "$ref": f"#/$defs/{'density.model' if name == 'Model' else name.lower()}"}
    return {key: _renamed(value) for key, value in node.items()}


def _records() -> dict[str, Schema]:
    found = {record.called(): _of(record) for record in (Recipe, Phase, Player, Term, Optimizer, Evaluation)}
    found["phase"] = _phase(found["phase"], found["player"], found["term"])
    return found


def _phase(phase: Schema, player: Schema, term: Schema) -> Schema:
    """A phase may be its own one player; and it has one budget."""
    known = {**player["properties"], **term["properties"]}
    short = {key: known[key] for key in Phase.shorthand}
    budgets = [{"required": [key], "properties": {key: {"type": "number"}}} for key in _BUDGETS]
    return {
        **{key: value for key, value in phase.items() if key != "required"},
        "properties": {**short, **phase["properties"]},
        "oneOf": budgets,
        "if": {"required": ["players"]},
        "then": {"properties": dict.fromkeys(short, False)},
    }


def _parts() -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for role in registry.ROLES:
        names = registry.names(role)
        parts = {name: registry.load(role, name) for name in names}
        found |= {f"{role}.{name}": _part(part) for name, part in parts.items()}
        found[role] = _role(role, names, [name for name in names if not found[f"{role}.{name}"].get("required")])
    return found


def _part(part: type[Part]) -> Schema:
    own = _of(part)
    source = f"\n\nSource: {part.source}." if part.source else ""
    return {
        **own,
        "description": own.get("description", "") + source,
        "properties": {"type": {"const": part.type, "description": "The part's name."}, **own["properties"]},
    }


def _role(role: str, names: list[str], bare: list[str]) -> Schema:
    """A part's name, or a mapping whose ``type`` says which options there are."""
    return {
        "description": f"A {role}: its name, or a mapping with its name as 'type' and its options.",
        "if": {"type": "string"},
        "then": {"enum": bare},
        "else": {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": names}},
            "allOf": [
                {
                    "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                    "then": {"$ref": f"#/$defs/{role}.{name}"},
                }
                for name in names
            ],
        },
    }


def _partial(name: str, definition: Schema, whole: dict[str, Schema]) -> Schema:
    """A definition as a change: nothing is required; without a ``type`` any option of the role may be meant."""
    changed = _referring(copy.deepcopy(definition))
    for key in ("required", "oneOf"):
        changed.pop(key, None)
    if name in registry.ROLES:
        options = _options(_referring(whole[f"{name}.{part}"]) for part in registry.names(name))
        options["type"] = {"enum": registry.names(name)}
        changed["else"] |= {"required": [], "properties": options, "additionalProperties": False}
    return changed


def _referring(node: Any) -> Any:
    """The same schema with references to changes, except in lists: those replace."""
    if isinstance(node, list):
        return [_referring(item) for item in node]
    if not isinstance(node, dict):
        return node
    changed = {key: value if key == "items" else _referring(value) for key, value in node.items()}
    if "$ref" in changed:
        changed["$ref"] = changed["$ref"].replace("#/$defs/", "#/$defs/variant.")
    return changed


def _options(definitions: Iterator[Schema]) -> dict[str, Schema]:
    """Every key of several definitions, each with all that it may hold."""
    found: dict[str, list[Schema]] = {}
    for definition in definitions:
        for key, value in definition.get("properties", {}).items():
            kept = found.setdefault(key, [])
            if value not in kept:
                kept.append(value)
    return {key: values[0] if len(values) == 1 else {"anyOf": values} for key, values in found.items()}


def _variant(partial: dict[str, Schema]) -> Schema:
    """A recipe that extends another: its keys may be paths."""
    top = partial["variant.recipe"]["properties"]
    options = {**_options(iter(partial.values())), "type": {"type": "string"}}
    steps = "|".join([*map(re.escape, options), "[0-9]+"])
    paths = rf"^({'|'.join(top)})(\.({steps}))*\."
    held = [{"$ref": f"#/$defs/variant.{name}"} for name in ("stage", "phase", "player", "term")]
    return {
        "type": "object",
        "required": ["extends"],
        "properties": {
            "extends": {"type": "string", "description": "A file, relative to this one, or a shipped recipe's name."},
            **top,
        },
        "patternProperties": {
            **{f"{paths}{re.escape(key)}$": value for key, value in options.items()},
            f"{paths}[0-9]+$": {"anyOf": [*held, {"type": ["string", "number"]}]},
        },
        "additionalProperties": False,
    }


class Option(NamedTuple):
    """One option of a declaration, in words.

    Args:
        key: Its key in recipes.
        wanted: What it may hold.
        default: Its default, as a recipe would write it; ``required`` where it has none.
        meaning: What it does.
    """

    key: str
    wanted: str
    default: str
    meaning: str


def options(declaration: type[Declared]) -> list[Option]:
    """The options of a declaration, in the order they are declared."""
    own = _of(declaration)
    return [
        Option(
            key,
            _wanted(found),
            _default(declaration, key, found),
            found.get("description", ""),
        )
        for key, found in own["properties"].items()
    ]


def _default(declaration: type[Declared], key: str, found: Schema) -> str:
    """A default in words; of a record what differs from the record's own."""
    if "default" not in found:
        return "required"
    value = declaration.model_fields[key].default
    if isinstance(value, Declared) and not isinstance(value, Part):
        return json.dumps(value.model_dump(exclude_defaults=True))
    return json.dumps(found["default"]).strip('"')


def _wanted(found: Schema) -> str:
    """What a schema takes, in words."""
    if "$ref" in found:
        name = found["$ref"].rpartition("/")[2]
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    if "anyOf" in found:
        return " or ".join(_wanted(each) for each in found["anyOf"])
    if "enum" in found:
        return ", ".join(found["enum"])
    if found.get("type") == "array":
        return f"a list, each {_wanted(found['items'])}"
    words = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "a text"}
    kind: str = found.get("type") or "anything"
    limits = [f"{sign} {found[key]}" for key, sign in _LIMITS.items() if key in found]
    return " ".join([words.get(kind, kind), " and ".join(limits)]).strip()
