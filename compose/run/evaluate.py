"""Scores: every example, in bounded memory, with its protocol beside it.

Noise is drawn in blocks of examples keyed by (seed, block, draw), so a score depends neither on how the work was cut
into chunks nor on the number of devices.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compose.core import random
from compose.core.errors import KindError, RunError
from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.roles import Mode
from compose.core.samplers import Samplers
from compose.core.solvers import stepwise
from compose.core.spaces import Real
from compose.core.terms import bits_per_dim, mean_and_error, views
from compose.data.source import Source, Split
from compose.recipe.check import drawn_otherwise, model_slot
from compose.run.collapse import collapse
from compose.run.directory import Run, write_bytes, write_text
from compose.run.health import health
from compose.run.measures import drawing, measures
from compose.run.progress import counting

BLOCK = 100
#: Numbers of all rows together that are scored at once, at most: memory goes with them.
NUMBERS = 2_000_000
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Scores:
    """What every example of a split costs under a model.

    Args:
        elbo: ``E L`` of each example, the mean over all draws, in nats, ``(n,)``, float64.
        nll: ``-log mean_k exp L_k`` of each example; none where the kind refuses it.
        terms: The mean of each term over examples and draws, in nats.
        samples: K.
        within: The mean of what a term is the sum of, where its part says, by ``term.name``.
    """

    elbo: Tensor
    nll: Tensor | None
    terms: dict[str, float]
    samples: int
    within: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def score(
    model: ModelDensity,
    split: Split,
    samples: int = 1,
    seed: int = 0,
    rows: int = 2000,
    tick: Tick = lambda done: None,
    mode: Mode = "path",
    standard: bool = False,
) -> Scores:
    """Scores every example with K draws of its latents.

    Args:
        model: On the device of the split; put into evaluation mode by the caller.
        split: The examples.
        samples: K; 1 is enough for an exact model, and more than 1 gives NLL(K) where the kind allows.
        seed: Seed of the draws.
        rows: About how many rows are evaluated at once; bounds the memory, not the result.
        tick: Told the number of rows done.
        mode: How each draw is scored; what is reported is scored by ``path``.
        standard: Whether N(0, I) stands in for the prior.

    Raises:
        KindError: K > 1 of terms that were not drawn, whose L is only a bound.
    """
    if samples > 1 and mode != "path" and model.kind is not Kind.EXACT:
        raise KindError(
            f"NLL(K = {samples}) averages exp L over whole paths, and mode '{mode}' gives a bound; take 'path'."
        )
    n, device = len(split), split.x.device
    total = torch.zeros(n, dtype=torch.float64, device=device)
    log_sum = torch.full((n,), -math.inf, dtype=torch.float64, device=device)
    terms: dict[str, Tensor] = {}
    within: dict[str, Tensor] = {}
    # Few draws of each example leave room for several blocks beside each other.
    rows = min(rows, max(BLOCK, NUMBERS // model.space.dim))
    step = BLOCK * max(1, rows // (BLOCK * samples))
    for start in range(0, n, step):
        x = split.x[start : start + step]
        c = None if split.y is None else split.y[start : start + step]
        here = slice(start, start + len(x))
        for draws in _chunks(samples, max(1, rows // len(x))):
            # All examples are repeated draw by draw, so that row i of each draw is example i.
            blocks = range(start, here.stop, BLOCK)
            sources = [
                (random.generator(seed, "evaluation", at, k, device=device), min(BLOCK, here.stop - at))
                for k in draws
                for at in blocks
            ]
            with random.blocks(sources):
                many = x.repeat(len(draws), *[1] * (x.dim() - 1))
                ledger = model.evaluate_terms(
                    many, None if c is None else c.repeat(len(draws)), mode=mode, standard=standard
                )
            for name, value in ledger.terms.items():
                terms[name] = terms.get(name, 0) + value.double().sum()
            for name, value in ledger.diagnostics.items():
                if name.rpartition(".")[0] in ledger.terms:
                    within[name] = within.get(name, 0) + value.double().sum()
            weights = ledger.total.double().unflatten(0, (len(draws), len(x)))
            total[here] += weights.sum(0)
            log_sum[here] = torch.logaddexp(log_sum[here], torch.logsumexp(weights, dim=0))
            tick(len(many))
    nll = math.log(samples) - log_sum if model.kind.importance_weighted else None
    means, parts = ({name: float(value) / (n * samples) for name, value in sums.items()} for sums in (terms, within))
    return Scores((total / samples).cpu(), None if nll is None else nll.cpu(), means, samples, parts)


def fineness(model: ModelDensity, split: Split, seed: int = 0) -> dict[str, float] | None:
    """How far L is off for being found in steps: against twice as many, with the same draws, on the first examples.

    Returns:
        ``examples``, and the ``mean`` and the ``most`` of the differences, in nats; none where nothing takes steps.
    """
    parts: list[Any] = stepwise(model)
    if not parts:
        return None
    few = replace(split, x=split.x[:BLOCK], y=None if split.y is None else split.y[:BLOCK])
    coarse = score(model, few, 1, seed).elbo
    for part in parts:
        part.steps *= 2
    try:
        off = (score(model, few, 1, seed).elbo - coarse).abs()
    finally:
        for part in parts:
            part.steps //= 2
    return {"examples": len(off), "mean": float(off.mean()), "most": float(off.max())}


def _chunks(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def cost_of(model: ModelDensity, split: Split, judged: str, seed: int = 0) -> float:
    """``-ELBO``, that under N(0, I), or the ``distortion`` of a split, one draw an example, in nats.

    It is what training selects on. Of a diffusion one link an example: in expectation that is the bound, for as much
    work as a step of training.
    """
    standard = judged == "-ELBO to N(0, I)"
    found = score(model, split, 1, seed, mode="one_t" if model.denoises and not standard else "path", standard=standard)
    names = views(found.terms).get("distortion", [])
    return -sum(found.terms[name] for name in names) if judged == "distortion" else -float(found.elbo.mean())


def evaluate(
    run: Run | str | Path,
    samples: int | None = None,
    splits: tuple[str, ...] = ("validation", "test"),
    device: str | torch.device = "cpu",
    rows: int = 2000,
    progress: bool = False,
    sampler: Samplers | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Scores a finished run and writes ``scores.json`` and, for every example, ``scores.safetensors``.

    Args:
        run: The run or its directory.
        samples: K; the recipe's by default.
        splits: Which splits.
        device: Where.
        rows: Rows evaluated at once.
        progress: Whether to draw a progress bar.
        sampler: Of a diffusion: how samples are drawn; the recipe's by default.
        steps: In how many steps; the recipe's by default.

    Returns:
        What ``scores.json`` holds.

    Raises:
        KindError: K > 1 is asked of a model whose kind refuses it.
        RunError: the run is not finished, there is no such device, K is below 1, a split has no fixed examples, or its
            prior is not drawn from like that.
    """
    from safetensors.torch import save

    run, device = run if isinstance(run, Run) else Run(run), device_of(device)
    recipe, model = run.recipe, run.model().to(device)
    asked = {key: value for key, value in (("sampler", sampler), ("steps", steps)) if value is not None}
    recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=asked)})
    source = recipe.data.load().to(device)
    # Of a model without a likelihood there is nothing to say in nats.
    chosen = {} if model.kind is Kind.NONE else {name: fixed_split(source, name) for name in splits}
    draws = draws_allowed(model, recipe.evaluate.samples, samples)
    for _, message in drawn_otherwise(recipe):
        raise RunError(message)
    drawing(recipe)  # refuses what means nothing whatever the model, before the long work
    with counting("evaluating", sum(map(len, chosen.values())) * draws, progress) as tick:
        found = {name: score(model, split, draws, recipe.evaluate.seed, rows, tick) for name, split in chosen.items()}
    measured = measures(model, recipe, source, progress)
    scores = {
        "kind": str(model.kind),
        "promise": recipe.model.promise(model_slot(*recipe.spaces())),
        "splits": {name: _summary(model, source, name, each, recipe.evaluate.seed) for name, each in found.items()},
        "fineness": fineness(model, chosen["test"], recipe.evaluate.seed) if "test" in chosen else None,
        "measures": measured,
        "health": [] if model.kind is Kind.NONE else health(run, model, source),
        "warnings": collapse(run, measured),
    }
    columns = {f"{name}/-ELBO": -each.elbo for name, each in found.items()}
    columns |= {f"{name}/NLL": each.nll for name, each in found.items() if each.nll is not None}
    write_bytes(run.path / "scores.safetensors", save(columns))
    write_text(run.path / "scores.json", json.dumps(scores, indent=2) + "\n")
    return scores


