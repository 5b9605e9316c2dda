"""The ledger as people read it."""

from __future__ import annotations

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
    table = Table(title=f"nats per example; L is a {scores['kind']}: {scores['promise']}", title_justify="left")
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    for label, key, digits in _ROWS:
        cells = [_cell(split, key, digits) for split in splits.values()]
        if any(cells):
            table.add_row(label.format(K=next(iter(splits.values()))["K"]), *cells)
    table.add_section()
    first = next(iter(splits.values()))
    for view, names in views(first["terms"]).items():
        table.add_row(view, *(f"{split['views'][view]:.2f}" for split in splits.values()), style="bold")
        for name in names:
            table.add_row(f"  {name}", *(f"{split['terms'][name]:.2f}" for split in splits.values()), style="dim")
    return Group(table, *(Text(line) for line in _notes(scores)))


_ROWS = (
    ("-ELBO", "-ELBO", 2),
    ("  standard error", "standard_error", 2),
    ("  bits/dim", "bits_per_dim", 4),
    ("NLL(K = {K})", "NLL", 2),
    ("  bits/dim", "NLL_bits_per_dim", 4),
    ("floor of the binarisation", "floor", 2),
    ("  reducible above it", "reducible", 2),
    ("examples", "examples", 0),
)


def _cell(split: Mapping[str, Any], key: str, digits: int) -> str:
    value = split.get(key)
    return "" if value is None else f"{value:.{digits}f}"


def _notes(scores: Mapping[str, Any]) -> list[str]:
    lines = []
    for split in scores["splits"].values():
        protocol = ", ".join(f"{key} {value}" for key, value in split["protocol"].items() if key != "split")
        lines.append(f"{split['protocol']['split']}: {protocol}")
        if split.get("reducible") is not None:
            lines.append(
                f"  at most {split['reducible']:.2f} nats are reducible: "
                f"the binarisation alone costs {split['floor']:.2f}"
            )
    for record in scores["health"]:
        lines.append(f"{record['edge']}: {record['active']} of {record['units']} units active")
        if "warning" in record:
            lines.append(f"WARNING  {record['warning']}")
    return lines
