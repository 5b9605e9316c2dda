"""One trained network, read as chains of other numbers of links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compose.core.drawing import MOST
from compose.core.errors import RunError
from compose.core.roles import ByLabel
from compose.core.terms import mean_and_error
from compose.run.directory import Run
from compose.run.evaluate import device_of, draws_allowed, fixed_split, score
from compose.run.progress import counting

LINKS = (8, 16, 32, 64, 128)


@torch.no_grad()
def dial(
    run: Run | str | Path,
    links: tuple[int, ...] = LINKS,
    split: str = "test",
    samples: int = 1,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Scores the diffusion prior of a run as Markovian hierarchical VAEs of so many links each.

    Args:
        run: A finished run, or its directory.
        links: The numbers of links.
        split: Whose examples are scored.
        samples: Paths of each example.
        device: Where.
        progress: Whether to draw a bar.

    Returns:
        For each number ``links``, ``-ELBO`` and its ``standard_error`` over examples, in nats; and from the second on
        the ``rise`` over the one before, example by example, with its ``rise_error``.

    Raises:
        KindError: several paths are asked of a model whose kind refuses them.
        RunError: the prior is no diffusion in discrete time, a number of links is none of 1 to 10,000, one of paths
            below 1, the split has no fixed examples, or there is no such device.
    """
    run, device = run if isinstance(run, Run) else Run(run), device_of(device)
    model = run.model().to(device)
    prior: Any = model.prior.density if isinstance(model.prior, ByLabel) else model.prior
    if not hasattr(prior, "as_chain") or prior.steps is None:
        raise RunError(f"{run.path} has no diffusion prior of some number of links; wanted 'diffusion' with steps.")
    for count in links:
        if not 1 <= count <= MOST:
            raise RunError(f"{count} links were asked for; wanted 1 to {MOST:,}.")
    data = fixed_split(run.recipe.data.load().to(device), split)
    draws = draws_allowed(model, 1, samples)
    found: list[dict[str, Any]] = []
    before = None
    with counting("scoring", len(links) * draws * len(data), progress) as tick:
        for count in links:
            prior.steps = count
            cost = -score(model, data, draws, run.recipe.evaluate.seed, tick=tick).elbo
            record: dict[str, Any] = {"links": count}
            record["-ELBO"], record["standard_error"] = mean_and_error(cost)
            if before is not None:
                record["rise"], record["rise_error"] = mean_and_error(cost - before)
            found.append(record)
            before = cost
    return found


def save_dial(found: list[dict[str, Any]], path: str | Path) -> Path:
    """Draws the bound over the number of links, with two standard errors of each step."""
    from matplotlib.figure import Figure

    figure = Figure((5, 3.2), layout="constrained")
    axes = figure.subplots()
    links, cost = [record["links"] for record in found], [record["-ELBO"] for record in found]
    axes.errorbar(links, cost, [2 * (record.get("rise_error") or 0.0) for record in found], marker="o", capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(links, [str(each) for each in links])
    axes.set_xlabel("links of the chain")
    axes.set_ylabel("-ELBO, nats")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return Path(path)
