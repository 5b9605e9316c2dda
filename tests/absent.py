"""Recipes whose data are not on every machine: Fashion-MNIST is a Debian package."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from compose.recipe.check import check


def absent(name: str, changes: Sequence[str] = ()) -> str:
    """What is said of the data of a recipe that are not on this machine, where nothing else is wrong; else nothing."""
    faults = check(name, changes).faults
    return str(faults[0]).splitlines()[0] if {fault.path for fault in faults} == {"data"} else ""


def skip_where_absent(name: str, changes: Sequence[str] = ()) -> None:
    """Skips the test where the data of a recipe are not on this machine."""
    if said := absent(name, changes):
        pytest.skip(said)
