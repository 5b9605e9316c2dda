"""Signs of collapse, each with the line of the recipe that would change it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compose.core import random
from compose.core.gaussians import Gaussian
from compose.core.model import ModelDensity
from compose.core.quantizer import Quantizer
from compose.core.roles import Density, Stage
from compose.data.source import Source
from compose.recipe.read import read_tree
from compose.recipe.tree import dotted
from compose.recipe.validate import read_form
from compose.run.ceiling import ceiling, is_standard, last_drawn

if TYPE_CHECKING:
    from compose.run.directory import Run

Record = dict[str, Any]

ACTIVE = 0.01
EXAMPLES = 1000
#: Draws that make up each of the two means of a posterior that has none in closed form.
DRAWS = 32
#: Below this share of its codes in use a codebook has collapsed.
USED = 0.5
ROWS = 1000


@torch.no_grad()
def units(model: ModelDensity, source: Source, split: str = "validation") -> list[Record]:
    """For each edge with a posterior: how its units are used, over up to 1000 examples.

    Inside a ladder a unit's prior mean depends on the levels above it, and what counts is how far the posterior mean
    lies from that.

    Returns:
        Per edge ``edge``, ``units``, ``active`` (units whose posterior mean varies by more than 0.01, Burda et al.
        2016), ``variance`` of the posterior mean by unit, and ``kl`` by unit in nats where it has a closed form. Of a
        single example there are none: nothing varies over it.
    """
    part = source.split(split).thinned(EXAMPLES)
    if len(part) < 2:
        return []
    x, c = part.x, part.y
    found: list[Record] = []
    for i, stage in enumerate(model.stack):
        found += reversed(list(_units(model, stage, x, c, f"z{i + 1}", last=i + 1 == len(model.stages))))
        x = stage.infer(x, c).z
    return found


def _units(model: ModelDensity, stage: Stage, x: Tensor, c: Tensor | None, edge: str, last: bool) -> Iterator[Record]:
    """One record for each edge that the stage draws, from the top down."""
    drawn: list[Tensor] = []
    found: list[tuple[Density, Tensor]] = []
    for _ in range(1 + len(stage.inner)):
        q, condition = stage.up(x, c, drawn)
        if q is None or condition is None:
            return
        found.append((q, condition))
        drawn.append(q.sample(len(x), condition))
    if stage.rises:
        found, drawn = found[::-1], drawn[::-1]
    for i, (q, condition) in enumerate(found):
        p, given = stage.down(drawn[0], c, drawn[1:i]) if i else (None, None)
        prior = None if p is None or given is None else p.gaussian(given)
        name = f"{edge}.{1 + len(stage.inner) - i}" if i else edge
        yield {"edge": name, **_use(q, condition, prior, standard=not i and last and model.closes)}


def _use(q: Density, condition: Tensor, prior: Gaussian | None, standard: bool) -> Record:
    """How the units of one edge are used, beside the Gaussian prior that the levels above it give it."""
    gaussian = q.gaussian(condition)
    if gaussian is not None:
        means = [gaussian.loc]
    else:
        means = [torch.stack([q.sample(len(condition), condition) for _ in range(DRAWS)]).mean(0) for _ in range(2)]
    if standard:
        zero = torch.zeros_like(means[0])
        prior = Gaussian(zero, zero, zero + 1)
    off = [(mean if prior is None else mean - prior.loc).flatten(1).double() for mean in means]
    # Of two means of draws each: a single one varies by the noise of its draws, though the posterior's may not at all.
    one, other = (each - each.mean(0) for each in (off[0], off[-1]))
    variance = (one * other).sum(0).clamp_min(0) / (len(one) - 1)
    kl = None
    if gaussian is not None and prior is not None:
        far, wider = (gaussian.loc - prior.loc) / prior.scale, gaussian.log_scale - prior.log_scale
        kl = (0.5 * (far * far + (2 * wider).exp() - 1) - wider).flatten(1).double().mean(0).tolist()
    active = int((variance > ACTIVE).sum())
    return {"units": len(variance), "active": active, "variance": variance.tolist(), "kl": kl}


@torch.no_grad()
def codebooks(model: ModelDensity, source: Source, split: str = "validation") -> list[Record]:
    """For each edge of a quantizer's codes: how they are used, over all examples.

    Returns:
        Per edge ``edge``, ``codes`` (how many there are), ``used`` (how many of them come up), ``perplexity`` (of how
        many the use would be as varied, were all used alike) and ``stage``; of a quantizer that gives several codes a
        place one each, ``z1.1``, ``z1.2``, ...
    """
    part = source.split(split)
    found: list[Record] = []
    for i, stage in enumerate(model.stack):
        quantizer = getattr(stage, "quantizer", None)
        if not isinstance(quantizer, Quantizer):
            continue
        whole = zip(part.x.split(ROWS), [None] * len(part.x) if part.y is None else part.y.split(ROWS), strict=False)
        codes = torch.cat([model.encode(x, c, i + 1) for x, c in whole])
        several = codes.dim() > len(quantizer.takes.shape)
        for j, level in enumerate(codes.unbind(1) if several else [codes], 1):
            count = torch.bincount(level.flatten(), minlength=quantizer.codes.size).double()
            share = count / count.sum()
            entropy = -float(torch.special.xlogy(share, share).sum())
            edge = f"z{i + 1}.{j}" if several else f"z{i + 1}"
            record = {"edge": edge, "stage": i, "codes": len(count), "used": int((count > 0).sum())}
            found.append({**record, "perplexity": math.exp(entropy)})
    return found


def health(run: Run, model: ModelDensity, source: Source) -> list[Record]:
    """The use of units and codes by stage, with a ``warning`` where a posterior or a codebook has collapsed."""
    with random.region(run.recipe.evaluate.seed, "health"):
        records, books = units(model, source), codebooks(model, source)
        most, last = ceiling(model, source, seed=run.recipe.evaluate.seed), last_drawn(model)
    if most is not None and last is not None:
        at = next(record for record in records if record["edge"] == f"z{last + 1}")
        at |= {"ceiling": [most.low, most.high], "ceiling standard error": most.error}
        if not is_standard(model):
            at |= {"gained": most.gained, "gained standard error": most.gained_error}
    for record in books:
        if record["used"] < USED * record["codes"]:
            record["warning"] = (
                f"codebook collapse at {record['edge']}: {record['used']} of {record['codes']} codes are used. "
                f"{_more_codes(run, record['stage'])}"
            )
    for record in records:
        if record["active"] == 0 or record["active"] < 0.1 * record["units"]:
            record["warning"] = (
                f"posterior collapse at {record['edge']}: {record['active']} of {record['units']} units are active. "
                f"{_advice(run, record['edge'])}"
            )
    return [*records, *books]


def _more_codes(run: Run, stage: int) -> str:
    """What would bring more codes into use, of all that the quantizer does not do yet."""
    path = f"model.stages.{stage}.quantizer"
    at = f"{path} (see {read_tree(run.path / 'recipe.yaml').where(tuple(_keys(path)))})"
    part = run.recipe.model.stages[stage].quantizer
    said = getattr(part, "quantizer", part).model_dump()
    if said.get("update") == "gradient":
        return f"Let the codebook follow a running mean: {at} with update: ema."
    if said.get("revive") == 0:
        return f"Put entries that are not used on vectors that are: {at} with revive: 0.1."
    if said.get("kmeans") is False:
        return f"Start from a k-means: {at} with kmeans: true; or take fewer codes."
    return f"Take fewer codes: {at}; or train longer."


def _keys(path: str) -> list[str | int]:
    return [int(key) if key.isdigit() else key for key in path.split(".")]


def _advice(run: Run, edge: str) -> str:
    recipe, tree = run.recipe, read_tree(run.path / "recipe.yaml")
    objective = recipe.train[0].players[0].objectives[0].objective
    at = read_form(tree).written(("train", 0, "players", 0, "objectives", 0, "objective"))
    path, where = dotted(at), tree.where(at)
    if objective.type == "elbo" and not getattr(objective, "warmup", 0):
        return f"Let the rate set in slowly: {path}.warmup (see {where}), for instance a quarter of the steps."
    if objective.type == "elbo" and not getattr(objective, "free_bits", 0):
        return f"Leave the rate some nats for free: {path}.free_bits (see {where}), for instance 2."
    stage = int(edge.removeprefix("z").partition(".")[0]) - 1
    where = tree.where(("model", "stages", stage))
    return f"Give it fewer numbers, or the decoder less power: model.stages.{stage} (see {where})."
