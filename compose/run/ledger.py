"""The ledger as people read it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compose.core.kinds import Kind
from compose.core.terms import views


def render(scores: Mapping[str, Any]) -> RenderableType:
    """The ledger of a run: a column a split, in nats per example, with what the numbers promise below.

    Args:
        scores: What ``scores.json`` holds.
    """
    splits: Mapping[str, Any] = scores["splits"]
    measured = [Text(line) for line in _measured(scores.get("measures", {}))]
    measured += [Text(f"WARNING  {warning}") for warning in scores.get("warnings", [])]
    if not splits:
        return Group(Text("The model is implicit: it has samples and no likelihood, so nothing in nats."), *measured)
    kind = Kind[scores["kind"].upper()]
    about = kind.tilde
    table = Table(title=f"nats per example; L is {kind.spoken}: {scores['promise']}", title_justify="left")
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    first = next(iter(splits.values()))
    nats = decimals(first["standard_error"])
    for label, key, digits in _ROWS:
        cells = [_cell(split, key, nats if digits is None else digits, about) for split in splits.values()]
        if any(cells):
            table.add_row(label.format(K=first["K"], floor_of=_floor_of(first)), *cells)
    table.add_section()
    for view, names in views(first["terms"]).items():
        table.add_row(view, *(f"{about}{split['views'][view]:.{nats}f}" for split in splits.values()), style="bold")
        for name in names:
            table.add_row(
                f"  {name}", *(f"{about}{split['terms'][name]:.{nats}f}" for split in splits.values()), style="dim"
            )
            for part in [part for part in first.get("within", {}) if part.rpartition(".")[0] == name]:
                cells = (f"{about}{split['within'][part]:.{nats}f}" for split in splits.values())
                table.add_row(f"    {part.rpartition('.')[2]}", *cells, style="dim")
    return Group(table, *(Text(line) for line in _notes(scores)), *measured)


def decimals(error: float | None) -> int:
    """How many decimals of nats are worth printing: two digits of the standard error, two decimals at least."""
    return max(2, 1 - math.floor(math.log10(error))) if error is not None and error > 0 else 2


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


#: Rows that are what they say, however L was found.
_CERTAIN = ("standard_error", "floor", "examples")


def _cell(split: Mapping[str, Any], key: str, digits: int, about: str) -> str:
    value = split.get(key)
    return "" if value is None else f"{'' if key in _CERTAIN else about}{value:.{digits}f}"


def _measured(measures: Mapping[str, Any]) -> Iterator[str]:
    """A line for each measure that needs no likelihood."""
    for name, of in (("coverage", ""), ("means", "without the likelihood's noise: ")):
        if not (found := measures.get(name)):
            continue
        low, high = found["interval"]
        yield (
            f"{of}Frechet distance {found['Frechet distance']:.3g} [{low:.3g}, {high:.3g}], of data from data "
            f"{found['of real from real']:.3g}; precision {found['precision']:.3f}, recall {found['recall']:.3f}, "
            f"density {found['density']:.3f}, coverage {found['coverage']:.3f}"
        )
        if of:
            continue
        accurate = f", {100 * found['classifier accuracy']:.1f} % accurate" if "classifier accuracy" in found else ""
        yield f"  {found['samples']} samples beside as many test examples, by {found['features']}{accurate}"
    if modes := measures.get("modes"):
        good = ""
        if "high quality" in modes:
            good = f", {100 * modes['high quality']:.1f} % of them within {modes['within']}"
        divergence = "" if modes["reverse KL"] is None else f", reverse KL {modes['reverse KL']:.3f} nats"
        told = f", by a classifier {100 * modes['classifier accuracy']:.1f} % accurate" if "classifier" in modes else ""
        yield f"modes: {modes['found']} of {modes['of']} found by {modes['samples']} samples{good}{divergence}{told}"
    if cost := measures.get("sampling"):
        yield (
            f"sampling: {1e6 * cost['seconds a sample']:.1f} microseconds a sample in batches of {cost['batch']}, "
            f"{cost['network evaluations']} network evaluation{'s' * (cost['network evaluations'] != 1)}"
            f"{_drawn(cost)}"
        )


def _drawn(cost: Mapping[str, Any]) -> str:
    """How samples were drawn, where otherwise than as they are."""
    by = f", by {cost['sampler']}" if "sampler" in cost else ""
    return by + (f" in {cost['steps']} steps" if "steps" in cost else "")


def _notes(scores: Mapping[str, Any]) -> list[str]:
    lines = []
    for split in scores["splits"].values():
        protocol = ", ".join(f"{key} {value}" for key, value in split["protocol"].items() if key != "split")
        lines.append(f"{split['protocol']['split']}: {protocol}")
        if split.get("reducible") is not None:
            nats = decimals(split["standard_error"])
            lines.append(
                f"  at most {Kind[scores['kind'].upper()].tilde}{split['reducible']:.{nats}f} nats are reducible: "
                f"{_floor_of(split)} itself costs {split['floor']:.{nats}f}"
            )
    if (fine := scores.get("fineness")) is not None:
        lines.append(
            f"L is found in steps: twice as many change it by {fine['mean']:.2g} nats on average, "
            f"{fine['most']:.2g} at most ({fine['examples']} test examples)"
        )
    for record in scores["health"]:
        if "codes" in record:
            used = f"{record['used']} of {record['codes']} codes used"
            lines.append(f"{record['edge']}: {used}, as varied as {record['perplexity']:.0f} used alike (perplexity)")
        else:
            lines.append(f"{record['edge']}: {record['active']} of {record['units']} units active")
            if "ceiling" in record:
                lines += _ceiling(record, Kind[scores["kind"].upper()].tilde)
        if "warning" in record:
            lines.append(f"WARNING  {record['warning']}")
    return lines


def _ceiling(record: Mapping[str, Any], about: str) -> Iterator[str]:
    """What a better prior could gain, and what this one does, which may be an estimate: so may the least of it."""
    low, high = record["ceiling"]
    between = f"KL(q({record['edge']}) || N(0, I)) between {about}{low:.2f} and {high:.2f} nats"
    error = record.get("ceiling standard error")
    known = "" if error is None else f" (standard error {error:.2f})"
    yield f"  {between}{known}: the most that another prior gains over N(0, I)"
    if "gained" in record:
        error = record["gained standard error"]
        yield f"  of that this prior gains {about}{record['gained']:.2f} nats (standard error {error:.2f})"
