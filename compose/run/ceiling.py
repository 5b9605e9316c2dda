"""What a better prior could gain over N(0, I): ``KL(q(z) || N(0, I))``, from below and from above."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from compose.core import random
from compose.core.gaussians import Gaussian, pairwise_log_prob, standard_log_prob
from compose.core.model import ModelDensity
from compose.core.roles import Stage
from compose.core.terms import mean_and_error
from compose.data.source import Source

#: At most so many training and so many held-out posteriors make up the aggregate, and so many draws are looked at.
TRAINED, HELD_OUT, DRAWS = 50_000, 10_000, 2500
#: Rows that go up at once, and draws that are compared at once.
ROWS, PAIRED = 1000, 250


class Ceiling(NamedTuple):
    """Between what and what it lies, and what the model's own prior gains of it; in nats.

    With standard errors over the draws: the larger of the two means that it lies between, and that of the gain.
    """

    low: float
    high: float
    error: float
    gained: float
    gained_error: float


@torch.no_grad()
def ceiling(model: ModelDensity, source: Source, split: str = "validation", seed: int = 0) -> Ceiling | None:
    """Between what and what ``KL(q(z) || N(0, I))`` of the last latent lies: what a better prior could gain there.

    ``q(z)`` is the mean of ``q(z | x)`` over examples like those of ``split``. From below come the training posteriors
    and this model's own prior, of which the better is taken: no density does better on draws from q(z) than q(z). From
    above come the bounds of ``log_aggregate``, of which the closer is taken.

    Args:
        model: In evaluation mode.
        source: Where its data lie.
        split: Whose examples q(z) is the mean over.
        seed: Of the binarisation of training examples.

    Returns:
        None where the last that is drawn is no vector with a Gaussian posterior, or the model takes labels.

    Source: Hoffman and Johnson 2016.
    """
    if (edge := last_drawn(model)) is None or model.condition is not None:
        return None
    stage, part = model.stack[edge], source.split(split).thinned(HELD_OUT)
    if stage.inner or any(s.above != model.prior.space for s in model.stack[edge:]) or len(part) < 2:
        return None
    # A file may be sorted by class, and the first of them are the ones that are drawn for.
    others = _posteriors(model, stage, edge, part.x[torch.randperm(len(part))].split(ROWS))
    if others is None:
        return None
    count, binarisation = min(TRAINED, len(source.train)), random.generator(seed, "ceiling", device=part.x.device)
    index = torch.arange(count) * len(source.train) // count
    batches = (source.train_batch(rows, binarisation)[0] for rows in index.split(ROWS))
    trained = _posteriors(model, stage, edge, batches)
    assert trained is not None
    z = Gaussian(*(each[:DRAWS] for each in others)).rsample()
    standard = standard_log_prob(z).double()
    below, above, alone = log_aggregate(z, trained, others)
    prior = model.evaluate_terms(z, start=edge + 1).total.double()
    low, low_error = mean_and_error(max(below, prior, key=torch.mean) - standard)
    high, high_error = mean_and_error(min(above, alone, key=torch.mean) - standard)
    gained, gained_error = mean_and_error(prior - standard)
    # Of few draws these are means with some noise, and may cross.
    least = max(0.0, low)
    return Ceiling(least, max(least, high), max(low_error or 0, high_error or 0), gained, gained_error or 0)


def is_standard(model: ModelDensity) -> bool:
    """Whether the prior is N(0, I) right on the last latent: with a map in between it has another shape there."""
    return model.closes and last_drawn(model) == len(model.stages) - 1


def last_drawn(model: ModelDensity) -> int | None:
    """Which stage of the stack is the last that draws; none where all are maps."""
    return max((i for i, stage in enumerate(model.stack) if stage.draws), default=None)


def _posteriors(model: ModelDensity, stage: Stage, edge: int, batches: Iterable[Tensor]) -> Gaussian | None:
    """``q(z | x)`` of all rows as one Gaussian of vectors; none where it is none."""
    found: list[Gaussian] = []
    for x in batches:
        q, condition = stage.up(model.encode(x, None, edge))
        gaussian = None if q is None or condition is None else q.gaussian(condition)
        if gaussian is None or gaussian.loc.dim() != 2:
            return None
        found.append(gaussian)
    return Gaussian(*(torch.cat(each) for each in zip(*found, strict=True)))


def log_aggregate(z: Tensor, trained: Gaussian, others: Gaussian) -> tuple[Tensor, Tensor, Tensor]:
    """``log q(z)``, on average from below and twice from above, in nats; q(z) is the mean of ``q(z | x)``.

    From below it is known by the mixture of the N training posteriors. From above by f(x, z), which is q(z | x) over
    the mean of it and those N: ``I(x; z) >= E log f(x, z) + 1 - E f(x', z)``, z drawn for x and not for x'. Where
    training and other posteriors are alike ``E f(x', z)`` is 1; it keeps the bound where they are not. The last result
    takes the others' mixture in place of the N, closer where those are few.

    Args:
        z: Draws from the first of ``others``, one each, ``(batch, dim)``.
        trained: Posteriors of examples that the encoder was fitted to, ``(N, dim)``.
        others: Posteriors of those that it was not, ``(M, dim)``.

    Returns:
        Three numbers for each draw, ``(batch,)``.

    Source: Poole et al. 2019, arXiv:1905.06922. None of them shows that z tells more of x than the logarithm of the
    number of posteriors: McAllester and Stratos 2020, arXiv:1811.04251.
    """
    n, m = len(trained.loc), len(others.loc)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows in torch.arange(len(z), device=z.device).split(PAIRED):
        mixture = pairwise_log_prob(z[rows], trained.loc, trained.log_scale).logsumexp(1, keepdim=True)
        pairs = pairwise_log_prob(z[rows], others.loc, others.log_scale)
        mean = torch.logaddexp(pairs, mixture) - math.log(n + 1)
        f = (pairs - mean).exp()
        # Column j has the j-th of the others as x': all but the one that z was drawn for.
        own = rows[:, None]
        correction = (f.sum(1) - f.gather(1, own)[:, 0]) / (m - 1) - 1
        below, alone = mixture[:, 0] - math.log(n), pairs.logsumexp(1) - math.log(m)
        found.append((below, mean.gather(1, own)[:, 0] + correction, alone))
    below, above, alone = (torch.cat(each).double() for each in zip(*found, strict=True))
    return below, above, alone
