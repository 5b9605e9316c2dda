"""Signs of collapse, each with the line of the recipe that would change it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compose.core import random
from compose.core.gaussians import Gaussian
from compose.core.model import ModelDensity
from compose.core.roles import Density, Stage
from compose.data.source import Source

if TYPE_CHECKING:
    from compose.run.directory import Run

Record = dict[str, Any]

ACTIVE = 0.01
EXAMPLES = 1000


@torch.no_grad()
def units(model: ModelDensity, source: Source, split: str = "validation") -> list[Record]:
    """For each edge with a posterior: how its units are used, over up to 1000 examples.

    Inside a ladder a unit's prior mean depends on the levels above it, and what counts is how far the posterior mean
    lies from that.

    Returns:
        Per edge ``edge``, ``units``, ``active`` (units whose posterior mean varies by more than 0.01, Burda et al.
        2016), ``variance`` of the posterior mean by unit, and ``kl`` by unit in nats where it has a closed form.
    """
    part = source.split(split)
    x = part.x[:EXAMPLES]
    c = None if part.y is None else part.y[:EXAMPLES]
    found: list[Record] = []
    for i, stage in enumerate(model.stack):
        found += reversed(list(_units(model, stage, x, c, f"z{i + 1}", last=i + 1 == len(model.stages))))
        x = stage.infer(x, c).z
    return found


def _units(model: ModelDensity, stage: Stage, x: Tensor, c: Tensor | None, edge: str, last: bool) -> Iterator[Record]:
    """One record for each edge that the stage draws, from the top down."""
    drawn: list[Tensor] = []
    for i in range(1 + len(stage.inner)):
        q, condition = stage.up(x, c, drawn)
        if q is None or condition is None:
            return
        p, given = stage.down(drawn[0], c, drawn[1:]) if drawn else (None, None)
        prior = None if p is None or given is None else p.gaussian(given)
        name = f"{edge}.{1 + len(stage.inner) - i}" if i else edge
        yield {"edge": name, **_use(q, condition, prior, standard=not i and last and model.closes)}
        drawn.append(q.sample(len(x), condition))


def _use(q: Density, condition: Tensor, prior: Gaussian | None, standard: bool) -> Record:
    """How the units of one edge are used, beside the Gaussian prior that the levels above it give it."""
    gaussian = q.gaussian(condition)
    if gaussian is not None:
        mean = gaussian.loc
    else:
        mean = torch.stack([q.sample(len(condition), condition) for _ in range(16)]).mean(0)
    if standard:
        zero = torch.zeros_like(mean)
        prior = Gaussian(zero, zero, zero + 1)
    variance = (mean if prior is None else mean - prior.loc).flatten(1).double().var(0)
    kl = None
    if gaussian is not None and prior is not None:
        off, wider = (gaussian.loc - prior.loc) / prior.scale, gaussian.log_scale - prior.log_scale
        kl = (0.5 * (off * off + (2 * wider).exp() - 1) - wider).flatten(1).double().mean(0).tolist()
    active = int((variance > ACTIVE).sum())
    return {"units": len(variance), "active": active, "variance": variance.tolist(), "kl": kl}


def health(run: Run, model: ModelDensity, source: Source) -> list[Record]:
    """The use of units by stage, with a ``warning`` where a posterior has collapsed."""
    with random.region(run.recipe.evaluate.seed, "health"):
        records = units(model, source)
    for record in records:
        if record["active"] == 0 or record["active"] < 0.1 * record["units"]:
            record["warning"] = (
                f"posterior collapse at {record['edge']}: {record['active']} of {record['units']} units are active. "
                f"{_advice(run, record['edge'])}"
            )
    return records


def _advice(run: Run, edge: str) -> str:
    from compose.recipe.read import read_tree

    recipe, tree = run.recipe, read_tree(run.path / "recipe.yaml")
    objective = recipe.train[0].players[0].objectives[0].objective
    where = tree.where(("train", 0, "players", 0, "objectives", 0, "objective"))
    if objective.type == "elbo" and not getattr(objective, "warmup", 0):
        return (
            f"Let the rate set in slowly: train.0.objective.warmup (see {where}), for instance a quarter of the steps."
        )
    if objective.type == "elbo" and not getattr(objective, "free_bits", 0):
        return f"Leave the rate some nats for free: train.0.objective.free_bits (see {where}), for instance 2."
    stage = int(edge.removeprefix("z").partition(".")[0]) - 1
    where = tree.where(("model", "stages", stage))
    return f"Give it fewer numbers, or the decoder less power: model.stages.{stage} (see {where})."
