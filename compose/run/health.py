"""Signs of collapse, each with the line of the recipe that would change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from compose.core import random
from compose.core.model import ModelDensity
from compose.core.roles import Stage
from compose.data.source import Source

if TYPE_CHECKING:
    from compose.run.directory import Run

ACTIVE = 0.01
EXAMPLES = 1000


@torch.no_grad()
def units(model: ModelDensity, source: Source, split: str = "validation") -> list[dict[str, Any]]:
    """For each stage with a posterior: how its units are used, over up to 1000 examples.

    Returns:
        Per stage ``edge``, ``units``, ``active`` (units whose posterior mean varies by more than 0.01, Burda et al.
        2016), ``variance`` of the posterior mean by unit, and ``kl`` by unit in nats where it has a closed form.
    """
    part = source.split(split)
    x = part.x[:EXAMPLES]
    c = None if part.y is None else part.y[:EXAMPLES]
    found = []
    for i, stage in enumerate(model.stages):
        assert isinstance(stage, Stage)
        record = _units(model, stage, x, c, last=i + 1 == len(model.stages))
        if record is not None:
            found.append({"edge": f"z{i + 1}", **record})
        x = stage.infer(x, c).z
    return found


def _units(
    model: ModelDensity, stage: Any, x: torch.Tensor, c: torch.Tensor | None, last: bool
) -> dict[str, Any] | None:
    try:
        lent = stage.lend()
    except NotImplementedError:
        return None
    features = lent.features(x)
    condition = lent.encode(features) if stage.labels is None else stage.q_features(features, c)
    gaussian = lent.density.gaussian(condition)
    if gaussian is not None:
        mean = gaussian.loc.flatten(1)
    else:
        draws = [lent.density.sample(len(x), condition).flatten(1) for _ in range(16)]
        mean = torch.stack(draws).mean(0)
    variance = mean.double().var(0)
    kl = None
    if gaussian is not None and last and model.closes:
        each = 0.5 * (gaussian.loc**2 + gaussian.scale**2 - 1) - gaussian.log_scale
        kl = each.double().mean(0).flatten().tolist()
    return {
        "units": len(variance),
        "active": int((variance > ACTIVE).sum()),
        "variance": variance.tolist(),
        "kl": kl,
    }


def health(run: Run, model: ModelDensity, source: Source) -> list[dict[str, Any]]:
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
    stage = int(edge.removeprefix("z")) - 1
    where = tree.where(("model", "stages", stage))
    return f"Give it fewer numbers, or the decoder less power: model.stages.{stage} (see {where})."
