"""The command that sets two runs or recipes side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compose.ablation.guard import alike, of_other_things, protocol_changes
from compose.cli.options import Plugins, show, table

if TYPE_CHECKING:
    from compose.recipe.recipe import Recipe
    from compose.run.directory import Run

#: What is measured on samples, and what says how.
MEASURES = {
    "coverage": ("Frechet distance", "precision", "recall", "density", "coverage"),
    "means": ("Frechet distance", "precision", "recall", "density", "coverage"),
    "modes": ("found", "high quality", "reverse KL"),
}

Either = Annotated[str, typer.Argument(help="A run directory, a recipe file, or the name of a shipped recipe.")]


def diff(a: Either, b: Either, plugin: Plugins = None) -> None:
    """Set two runs or recipes side by side: recipe, protocol, ledger.

    Ledgers stand side by side only where the data, the split and the conditioning are the same; else the entries that
    differ are named, and nothing is ranked.

    \b
    Examples:
      compose diff vae vae_flow_prior
      compose diff runs/vae runs/vae_flow_prior
    """
    from compose.recipe.changes import changes

    first, second = _run(a), _run(b)
    recipes = [_recipe(name, run) for name, run in ((a, first), (b, second))]
    rows = list(changes(*recipes))
    show(table(["recipe", a, b], rows) if rows else "The recipes are the same.")
    scores = [
        run.scores() if run is not None and (run.path / "scores.json").is_file() else None for run in (first, second)
    ]
    for name, found in zip((a, b), scores, strict=True):
        if found is None:
            show("", f"{name} has no scores: only recipes are compared.")
            return
    assert first is not None and second is not None and scores[0] is not None and scores[1] is not None
    for split in [split for split in scores[0]["splits"] if split in scores[1]["splits"]]:
        _ledger(split, (a, b), (scores[0]["splits"][split], scores[1]["splits"][split]), (first, second))
    measured = list(_measures(scores[0].get("measures", {}), scores[1].get("measures", {})))
    if measured:
        show("", table(["samples", a, b], measured, right=(a, b)))


def _measures(a: dict[str, Any], b: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What was measured on both runs' samples, in the same way, side by side."""
    for group, keys in MEASURES.items():
        one, other = a.get(group), b.get(group)
        if one is None or other is None or not alike(one, other):
            continue
        for key in keys:
            if key in one and key in other:
                digits = 0 if key == "found" else 4
                yield key, _number(one[key], digits), _number(other[key], digits)


def _ledger(
    split: str, names: tuple[str, str], scores: tuple[dict[str, Any], dict[str, Any]], runs: tuple[Run, Run]
) -> None:
    """The two ledgers of a split, where they may be compared."""
    from compose.core.kinds import Kind
    from compose.run.ledger import decimals

    differ = protocol_changes(scores[0]["protocol"], scores[1]["protocol"])
    show("", table([f"protocol, {split}", *names], differ) if differ else f"{split}: the protocols are the same.")
    if of_other_things(scores[0]["protocol"], scores[1]["protocol"]):
        show("These are scores of different things, so they are not set side by side.")
        return
    kinds = [each["protocol"]["kind"] for each in scores]
    if kinds[0] != kinds[1] and "estimate" in kinds:
        show("One of them is an estimate, which may lie on either side, so it is not ranked against the other.")
        return
    nats, about = decimals(scores[0]["standard_error"]), Kind[kinds[0].upper()].tilde
    gap = about + _gap(split, "-ELBO", runs, nats)
    lines = [("-ELBO", *(about + _number(each["-ELBO"], nats) for each in scores), gap)]
    if all(each["NLL"] is not None for each in scores) and not differ:
        cells = (_number(each["NLL"], nats) for each in scores)
        lines.append((f"NLL(K = {scores[0]['K']})", *cells, _gap(split, "NLL", runs, nats)))
    if scores[0]["bits_per_dim"] is not None:
        lines.append(("bits/dim of -ELBO", *(about + _number(each["bits_per_dim"], 4) for each in scores), ""))
    for kind in ("views", "terms"):
        for key in dict.fromkeys(key for each in scores for key in each[kind]):
            cells = (_number(each[kind].get(key), nats, about) for each in scores)
            lines.append((f"  {key}" if kind == "terms" else key, *cells, ""))
    show(table([f"nats, {split}", *names, "second - first, 95 %"], lines, right=names))
    if differ:
        show("NLL is left out: it was not estimated alike.")


def _gap(split: str, name: str, runs: tuple[Run, Run], digits: int) -> str:
    """The mean difference over examples with its 95 % interval, paired by example."""
    from safetensors.torch import load_file

    values = [load_file(run.path / "scores.safetensors")[f"{split}/{name}"].double() for run in runs]
    gap = values[1] - values[0]
    return f"{float(gap.mean()):+.{digits}f} ± {1.96 * float(gap.std()) / len(gap) ** 0.5:.{digits}f}"


def _number(value: float | None, digits: int, about: str = "") -> str:
    return "" if value is None else f"{about}{value:.{digits}f}"


def _run(name: str) -> Run | None:
    from compose.run.directory import Run

    return Run(name) if Path(name).is_dir() else None


def _recipe(name: str, run: Run | None) -> Recipe:
    from compose.recipe.check import load_recipe

    return load_recipe(name) if run is None else run.recipe
