"""The table of an ablation, as text, CSV, Markdown, LaTeX and parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from compose.ablation.measure import MEASURES, SPLIT
from compose.ablation.results import Outcome, Results
from compose.ablation.words import interval, number, unit
from compose.run.directory import write_bytes, write_text

Cell = Callable[[Outcome], str]


@dataclass(frozen=True)
class Table:
    """Rows of text under headers.

    Args:
        title: What is in it.
        headers: Of the columns; the first is the variant.
        rows: As many entries each.
        notes: What has to be known to read it.
    """

    title: str
    headers: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def csv(self) -> str:
        """Comma-separated values."""
        out = StringIO()
        csv.writer(out, lineterminator="\n").writerows([self.headers, *self.rows])
        return out.getvalue()

    def markdown(self) -> str:
        """A table of Markdown, its title and notes around it."""
        lines = [_piped(self.headers), "|" + "---|" * len(self.headers), *map(_piped, self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines, "", *self.notes]).rstrip() + "\n"

    def latex(self) -> str:
        """A ``tabular`` that needs no package."""
        columns = "l" + "r" * (len(self.headers) - 1)
        rows = [" & ".join(map(_escaped, row)) + r" \\" for row in self.rows]
        head = " & ".join(map(_escaped, self.headers)) + r" \\"
        notes = [f"% {note}" for note in (self.title, *self.notes)]
        return "\n".join([*notes, rf"\begin{{tabular}}{{{columns}}}", head, r"\hline", *rows, r"\end{tabular}"]) + "\n"


def tables(results: Results, brief: bool = False) -> list[Table]:
    """The table of all that compares with the base, and one for each other thing that was scored, with the reason.

    Args:
        results: What there is.
        brief: Whether to leave out what no terminal has room for.
    """
    together = [outcome for outcome in results.outcomes if not outcome.apart]
    found = [_table(results, "", together, brief)]
    groups: dict[tuple[Any, ...], list[Outcome]] = {}
    for outcome in results.outcomes:
        if outcome.apart:
            groups.setdefault(tuple(outcome.apart), []).append(outcome)
    for reason, outcomes in groups.items():
        why = "; ".join(f"{key} {came} (the base: {wanted})" for key, wanted, came in reason)
        found.append(_table(results, f"Scores of something else, so not set beside the base: {why}", outcomes, brief))
    return found


def _table(results: Results, why: str, outcomes: Sequence[Outcome], brief: bool) -> Table:
    shown = [column for column in _columns(results, outcomes) if column.brief or not brief]
    columns = [(column.header, [column.cell(outcome) for outcome in outcomes]) for column in shown]
    columns = columns[:1] + [(header, cells) for header, cells in columns[1:] if any(cells)]
    title = why or f"Test split, means over seeds with their standard deviation; effects against {results.base.label}"
    rows = [list(row) for row in zip(*(cells for _, cells in columns), strict=True)]
    return Table(title, [header for header, _ in columns], rows, _notes(outcomes))


@dataclass(frozen=True)
class _Column:
    """A column of the table.

    Args:
        header: Its name.
        cell: What stands in it.
        brief: Whether a terminal has room for it.
    """

    header: str
    cell: Cell
    brief: bool = False


def _columns(results: Results, outcomes: Sequence[Outcome]) -> Iterator[_Column]:
    judged = results.judged_by
    yield _Column("variant", lambda outcome: outcome.label + (" (base)" if outcome is results.base else ""), True)
    yield _Column("seeds", _seeds, True)
    yield _Column("L is", lambda outcome: "" if outcome.first is None else str(outcome.first.kind), True)
    for measure in dict.fromkeys((judged, "-ELBO", "NLL")):
        yield _Column(_header(measure, outcomes), _value_of(measure), True)
        yield _Column(f"effect on {measure}", _effect_on(measure), measure == judged)
        yield _Column("over examples", _over_examples(measure), measure == judged)
        yield _Column("over seeds", _over_seeds(measure), measure == judged)
        if measure == judged:
            yield _Column("finding", lambda outcome: _finding(outcome, judged), True)
    yield _Column("seeds with a warning", _warned)
    yield _Column("distortion", lambda outcome: number(outcome.view("distortion"), "-ELBO"))
    yield _Column("rate", lambda outcome: number(outcome.view("rate"), "-ELBO"))
    yield _Column("-ELBO less NLL", _gap)
    yield _Column("bits/dim", _bits)
    for measure in MEASURES:
        if measure not in ("-ELBO", "NLL", judged):
            told = measure in ("Frechet distance", "modes found")
            yield _Column(_header(measure, outcomes), _value_of(measure), told)
    yield _Column("network calls a sample", _calls)
    yield _Column("closed-form KL", lambda outcome: outcome.planned.closed_form)
    yield _Column("parameters", lambda outcome: f"{outcome.planned.parameters:,}")
    yield _Column("FLOPs", lambda outcome: f"{outcome.planned.flops:.3g}")
    yield _Column("training s", lambda outcome: "" if outcome.trained is None else f"{outcome.trained:.0f}", True)


def _header(measure: str, outcomes: Sequence[Outcome]) -> str:
    if measure != "NLL":
        beside = "" if MEASURES[measure].split == SPLIT else f", {MEASURES[measure].split}"
        return f"{measure}{',' if unit(measure) else ''}{unit(measure)}{beside}"
    weighted = [each for each in outcomes if each.mean("NLL") is not None]
    counts = sorted({each.first.split["K"] for each in weighted if each.first is not None})
    return f"NLL(K = {' or '.join(map(str, counts))})" if counts else "NLL"


def _value_of(measure: str) -> Cell:
    def cell(outcome: Outcome) -> str:
        mean, spread = outcome.mean(measure), outcome.spread(measure)
        if mean is None or outcome.first is None:
            return ""
        about = outcome.first.kind.tilde if MEASURES[measure].by_example else ""
        return f"{about}{number(mean, measure)}" + ("" if spread is None else f" ± {number(spread, measure)}")

    return cell


def _effect_on(measure: str) -> Cell:
    return lambda outcome: number(outcome.effects[measure].value, measure, True) if measure in outcome.effects else ""


def _finding(outcome: Outcome, measure: str) -> str:
    return outcome.effects[measure].direction if measure in outcome.effects else ""


def _over_examples(measure: str) -> Cell:
    return lambda outcome: interval(outcome.effects[measure].examples, measure) if measure in outcome.effects else ""


def _over_seeds(measure: str) -> Cell:
    return lambda outcome: interval(outcome.effects[measure].seeds, measure) if measure in outcome.effects else ""


def _seeds(outcome: Outcome) -> str:
    failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
    return f"{len(outcome.scored)}{failed}"


def _warned(outcome: Outcome) -> str:
    return f"{len(outcome.warned)} of {len(outcome.scored)}" if outcome.warned else ""


def _bits(outcome: Outcome) -> str:
    found = [each.split.get("bits_per_dim") for each in outcome.scored.values()]
    known = [value for value in found if value is not None]
    return f"{sum(known) / len(known):.4f}" if known and len(known) == len(found) else ""


def _gap(outcome: Outcome) -> str:
    """What more draws take off the bound: how far q(z | x) is from the posterior, at least."""
    cost, weighted = outcome.mean("-ELBO"), outcome.mean("NLL")
    drawn = outcome.first is not None and outcome.first.split.get("K", 1) > 1
    return number(cost - weighted, "-ELBO") if drawn and cost is not None and weighted is not None else ""


def _calls(outcome: Outcome) -> str:
    sampling = {} if outcome.first is None else outcome.first.scores["measures"].get("sampling") or {}
    return str(sampling.get("network evaluations", ""))


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    """The protocol, the floor, and why an effect is left blank."""
    notes = []
    first = next((outcome.first for outcome in outcomes if outcome.first is not None and outcome.first.protocol), None)
    if first is not None:
        said = ", ".join(f"{key} {value}" for key, value in first.protocol.items() if key not in ("kind", "mode", "K"))
        notes.append(f"Scored: {said}.")
        if (floor := first.split.get("floor")) is not None:
            notes.append(f"Floor: {first.split['floor_of'] or 'the binarisation'} itself costs {floor:.2f} nats.")
    for outcome in outcomes:
        for measure, why in outcome.blank.items():
            notes.append(f"{outcome.label}: {measure} is not set against the base's, {why}.")
    return notes


def records(results: Results) -> list[dict[str, Any]]:
    """One record a training, with every number it has: what the parquet file holds."""
    found = []
    for outcome in results.outcomes:
        for seed, scored in outcome.scored.items():
            found.append(
                {
                    "variant": outcome.label,
                    "is_base": outcome is results.base,
                    **{f"axis {name}": value for name, value in outcome.planned.values.items()},
                    "seed": seed,
                    "kind": scored.scores["kind"],
                    "protocol": json.dumps(scored.protocol),
                    **{measure: scored.number(measure) for measure in MEASURES},
                    "K": scored.split.get("K"),
                    "parameters": outcome.planned.parameters,
                    "flops": outcome.planned.flops,
                    "training_seconds": scored.trained,
                }
            )
    return found


def write_tables(results: Results, folder: Path) -> list[Path]:
    """Writes ``table.csv``, ``table.md``, ``table.tex``, and ``cells.parquet`` where pyarrow is installed."""
    found = tables(results)
    files = {
        "table.csv": "\n".join(each.csv() for each in found),
        "table.md": "\n".join(each.markdown() for each in found),
        "table.tex": "\n".join(each.latex() for each in found),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    written = [folder / name for name in files]
    if (parquet := _parquet(records(results))) is not None:
        write_bytes(folder / "cells.parquet", parquet)
        written.append(folder / "cells.parquet")
    return written


def _parquet(rows: list[dict[str, Any]]) -> bytes | None:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        return None
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def _piped(row: Sequence[str]) -> str:
    return "| " + " | ".join(entry.replace("|", r"\|") for entry in row) + " |"


_LATEX = {
    **{char: f"\\{char}" for char in "&%#_{}$"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)
