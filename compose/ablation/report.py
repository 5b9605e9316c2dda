"""The report of an ablation: one page that opens from disk, and its tables as files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from compose.ablation.pictures import figures, samples
from compose.ablation.results import Outcome, Results
from compose.ablation.tables import tables, write_tables
from compose.ablation.words import answer, cautions, freezing, headline, training_said
from compose.core.errors import AblationError
from compose.recipe.recipe import Recipe
from compose.recipe.write import plain
from compose.run.directory import write_text


def write_report(results: Results, folder: Path) -> Path:
    """Writes ``report.html`` and the tables into a folder.

    Raises:
        AblationError: the folder cannot be written.
    """
    page = folder / "report.html"
    try:
        write_tables(results, folder)
        write_text(page, html(results))
    except OSError as error:
        raise AblationError(f"{page} cannot be written: {error.strerror}.") from error
    return page


def html(results: Results) -> str:
    """The page: nothing in it comes from elsewhere."""
    from jinja2 import Environment, StrictUndefined

    text = files("compose.ablation").joinpath("report.html").read_text(encoding="utf-8")
    pages = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = pages.from_string(text)
    cells = len(results.plan.cells)
    return template.render(
        plan=results.plan,
        base=results.base.label,
        headline=headline(results),
        answer=answer(results),
        freezing=freezing(results),
        cautions=cautions(results),
        tables=tables(results),
        figures=figures(results),
        samples=samples(results),
        variants=[_variant(outcome) for outcome in results.outcomes],
        missing=results.missing,
        cells=cells,
        seconds=sum(each.own_seconds for outcome in results.outcomes for each in outcome.scored.values()),
        shared=sum("begun" in each.run.record for outcome in results.outcomes for each in outcome.scored.values()),
        made=_made(results),
    )


def _variant(outcome: Outcome) -> dict[str, Any]:
    recipe = outcome.planned.with_seed(0)
    return {
        "label": outcome.label,
        "changes": in_short(outcome.planned.changes, recipe),
        "all_changes": outcome.planned.changes,
        "equation": outcome.planned.equation or "implicit: it has samples and no likelihood",
        "trains": training_said(recipe),
        "recipe": outcome.planned.recipe,
        "failed": sorted(outcome.failed.items()),
        "warnings": warnings(outcome),
        "runs": [str(each.run.path) for each in outcome.scored.values()],
    }


def in_short(changes: Sequence[Sequence[str]], recipe: Recipe) -> list[Sequence[str]]:
    """The changes, less the options of the parts that went and the defaults of those that came.

    Args:
        changes: Key path, value of the base and of the variant each.
        recipe: Of the variant.
    """
    replaced = [path.removesuffix("type") for path, *_ in changes if path.endswith(".type")]
    written = plain(recipe)

    def told(path: str) -> bool:
        option = any(path.startswith(part) and path != f"{part}type" for part in replaced)
        return not option or _holds(written, path)

    return [change for change in changes if told(change[0])]


def _holds(written: Any, path: str) -> bool:
    """Whether a key path leads anywhere in what a file says."""
    for key in path.split("."):
        if isinstance(written, list) and int(key) < len(written):
            written = written[int(key)]
        elif isinstance(written, dict) and key in written:
            written = written[key]
        else:
            return False
    return True


def warnings(outcome: Outcome) -> list[str]:
    """What is unhealthy in a variant's trainings: each warning once, with the seeds that have it."""
    found: dict[str, list[int]] = {}
    for seed, scored in outcome.scored.items():
        for warning in scored.warnings:
            # Where each run keeps the line to change differs from run to run.
            found.setdefault(re.sub(r" \(see [^)]*\)", "", warning), []).append(seed)
    return [f"seed {', '.join(map(str, seeds))}: {warning}" for warning, seeds in found.items()]


def _made(results: Results) -> str:
    first = next((outcome.first for outcome in results.outcomes if outcome.first is not None), None)
    if first is None:
        return ""
    versions = first.run.record["versions"]
    return ", ".join(f"{name} {version}" for name, version in versions.items())
