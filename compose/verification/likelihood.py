"""Checks of what L promises: that it adds up, and that draws, closed forms and importance weights agree with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from compose.core.errors import KindError
from compose.core.kinds import Kind
from compose.core.roles import Mode
from compose.core.spaces import Codes
from compose.data.source import Split
from compose.run.evaluate import draws_allowed, score
from compose.testing.integrals import DRAWS, expectation
from compose.testing.noise import Tape
from compose.verification.evidence import evidence
from compose.verification.report import Finding, check, unchecked
from compose.verification.tiny import Tiny

EXACT = 1e-6
MODES: tuple[Mode, ...] = ("path", "kl")
#: Standard errors that a sound mean is never off by: once in 2e9 draws of it.
ERRORS = 6.0


@check
def total_mass(tiny: Tiny) -> Iterator[Finding]:
    """Over all data the probability adds up to 1: no term is missing, none is counted twice, none has a wrong sign."""
    kind, of = tiny.model.kind, f"sum over {tiny.space} of E exp L"
    if not tiny.countable:
        yield unchecked(of, tiny.why_uncountable)
    elif kind <= Kind.WEIGHT:
        total, slack, *_ = tiny.measured
        yield Finding(of, abs(total - 1), slack, f"{total:.9f}, wanted 1")
    elif kind <= Kind.BOUND:
        yield from _below_the_evidence(tiny)
    else:
        yield unchecked(of, f"the model's L is only {'an' if kind is Kind.ESTIMATE else ''} {kind}: {kind.promise}")


def _below_the_evidence(tiny: Tiny) -> Iterator[Finding]:
    """For what promises a bound only: it is one at every point, and what it bounds adds up to 1."""
    known = evidence(tiny)
    if known is None:
        yield unchecked("the evidence", "it cannot be summed from above: a stage or the prior is itself only a bound")
        return
    yield Finding("sum of the evidence", abs(float(known.exp().sum()) - 1), EXACT, f"{float(known.exp().sum()):.9f}")
    subweight = tiny.model.kind is Kind.SUBWEIGHT
    mine = tiny.mean_weight.value.log() if subweight else tiny.mean.value
    over = float((mine - known).max())
    yield Finding("bound above the evidence", max(over, 0.0), EXACT, f"at most {over:.3g} nats, over {len(known)} data")


@check
def samples(tiny: Tiny) -> Iterator[Finding]:
    """What the model draws is what it scores."""
    of = f"{DRAWS} draws"
    if not tiny.countable:
        yield unchecked(of, tiny.why_uncountable)
    elif tiny.model.kind <= Kind.WEIGHT:
        _, _, apart, most, how = tiny.measured
        yield Finding(of, apart, most, f"{how} {apart:.4f}")
    else:
        yield unchecked(of, f"L is only a {tiny.model.kind}")


@check
def closed_forms(tiny: Tiny) -> Iterator[Finding]:
    """The L that training uses, with terms in closed form, has the same expectation as the L that is evaluated."""
    tape, found = Tape(), []
    for mode in MODES:
        with torch.no_grad(), tape.run():
            found.append(tiny.score(tiny.items, mode))
    if not 0 < tiny.noise <= 2 or torch.equal(*found):
        return  # nothing is drawn, or no term has a closed form
    closed = expectation(partial(tiny.score, mode="kl"), tiny.items)
    off = float((closed.value - tiny.mean.value).abs().max())
    slack = max(1e-5, float((closed.error + tiny.mean.error).max()))
    yield Finding(
        "E L in mode kl, against mode path", off, slack, f"{off:.2g} nats at most, over {len(tiny.items)} data"
    )


@check
def importance_weighting(tiny: Tiny) -> Iterator[Finding]:
    """-ELBO is the integral, and NLL(K) falls with K towards the evidence and never below it; or K > 1 is refused."""
    kind = tiny.model.kind
    if kind is Kind.EXACT:
        return
    if not kind.importance_weighted:
        yield _refusal(tiny)
        return
    if kind is not Kind.WEIGHT or not tiny.countable or not isinstance(tiny.space, Codes):
        yield unchecked("NLL(K)", tiny.why_uncountable if kind is Kind.WEIGHT else f"L is only a {kind}")
        return
    wanted, blur = -float(tiny.mean.value.mean()), float(tiny.mean.error.mean())
    floor = -float(tiny.mean_weight.value.log().mean())
    found = {k: _scored(tiny, k, repeats) for k, repeats in ((1, 4000), (8, 1000), (64, 200))}
    (cost, error), (some, _), (many, slack) = (_over_repeats(found[k][0 if k == 1 else 1]) for k in (1, 8, 64))
    yield Finding("-ELBO", abs(cost - wanted), ERRORS * error + blur, f"{cost:.4f}, by integration {wanted:.4f}")
    gap = cost - floor
    said = f"{cost:.4f}, {some:.4f}, {many:.4f} at K = 1, 8, 64; evidence {floor:.4f}"
    yield Finding("NLL(64) below the evidence", max(floor - many, 0.0), ERRORS * slack, said)
    yield Finding("NLL(64) above the evidence", many - floor, 0.5 * gap + ERRORS * (error + slack), said)


def _refusal(tiny: Tiny) -> Finding:
    try:
        draws_allowed(tiny.model, 1, 2)
    except KindError as error:
        return Finding("K = 2", 0.0, 0.0, f"refused: {error}")
    return Finding("K = 2", 1.0, 0.0, f"taken, although L is only a {tiny.model.kind}")


def _scored(tiny: Tiny, samples: int, repeats: int) -> tuple[Tensor, Tensor]:
    """-ELBO and NLL(K) of every state as ``compose evaluate`` takes them, ``(repeats, states)``."""
    x = tiny.items.repeat(repeats, *[1] * (tiny.items.dim() - 1))
    found = score(tiny.model, Split(x, tiny.label(len(x))), samples, tiny.seed)
    assert found.nll is not None
    return -found.elbo.unflatten(0, (repeats, -1)), found.nll.unflatten(0, (repeats, -1))


def _over_repeats(values: Tensor) -> tuple[float, float]:
    """The mean over states, and its standard error over repeats."""
    means = values.mean(1)
    return float(means.mean()), float(means.std()) / math.sqrt(len(means))


CHECKS = (total_mass, samples, closed_forms, importance_weighting)
