"""Measures that need no likelihood: what samples a model gives, and how well they cover the data.

Every family has them, those with a likelihood too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compose.core import random
from compose.core.declare import NetPart, in_module
from compose.core.drawing import AS_IT_IS, Drawing
from compose.core.model import ModelDensity
from compose.core.spaces import Codes
from compose.data.planar import Gaussians
from compose.data.source import Source
from compose.data.stacked import Stacked
from compose.data.toy import Toy
from compose.nets.causal import Causal
from compose.recipe.check import model_slot
from compose.recipe.recipe import Recipe
from compose.run.features import Features, classifier, features
from compose.run.sample import sample, sample_with_means

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

#: Samples that modes are counted in, and within how many standard deviations of a mean one is of high quality.
MODE_SAMPLES, SIGMAS = 2500, 3.0
#: Samples that the modes of stacked images are counted in.
STACKED_SAMPLES = 26_000
#: Samples that are timed; twice where they take fewer seconds, of which setting out would be a part.
TIMED, QUICK = 500, 1.0
#: At most so many samples are set beside data, and sets drawn again to tell how far a distance is off by chance.
COMPARED, BOOTSTRAPS = 5000, 100
#: Beside fewer data nothing is told.
FEWEST = 50

Record = dict[str, Any]


def measures(model: ModelDensity, recipe: Recipe, source: Source, progress: bool = False) -> Record:
    """All measures that the data allow, each with what it was taken on.

    Args:
        model: In evaluation mode.
        recipe: Whose data and evaluation seed they are.
        source: Its data.
        progress: Whether to draw a bar while a classifier is trained.
    """
    seed, how = recipe.evaluate.seed, drawing(recipe)
    found: Record = {"sampling": sampling(model, recipe, seed)}
    if (known := features(recipe.data, source, progress)) is not None:
        seen, said = known[0], _of_data(known[1], source)
        n = min(COMPARED, len(source.test), len(source.train))
        if n >= FEWEST:
            beside = _data(source, seen, n, seed)
            for name, drawn in zip(("coverage", "means"), sample_with_means(model, n, seed, how), strict=True):
                if drawn is not None:
                    # Data are levels, and a classifier of them has never seen what lies between.
                    drawn = drawn.round() if isinstance(model.space, Codes) else drawn
                    found[name] = {**coverage(*beside, _features(seen, drawn)), **said, "samples": n, "seed": seed}
    if (counted := _modes(model, recipe, seed, progress)) is not None:
        found["modes"] = {**_of_data(counted, source), "seed": seed}
    return found


def _of_data(said: Record, source: Source) -> Record:
    """With the digest of the data; a classifier's name has that of the same data with their labels."""
    return said if "classifier" in said else {**said, "data": source.digest}


def drawing(recipe: Recipe) -> Drawing:
    """How the samples are drawn that are measured."""
    sampler, steps = recipe.evaluate.sampler, recipe.evaluate.steps
    return AS_IT_IS if sampler is None and steps is None else Drawing(sampler=sampler, steps=steps)


@torch.no_grad()
def _modes(model: ModelDensity, recipe: Recipe, seed: int, progress: bool) -> Record | None:
    """How samples spread over the modes of data whose modes are known."""
    density = recipe.data.density() if isinstance(recipe.data, Toy) else None
    if isinstance(density, Gaussians) and _apart(density):
        x = sample(model, MODE_SAMPLES, seed, how=drawing(recipe))
        return {**modes(x, density), "samples": MODE_SAMPLES, "within": f"{SIGMAS:g} sigma of one"}
    if isinstance(recipe.data, Stacked) and (known := classifier(recipe.data.of, progress)) is not None:
        net, said = known
        x = sample(model, STACKED_SAMPLES, seed, how=drawing(recipe)).cpu()
        classes = torch.stack([net(colour).argmax(1) for colour in x.split(1, 1)], 1)
        return {**stacked_modes(classes, net.classes), **said, "samples": STACKED_SAMPLES}
    return None


def _apart(density: Gaussians) -> bool:
    """Whether no point is near two means of a mixture; Gaussians that overlap are no modes to be told apart."""
    return float(torch.pdist(torch.from_numpy(density.centres)).min()) > 2 * SIGMAS * density.scale


