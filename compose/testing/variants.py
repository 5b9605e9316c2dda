"""The forms of a part that are tried: its defaults, each choice it offers, and smaller sizes of the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic import ValidationError
from torch import nn

from compose.core import registry
from compose.core.declare import NetPart, Part, PartOf

#: Where sizes are no larger, integrals are made.
FEW = 4


def variants(part: type[Part] | Part) -> Iterator[Part]:
    """The defaults, then one form for every other choice of every option: a word, a truth value, a nested part.

    A declaration that was handed over with its options stands for itself alone; one that cannot do without an option
    gives nothing.
    """
    if isinstance(part, Part):
        yield part
        return
    if part.needs_options():
        return
    yield part()
    for name, field in part.model_fields.items():
        for choice in _choices(field.annotation, field.metadata, field.default):
            if choice != field.default and choice != [field.default]:
                yield part.model_validate({name: choice})


def _choices(annotation: Any, metadata: list[Any], default: Any = None) -> list[Any]:
    for mark in metadata:
        if isinstance(mark, PartOf):
            parts = {name: registry.load(mark.role, name) for name in registry.names(mark.role)}
            return [name for name, part in parts.items() if not part.needs_options() and _telling(part, default)]
    if annotation is bool:
        return [True, False]
    if type(None) in get_args(annotation):
        return _choices(None, list(getattr(get_args(annotation)[0], "__metadata__", ())))
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) is list:
        (inner,) = get_args(annotation)
        return [[choice] for choice in _choices(None, list(getattr(inner, "__metadata__", ())))]
    return []


def _telling(part: type[Part], default: Any) -> bool:
    """Whether a choice may tell more than others do: to what steers no net, those that can be are nets like others."""
    if not issubclass(part, NetPart) or not part.steered:
        return True
    return isinstance(default, str) and getattr(registry.load("net", default), "steered", False)


def spoken(part: Part) -> str:
    """A part with the options that differ from their defaults: ``flow(transform='maf')``."""
    fields = type(part).model_fields
    set_here = [name for name in fields if getattr(part, name) != fields[name].get_default(call_default_factory=True)]
    options = ((name, getattr(part, name)) for name in set_here)
    return f"{part.type}({', '.join(f'{name}={_value(value)}' for name, value in options)})"


def _value(value: Any) -> str:
    if isinstance(value, Part):
        return spoken(value)
    return f"[{', '.join(map(_value, value))}]" if isinstance(value, list) else repr(value)


def shrunk(part: Part, most: int) -> Part:
    """The same part with every whole number (widths, layers, components) at most ``most``, as far as it allows that."""
    for name in type(part).model_fields:
        options = {key: getattr(part, key) for key in type(part).model_fields}
        # A width may have a least value of its own.
        for size in (most, 2 * most, 4 * most):
            small = _smaller(options[name], size)
            if small is options[name]:
                break
            try:
                part = type(part).model_validate({**options, name: small})
                break
            except ValidationError:
                continue
    return part.narrowed() if most <= FEW else part


def _smaller(value: Any, most: int) -> Any:
    if isinstance(value, Part):
        return shrunk(value, most)
    if isinstance(value, list):
        return [_smaller(item, most) for item in value]
    return most if isinstance(value, int) and not isinstance(value, bool) and value > most else value


@torch.no_grad()
def shake(module: nn.Module, factor: float = 1.0) -> nn.Module:
    """Draws every weight from N(0, 1/fan_in) and every other parameter (biases, gates, tables) from N(0, 0.5^2).

    Fresh networks are near uniform or the identity, and hide what is wrong with a part. ``factor`` scales all of it.
    """
    for name, parameter in module.named_parameters():
        matrix = name.endswith("weight") and parameter.dim() > 1
        parameter.normal_(std=factor * (parameter[0].numel() ** -0.5 if matrix else 0.5))
    return module
