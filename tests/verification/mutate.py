"""Plants a fault in the source of a module that is in use, and takes it back."""

from __future__ import annotations

import importlib
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def mutated(module: str, old: str, new: str) -> Iterator[None]:
    """Runs a block with ``old`` replaced by ``new`` in the functions of a module, wherever these are already held.

    The mutated source is compiled as a whole, and each function that came out different gets the code of its mutant:
    so classes keep their identity, and the fault is in every place that holds the function.

    Raises:
        AssertionError: ``old`` does not stand exactly once in the source, or no function changed.
    """
    real = importlib.import_module(module)
    assert real.__file__ is not None
    source = Path(real.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {module}"
    fresh = types.ModuleType(module)
    exec(compile(source.replace(old, new), real.__file__, "exec"), fresh.__dict__)
    mutants = _functions(fresh, module)
    before = {function: function.__code__ for function in _functions(real, module).values()}
    changed = 0
    for name, function in _functions(real, module).items():
        if mutants[name].__code__ != function.__code__:
            function.__code__ = mutants[name].__code__
            changed += 1
    try:
        assert changed, f"{new!r} in place of {old!r} changes no function of {module}"
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code


def _functions(holder: Any, module: str, prefix: str = "") -> dict[str, types.FunctionType]:
    found: dict[str, types.FunctionType] = {}
    for name, value in vars(holder).items():
        value = getattr(value, "fget", None) or getattr(value, "__wrapped__", None) or getattr(value, "__func__", value)
        if isinstance(value, types.FunctionType) and value.__module__ == module:
            found[f"{prefix}{name}"] = value
        elif isinstance(value, type) and value.__module__ == module and not prefix:
            found |= _functions(value, module, f"{name}.")
    return found
