"""The ledger as people read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compose.core.terms import views


def render(scores: Mapping[str, Any]) -> RenderableType:
    """The ledger of a run: a column a split, in nats per example, with what the numbers promise below.

    Args:
        scores: What ``scores.json`` holds.
    """
    splits: Mapping[str, Any] = scores["splits"]
    kind = {"exact": "an exact weight", "estimate": "an estimate"}.get(scores["kind"], f"a {scores['kind']}")
    table = Table(title=f"nats per example; L is {kind}: {scores['promise']}", title_justify="left")
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    first = next(iter(splits.values()))
    nats = decimals(first["standard_error"])
    for label, key, digits in _ROWS:
        cells = [_cell(split, key, nats if digits is None else digits) for split in splits.values()]
        if any(cells):
            table.add_row(label.format(K=first["K"], floor_of=_floor_of(first)), *cells)
    table.add_section()
    for view, names in views(first["terms"]).items():
        table.add_row(view, *(f"{split['views'][view]:.{nats}f}" for split in splits.values()), style="bold")
        for name in names:
            table.add_row(f"  {name}", *(f"{split['terms'][name]:.{nats}f}" for split in splits.values()), style="dim")
    return Group(table, *(Text(line) for line in _notes(scores)))


def decimals(error: float) -> int:
    """How many decimals of nats are worth printing: two digits of the standard error, two decimals at least."""
    return max(2, 1 - math.floor(math.log10(error))) if error > 0 else 2


_ROWS = (
    ("-ELBO", "-ELBO", None),
    ("  standard error", "standard_error", None),
    ("  bits/dim", "bits_per_dim", 4),
    ("NLL(K = {K})", "NLL", None),
    ("  bits/dim", "NLL_bits_per_dim", 4),
    ("floor of {floor_of}", "floor", None),
    ("  reducible above it", "reducible", None),
    ("examples", "examples", 0),
)


def _floor_of(split: Mapping[str, Any]) -> str:
    return split.get("floor_of") or "the binarisation"


def _cell(split: Mapping[str, Any], key: str, digits: int) -> str:
    value = split.get(key)
    return "" if value is None else f"{value:.{digits}f}"


def _notes(scores: Mapping[str, Any]) -> list[str]:
    lines = []
    for split in scores["splits"].values():
        protocol = ", ".join(f"{key} {value}" for key, value in split["protocol"].items() if key != "split")
        lines.append(f"{split['protocol']['split']}: {protocol}")
        if split.get("reducible") is not None:
            nats = decimals(split["standard_error"])
            lines.append(
                f"  at most {split['reducible']:.{nats}f} nats are reducible: "
                f"{_floor_of(split)} itself costs {split['floor']:.{nats}f}"
            )
    for record in scores["health"]:
        lines.append(f"{record['edge']}: {record['active']} of {record['units']} units active")
        if "warning" in record:
            lines.append(f"WARNING  {record['warning']}")
    return lines