def _data(source: Source, seen: Features, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of test examples, and of as many training examples."""
    picked = torch.randperm(len(source.train), generator=random.generator(seed, "measures"))[:n]
    train, _ = source.train_batch(picked, random.generator(seed, "measures", "noise", device=source.train.x.device))
    return _features(seen, source.test.x[:n]), _features(seen, train)


@torch.no_grad()
def _features(seen: Features, x: Tensor) -> Tensor:
    return seen(x).double().cpu()


def coverage(real: Tensor, other: Tensor, fake: Tensor, neighbours: int = 5) -> Record:
    """How samples lie beside data, in features.

    ``Frechet distance`` is that of two Gaussians of the same means and covariances, squared as is usual, with a 95 %
    interval as wide as 100 bootstraps spread; beside it stands the distance of the data from as many other data.
    Precision is the share of samples within reach of the data, recall the share of data within reach of the samples,
    where an item reaches as far as its 5th neighbour; density counts how many data reach a sample (a fifth of them),
    and coverage is the share of data that reach one.

    Args:
        real: Features of data, ``(n, d)``, float64.
        other: Of other data.
        fake: Of samples.
        neighbours: How far an item reaches.

    Source: Heusel et al. 2017, arXiv:1706.08500; Kynkaanniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020,
    arXiv:2002.09797.
    """
    pick = random.generator(0, "bootstrap")
    again = [
        frechet(*(each[torch.randint(len(each), (len(each),), generator=pick)] for each in (real, fake)))
        for _ in range(BOOTSTRAPS)
    ]
    drawn = torch.tensor(again, dtype=torch.float64)
    # What is drawn with repeats is rougher than what was seen, so the distances lie too high; their spread does not.
    distance = frechet(real, fake)
    low, high = (distance + (drawn - drawn.mean()).quantile(torch.tensor([0.025, 0.975]).double())).tolist()
    apart = torch.cdist(real, fake)
    reach, reached = _reach(real, neighbours)[:, None], _reach(fake, neighbours)[None]
    return {
        "Frechet distance": distance,
        "interval": [low, high],
        "of real from real": frechet(real, other),
        "precision": float((apart <= reach).any(0).double().mean()),
        "recall": float((apart <= reached).any(1).double().mean()),
        "density": float((apart <= reach).double().sum(0).mean() / neighbours),
        "coverage": float((apart.min(1, keepdim=True).values <= reach).double().mean()),
        "neighbours": neighbours,
    }


def _reach(x: Tensor, neighbours: int) -> Tensor:
    """How far each item's neighbour of that rank is: itself is the nearest."""
    near = torch.cdist(x, x).topk(neighbours + 1, dim=1, largest=False, sorted=False)  # ten times as fast as kthvalue
    return near.values.amax(1)


def frechet(a: Tensor, b: Tensor) -> float:
    """``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` of two sets of features, ``(n, d)``, by torchmetrics."""
    distance = _distance(a.shape[1])
    distance.reset()
    distance.update(a, real=True)
    distance.update(b, real=False)
    return float(distance.compute())


@cache
def _distance(width: int) -> FrechetInceptionDistance:
    """The metric, made once: making it takes longer than a distance of few features."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    # Not the FID of the literature: that is of one network's features, and these are of another.
    return FrechetInceptionDistance(feature=_AsTheyAre(width))


class _AsTheyAre(nn.Module):
    """Stands where torchmetrics wants a network: the features are there already.

    Args:
        num_features: How many.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        """``x``."""
        return x


def sampling(model: ModelDensity, recipe: Recipe, seed: int) -> Record:
    """Seconds and evaluations of networks that a sample takes, in a batch of 500, and how it is drawn."""
    how = drawing(recipe)
    sample(model, 1, seed, how=how)
    with _counted(model, recipe) as counts:
        seconds = _seconds(model, seed, how)
    if seconds < QUICK:
        seconds = min(seconds, _seconds(model, seed, how))
    told = {key: value for key in ("sampler", "steps") if (value := getattr(how, key)) is not None}
    return {"seconds a sample": seconds / TIMED, "network evaluations": len(counts), "batch": TIMED, **told}


def _seconds(model: ModelDensity, seed: int, how: Drawing) -> float:
    """Of one batch, until its samples are there: an accelerator goes on while nobody looks at what it makes."""
    began = time.perf_counter()
    sample(model, TIMED, seed, how=how).cpu()
    return time.perf_counter() - began


@contextmanager
def _counted(model: ModelDensity, recipe: Recipe) -> Iterator[list[None]]:
    """A list that grows by one with every evaluation of a declared network, or of one that draws code by code."""
    calls: list[None] = []
    space, labels = recipe.spaces()
    walked = recipe.model.walk(model_slot(space, labels))
    nets = [model.get_submodule(in_module(key)) for key, part, _ in walked if isinstance(part, NetPart)]
    causal = [module for module in model.modules() if isinstance(module, Causal)]
    hooks = [net.register_forward_hook(lambda *_: calls.append(None)) for net in (*nets, *causal)]
    for net in causal:
        # A step from the cache is a call too, though it does not pass by ``forward``.
        object.__setattr__(net, "step", _counting(net.step, calls))
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
        for net in causal:
            object.__delattr__(net, "step")


def _counting(call: Callable[..., Tensor], calls: list[None]) -> Callable[..., Tensor]:
    def counted(*args: Any) -> Tensor:
        calls.append(None)
        return call(*args)

    return counted


def modes(x: Tensor, density: Gaussians) -> Record:
    """How samples spread over the Gaussians of a mixture.

    A sample is of high quality within 3 standard deviations of the nearest mean; a mode is found where one such sample
    falls. ``reverse KL`` is ``KL(shares of the model, uniform)`` over the samples of high quality, in nats; none
    without any.

    Args:
        x: Samples, ``(n, 2)``.
        density: The mixture.

    Source: Srivastava et al. 2017, arXiv:1705.07761; Lin et al. 2018, arXiv:1712.04086, section 4.1.
    """
    centres = torch.from_numpy(density.centres)
    distance, nearest = torch.cdist(x.double().cpu(), centres).min(1)
    good = distance <= SIGMAS * density.scale
    shares = torch.bincount(nearest[good], minlength=len(centres)) / max(1, int(good.sum()))
    return {
        "found": int(nearest[good].unique().numel()),
        "of": len(centres),
        "high quality": float(good.double().mean()),
        "reverse KL": float(torch.special.xlogy(shares, shares * len(centres)).sum()) if bool(good.any()) else None,
    }


def stacked_modes(classes: Tensor, of: int) -> Record:
    """How stacks of three images spread over the modes, each a class for every channel.

    Args:
        classes: The class of each channel of each sample, ``(n, 3)``.
        of: How many classes there are.

    Source: Srivastava et al. 2017, arXiv:1705.07761, section 4.
    """
    index = (classes * of ** torch.arange(classes.shape[1])).sum(1)
    shares = torch.bincount(index, minlength=of ** classes.shape[1]) / len(index)
    return {
        "found": int((shares > 0).sum()),
        "of": len(shares),
        "reverse KL": float(torch.special.xlogy(shares, shares * len(shares)).sum()),
    }
