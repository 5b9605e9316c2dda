"""Checks of what L promises: that it adds up, and that draws, closed forms and importance weights agree with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from compose.core.errors import KindError
from compose.core.kinds import Kind
from compose.core.spaces import Codes
from compose.data.source import Split
from compose.run.evaluate import draws_allowed, score
from compose.testing.integrals import DRAWS, expectation, measure
from compose.testing.noise import Tape
from compose.verification.evidence import evidence
from compose.verification.report import Finding, sums, unchecked
from compose.verification.tiny import IMPLICIT, MODES, Tiny

EXACT = 1e-6
#: Standard errors that a sound mean is never off by: once in 2e9 draws of it.
ERRORS = 6.0
LADDER = (1, 8, 64)
TOO_WIDE = "too much noise to integrate out, and by drawing it the sum is too wide to tell"


@sums
def total_mass(tiny: Tiny) -> Iterator[Finding]:
    """Over all data the probability adds up to 1: no term is missing, none is counted twice, none has a wrong sign."""
    kind, of = tiny.model.kind, f"sum over {tiny.space} of E exp L"
    if not tiny.scored:
        yield unchecked(of, IMPLICIT)
    elif not tiny.summable:
        yield unchecked(of, tiny.why_uncountable)
    elif kind <= Kind.WEIGHT and tiny.measured is None:
        yield unchecked(of, TOO_WIDE)
    elif kind <= Kind.WEIGHT and tiny.measured is not None:
        total, slack, *_ = tiny.measured
        yield Finding(of, abs(total - 1), slack, f"{total:.9f}, wanted 1")
    elif kind <= Kind.BOUND:
        yield from _below_the_evidence(tiny)
    else:
        yield unchecked(of, f"the model's L is only {kind.spoken}: {kind.promise}")


def _below_the_evidence(tiny: Tiny) -> Iterator[Finding]:
    """For what promises a bound only: it is one at every point, and what it bounds adds up to 1."""
    known, subweight = evidence(tiny), tiny.model.kind is Kind.SUBWEIGHT
    if known is None:
        found = tiny.mean_weight if subweight else tiny.mean
        value, blur = (found.value, found.error) if subweight else (found.value.exp(), found.error * found.value.exp())
        total = float(value.sum())
        yield Finding("sum of what it says, 1 at most", max(total - 1, 0.0), EXACT + float(blur.sum()), f"{total:.6f}")
        yield unchecked("the evidence", "it cannot be summed from above: a stage or the prior is itself only a bound")
        return
    yield Finding("sum of the evidence", abs(float(known.exp().sum()) - 1), EXACT, f"{float(known.exp().sum()):.9f}")
    mine = tiny.mean_weight.value.log() if subweight else tiny.mean.value
    over = float((mine - known).max())
    yield Finding("bound above the evidence", max(over, 0.0), EXACT, f"at most {over:.3g} nats, over {len(known)} data")


@sums
def samples(tiny: Tiny) -> Iterator[Finding]:
    """What the model draws is what it scores."""
    of = f"{DRAWS} draws"
    if not tiny.scored:
        tiny.space.check(tiny.model.sample(DRAWS, tiny.label(DRAWS)))
        yield unchecked(of, IMPLICIT)
    elif not tiny.summable:
        yield unchecked(of, tiny.why_uncountable)
    elif tiny.model.kind <= Kind.WEIGHT and tiny.measured is None:
        yield unchecked(of, TOO_WIDE)
    elif tiny.model.kind <= Kind.WEIGHT and tiny.measured is not None:
        _, _, apart, most, how = tiny.measured
        yield Finding(of, apart, most, f"{how} {apart:.4f}")
    elif tiny.model.kind <= Kind.BOUND and isinstance(tiny.space, Codes) and (known := evidence(tiny)) is not None:
        table = known.double()
        places = tiny.space.size ** torch.arange(tiny.space.dim - 1, -1, -1)
        drawn = tiny.model.sample(DRAWS, tiny.label(DRAWS))
        _, _, apart, most, how = measure(tiny.space, lambda x: table[(x.flatten(1) * places).sum(1)], drawn)
        yield Finding(of, apart, most, f"{how} {apart:.4f}, against the evidence")
    else:
        yield unchecked(of, f"L is only {tiny.model.kind.spoken}")


@sums
def closed_forms(tiny: Tiny) -> Iterator[Finding]:
    """The L that training uses, with terms in closed form, has the same expectation as the L that is evaluated."""
    of = "E L in mode kl, against mode path"
    if not tiny.scored:
        yield unchecked(of, IMPLICIT)
    if not tiny.scored or not tiny.noise:
        return
    # Made before draws are recorded.
    model, x = tiny.model, tiny.items
    tape, found = Tape(), []
    for mode in MODES:
        with torch.no_grad(), tape.run():
            found.append(model.log_prob(x, tiny.label(len(x)), mode))
    if torch.equal(*found):
        return  # no term has a closed form
    if tiny.noise > 2:
        yield unchecked(of, f"{tiny.noise} numbers of noise are too many to integrate out")
        return
    closed = expectation(partial(tiny.score, mode="kl"), tiny.items)
    off = float((closed.value - tiny.mean.value).abs().max())
    slack = max(1e-5, float((closed.error + tiny.mean.error).max()))
    yield Finding(of, off, slack, f"{off:.2g} nats at most, over {len(tiny.items)} data")


@sums
def importance_weighting(tiny: Tiny) -> Iterator[Finding]:
    """-ELBO is the integral, and NLL(K) falls with K towards the evidence and never below it; or K > 1 is refused."""
    kind = tiny.model.kind
    if kind is Kind.EXACT:
        return
    if not kind.importance_weighted:
        yield _refusal(tiny)
        return
    if kind is not Kind.WEIGHT or not tiny.summable or not isinstance(tiny.space, Codes):
        yield unchecked("NLL(K)", tiny.why_uncountable if kind is Kind.WEIGHT else f"L is only {kind.spoken}")
        return
    wanted, blur = -float(tiny.mean.value.mean()), float(tiny.mean.error.mean())
    floor = -float(tiny.mean_weight.value.log().mean())
    blur_floor = float((tiny.mean_weight.error / tiny.mean_weight.value).mean())
    (cost, error), (some, blur_8), (many, blur_64) = (_scored(tiny, k) for k in LADDER)
    yield Finding("-ELBO", abs(cost - wanted), ERRORS * error + blur, f"{cost:.4f}, by integration {wanted:.4f}")
    mine, blur_mine = _weighed(tiny, LADDER[-1])
    slack = ERRORS * math.hypot(blur_64, blur_mine)
    yield Finding("NLL(64)", abs(many - mine), slack, f"{many:.4f}, weighed by hand {mine:.4f}")
    said = f"{cost:.4f}, {some:.4f}, {many:.4f} at K = 1, 8, 64; evidence {floor:.4f}"
    rise = max(some - cost, many - some, floor - many, 0.0)
    slack = ERRORS * (error + blur_8 + blur_64) + blur_floor
    yield Finding("NLL(K) falls to the evidence", rise, slack, said)


def _refusal(tiny: Tiny) -> Finding:
    try:
        draws_allowed(tiny.model, 1, 2)
    except KindError as error:
        return Finding("K = 2", 0.0, 0.0, f"refused: {error}")
    return Finding("K = 2", 1.0, 0.0, f"taken, although L is only {tiny.model.kind.spoken}")


def _scored(tiny: Tiny, samples: int) -> tuple[float, float]:
    """-ELBO for one draw, NLL(K) for more, over all states as ``compose evaluate`` takes them; and its error."""
    x = tiny.items.repeat(_repeats(samples), *[1] * (tiny.items.dim() - 1))
    found = score(tiny.model, Split(x, tiny.label(len(x))), samples, tiny.seed)
    assert found.nll is not None
    return _over_repeats(-found.elbo if samples == 1 else found.nll, samples)


@torch.no_grad()
def _weighed(tiny: Tiny, samples: int) -> tuple[float, float]:
    """NLL(K) over all states, from draws of our own; and its error."""
    x = tiny.items.repeat(_repeats(samples), *[1] * (tiny.items.dim() - 1))
    weights = tiny.score(x.repeat_interleave(samples, 0)).unflatten(0, (-1, samples))
    return _over_repeats(math.log(samples) - weights.logsumexp(1), samples)


def _repeats(samples: int) -> int:
    """How often every state is scored: about as many draws for each K."""
    return max(32, 1000 // samples)


def _over_repeats(values: Tensor, samples: int) -> tuple[float, float]:
    """The mean over states, and its standard error over repeats."""
    means = values.unflatten(0, (_repeats(samples), -1)).mean(1)
    return float(means.mean()), float(means.std()) / math.sqrt(len(means))


CHECKS = (total_mass, samples, closed_forms, importance_weighting)
