"""Signs that samples cover little of the data, or that a critic has won, each with the line of the recipe to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compose.recipe.read import read_tree
from compose.run.directory import Run

#: Below these shares of modes found and of data covered; above this accuracy over the last tenth of a training.
MODES, COVERED, WON = 0.8, 0.5, 0.95


def collapse(run: Run, measured: Mapping[str, Any]) -> list[str]:
    """Warnings about a run whose player has a critic; of all others the latents say more.

    Args:
        run: A finished run.
        measured: What was measured on its samples.
    """
    found = list(_adversarial(run))
    if not found:
        return []
    path, where = found[0]
    return [*_missing(measured, path, where), *_won(run, path, where)]


def _adversarial(run: Run) -> Iterator[tuple[str, str]]:
    """The key path of each objective with a critic, and where it stands."""
    tree = read_tree(run.path / "recipe.yaml")
    for i, phase in enumerate(run.recipe.train):
        for j, player in enumerate(phase.players):
            for k, term in enumerate(player.objectives):
                if "critic" in type(term.objective).model_fields:
                    at = ("train", i, "players", j, "objectives", k, "objective")
                    yield ".".join(map(str, at)), tree.where(at)


def _missing(measured: Mapping[str, Any], path: str, where: str) -> Iterator[str]:
    mend = (
        f"Compare pairs and bound the critic's slope: {path} (see {where}) with paired: true, r1: 0.1, r2: 0.1; "
        "or let it see several at once, pac: 2."
    )
    modes, beside = measured.get("modes"), measured.get("coverage")
    # Where modes are known they tell more: what is not quite as narrow as its mode covers little of it.
    if modes and modes["found"] < MODES * modes["of"]:
        yield f"mode collapse: samples are found at {modes['found']} of {modes['of']} modes. {mend}"
    elif beside and not modes and beside["coverage"] < COVERED:
        yield f"mode collapse: samples cover {100 * beside['coverage']:.0f} % of the data. {mend}"


def _won(run: Run, path: str, where: str) -> Iterator[str]:
    """Whether the critic tells nearly all apart, so that its gradient says little."""
    lines = run.metrics()
    last = lines[int(0.9 * len(lines)) :]
    for name in sorted({name for line in last for name in line if name.endswith("critic accuracy")}):
        said = [line[name] for line in last if line.get(name) is not None]
        mean = sum(said) / max(1, len(said))
        if mean > WON:
            yield (
                f"the critic has won: over the last tenth of the training {name} is {mean:.3f}, and what tells all "
                f"apart says little of how to change. Give {path} (see {where}) noise: 0.1 or r1: 0.1, or a lower lr."
            )
