"""Writes a recipe as YAML that reads back to an equal one."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from compose.core.declare import Declared, Part
from compose.core.errors import RecipeError
from compose.recipe.recipe import Phase, Recipe, Term
from compose.recipe.text import parse_value
from compose.recipe.tree import Mark

WIDTH = 100


def to_yaml(recipe: Recipe, full: bool = False) -> str:
    """The recipe as a file says it: in block style, with short mappings of plain values on one line.

    Args:
        recipe: What to write. A torch module handed over in Python is written as ``<its class>``, and does not read
            back.
        full: Whether to write options that have their default.
    """
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 10_000  # Lines are broken by style, never inside a value.
    yaml.indent(mapping=2, sequence=4, offset=2)
    out = StringIO()
    styled = {key: _styled(value, flow=key not in ("model", "train")) for key, value in plain(recipe, full).items()}
    yaml.dump(CommentedMap(styled), out)
    return out.getvalue()


def plain(recipe: Recipe, full: bool = False) -> dict[str, Any]:
    """The recipe as the data that a file holds: mappings, lists, texts, numbers, truth values and nulls."""
    return {**_options(recipe, full), "model": _options(recipe.model, full)}


def _options(record: Declared, full: bool) -> dict[str, Any]:
    """The options of a declaration, in the order they are declared."""
    values = record.model_dump(mode="json")
    found: dict[str, Any] = {}
    for key, field in type(record).model_fields.items():
        value = getattr(record, key)
        if full or field.is_required() or not _is_default(value, field.default):
            found[key] = _plain(value, full) if isinstance(value, (Declared, list)) else values[key]
    return found


def _plain(value: Any, full: bool) -> Any:
    if isinstance(value, list):
        return [_plain(item, full) for item in value]
    if not isinstance(value, Declared):
        return value
    options = _options(value, full)
    if isinstance(value, Part):
        return {"type": value.type, **options} if options else value.type
    return _with_one_player(options, value) if isinstance(value, Phase) else options


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(value, Part) and isinstance(default, str):
        return value.type == default and not _options(value, full=False)
    return value == default


def _with_one_player(written: dict[str, Any], phase: Phase) -> dict[str, Any]:
    """A phase whose one player has one plain objective: their keys stand in the phase itself."""
    player = phase.players[0]
    objective = player.objectives[0].objective
    if len(phase.players) > 1 or player.objectives != [Term(objective=objective)]:
        return written
    own = written.pop("players")[0]
    return {"objective": own.pop("objectives")[0]["objective"], **own, **written}


def _styled(value: Any, flow: bool = True) -> Any:
    """The same data with a style on every mapping and list, and quotes where a text would read as something else."""
    if isinstance(value, str):
        return value if _reads_back(value) else DoubleQuotedScalarString(value)
    if isinstance(value, dict):
        styled: Any = CommentedMap({key: _styled(item) for key, item in value.items()})
    elif isinstance(value, list):
        styled = CommentedSeq([_styled(item) for item in value])
    else:
        return value
    if (flow and _is_leaf(value) and len(str(value)) < WIDTH) or not value:
        styled.fa.set_flow_style()
    return styled


def _is_leaf(value: Any) -> bool:
    """Whether nothing nests in it but lists of plain values."""
    items = value.values() if isinstance(value, dict) else value
    lists = [item for item in items if isinstance(item, list)]
    return not any(isinstance(item, dict) for item in items) and all(
        not isinstance(item, (dict, list)) for inner in lists for item in inner
    )


def _reads_back(text: str) -> bool:
    try:
        return parse_value(text, Mark(""), ())[0] == text
    except RecipeError:
        return False


class _Representer(RoundTripRepresenter):
    """Spells null out: an empty value looks like a slip."""


_Representer.add_representer(
    type(None), lambda representer, value: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)
