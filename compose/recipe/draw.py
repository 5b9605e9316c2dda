"""Draws the stack of a recipe: the prior on top, the data below, the space and the kind on every edge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compose.core.declare import Part, Slot, in_recipe
from compose.core.kinds import Kind, weakest
from compose.core.roles import StagePart
from compose.parts.densities.model import Model
from compose.recipe.check import Checked, kind_of
from compose.recipe.equation import latent


@dataclass(frozen=True)
class Line:
    """One line of the drawing: an edge, or a part on it.

    Args:
        label: What it is: ``z1``, ``stage 1``, ``encoder``; indented as it is nested.
        what: An edge's space, or a part's name and those options that have not their default.
        kind: Of an edge, what the model above promises about an item on it; of a part, what that part promises.
        path: Key path of the part; empty for an edge.
    """

    label: str
    what: str
    kind: Kind | None
    path: str = ""


def draw(checked: Checked) -> list[Line]:
    """The lines of a recipe's stack, from the prior down to the data."""
    lines = list(_stack(checked.recipe.model, checked.slot, "model", "x", 0))
    labels = [] if checked.labels is None else [Line("y", f"{checked.labels}, the class label", None)]
    return [*lines, *labels, Line("data", described(checked.recipe.data), None, "data")]


def described(part: Part) -> str:
    """A part's name and those of its options that are plain and not the default: ``flow: layers 8, transform maf``."""
    written = {
        key: getattr(part, key)
        for key, field in type(part).model_fields.items()
        if not _holds_parts(getattr(part, key)) and getattr(part, key) != field.default
    }
    return f"{part.type}: {', '.join(f'{key} {value}' for key, value in written.items())}" if written else part.type


def _stack(model: Model, slot: Slot, path: str, datum: str, depth: int) -> Iterator[Line]:
    """A model's lines; its datum is called ``datum``, and ``depth`` is how many models it stands in."""
    nested = list(model.nested(slot).items())
    kinds = [kind_of(part, place) or Kind.EXACT for _, (part, place) in nested]
    edges = [datum, *(latent(depth, i) for i in range(1, len(nested) + 1))]
    indent = "    " * depth
    for i, (key, (part, place)) in reversed(list(enumerate(nested))):
        name = f"stage {i + 1}" if isinstance(part, StagePart) else "prior"
        yield from _part(f"{indent}{name}", part, place, f"{path}.{key}", (edges[i], edges[i + 1]), depth)
        yield Line(f"{indent}{edges[i]}", str(place.space), weakest(kinds[i:]))


def _part(label: str, part: Part, slot: Slot, path: str, edges: tuple[str, str], depth: int) -> Iterator[Line]:
    """A part's line and, indented, those of what is inside it; it stands between two edges."""
    yield Line(label, described(part), kind_of(part, slot), path)
    if isinstance(part, Model):
        below, above = edges
        yield from _stack(part, slot, path, above if slot.use == "posterior" else below, depth + 1)
        return
    indent = " " * (len(label) - len(label.lstrip()) + 2)
    once = {in_recipe(key): inner for key, inner in reversed(part.nested(slot).items())}
    for key, (child, place) in reversed(once.items()):
        yield from _part(f"{indent}{key}", child, place, f"{path}.{key}", edges, depth)


def _holds_parts(value: object) -> bool:
    return any(isinstance(item, Part) for item in (value if isinstance(value, list) else [value]))