def device_of(name: str | torch.device) -> torch.device:
    """The device of a name; ``gpu`` is ``cuda``.

    Raises:
        RunError: there is none.
    """
    try:
        return torch.empty(0, device="cuda" if name == "gpu" else name).device
    except (RuntimeError, AssertionError) as error:  # torch that was built without CUDA asserts it
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        reason = str(error).partition("\n")[0]
        raise RunError(f"device '{name}' cannot be had; there is {', '.join(there)}. torch says: {reason}") from error


def fixed_split(source: Source, name: str) -> Split:
    """A split whose examples are the same at each look.

    Raises:
        DataError: there is no such split.
        RunError: it is drawn afresh at each step of a training.
    """
    if name == "train" and source.grey is not None:
        raise RunError(f"the train split of binarised {source.name} is drawn afresh at each step, so it has no score.")
    return source.split(name)


def draws_allowed(model: ModelDensity, default: int, asked: int | None) -> int:
    """How many draws of each example a score takes: as asked, else the default; of an exact model one is all there is.

    Raises:
        KindError: more than one is asked of a model whose kind refuses importance weighting.
        RunError: fewer than one.
    """
    if model.kind is Kind.NONE and asked is not None:
        raise KindError(
            "this model is implicit: it has samples and no likelihood, so no -ELBO, NLL or bits/dim. What its samples "
            "say of it, evaluate measures without --samples."
        )
    if asked is not None and asked < 1:
        raise RunError(f"{asked} draws of each example were asked for; wanted 1 at least.")
    if asked is not None and asked > 1 and not model.kind.importance_weighted:
        raise KindError(
            f"NLL(K = {asked}) averages exp L, and this model's L is only {model.kind.spoken} ({model.kind.promise}); "
            "its -ELBO is the number to compare."
        )
    if model.kind is Kind.EXACT:
        return 1
    return asked or (default if model.kind.importance_weighted else min(default, 10))


def _summary(model: ModelDensity, source: Source, split: str, found: Scores, seed: int) -> dict[str, Any]:
    """What the ledger says of a split; NLL stays blank where one draw of a bound is all there is."""
    cost, error = mean_and_error(-found.elbo)
    weighted = found.nll is not None and (found.samples > 1 or model.kind is Kind.EXACT)
    nll, nll_error = mean_and_error(found.nll) if weighted and found.nll is not None else (None, None)
    floor = None if source.floor is None else source.floor[split]
    return {
        "-ELBO": cost,
        "standard_error": error,
        "NLL": nll,
        "NLL_standard_error": nll_error,
        "K": found.samples,
        "examples": len(found.elbo),
        "bits_per_dim": _bits(cost, source),
        "NLL_bits_per_dim": _bits(nll, source),
        "terms": found.terms,
        "within": found.within,
        "views": {view: -sum(found.terms[name] for name in names) for view, names in views(found.terms).items()},
        "floor": floor,
        "floor_of": None if floor is None else source.floor_of,
        "reducible": None if floor is None else (cost if nll is None else nll) - floor,
        "protocol": _protocol(model, source, split, found.samples, seed),
    }


def _bits(nats: float | None, source: Source) -> float | None:
    """Bits a dimension; blank for reals, whose density depends on the unit they are measured in."""
    return None if nats is None or isinstance(source.space, Real) else bits_per_dim(nats, source.space.dim)


def _protocol(model: ModelDensity, source: Source, split: str, samples: int, seed: int) -> dict[str, Any]:
    """All that a score has to say about itself; scores are comparable where these are equal."""
    return {
        **source.protocol(split),
        "conditioning": "none" if source.condition is None else f"class label of {source.condition.size}",
        "kind": str(model.kind),
        "mode": "path",
        "K": samples,
        "evaluation seed": seed,
    }
