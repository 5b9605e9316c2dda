"""The check against Pyro, which shares none of the ledger's bookkeeping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.terms import total, views
from compose.testing.noise import Tape
from compose.testing.subject import ROWS
from compose.verification.report import Finding, check, unchecked
from compose.verification.tiny import IMPLICIT, Tiny, apart


@check
def pyro(tiny: Tiny) -> Iterator[Finding]:
    """The same model as a Pyro program gives the same log weight, site by site, under the same draws."""
    from pyro import poutine

    model, tape = tiny.build(), Tape()
    if model.kind > Kind.WEIGHT:
        why = f"L is only {model.kind.spoken}, which no trace adds up to" if tiny.scored else IMPLICIT
        yield unchecked("trace", why)
        return
    model, (x, c) = _laid_open(model), tiny.data(ROWS)
    with torch.no_grad(), tape.record():
        ledger = model.evaluate_terms(x, c)
    program, guide = model.to_pyro()
    noise = tape.play()
    with torch.no_grad(), noise:
        above = poutine.trace(guide).get_trace(x, c)
    if noise.count != len(tape.draws):
        yield unchecked("trace", "a likelihood draws noise of its own, so no two programs draw alike")
        return
    below = poutine.trace(poutine.replay(program, above)).get_trace(x, c)
    sites, minus = _scores(below), {name: -value for name, value in _scores(above).items()}
    booked, known = _by_site(ledger.terms), dict[str, Tensor]()
    at = "x"
    for name in sorted(sites, key=lambda site: (site != "x", len(site), site)):
        # A model that closes another keeps its own edges to itself: they belong to the edge that it closes.
        at = name if name in booked else at
        known[at] = known.get(at, 0) + sites[name] + minus.get(name, 0)
    for name, wanted in booked.items():
        yield Finding(
            name, apart(known[name], wanted), 1e-9, f"off by {apart(known[name], wanted):.2g} at most, relative"
        )
    off = apart(total(known), ledger.total)
    yield Finding("all sites, against L", off, 1e-9, f"off by {off:.2g} at most, relative")


def _laid_open(model: ModelDensity) -> ModelDensity:
    """A model whose prior is a diffusion of some number of links, with that chain's stages on top of its own."""
    prior: Any = model.prior
    if model.condition is not None or not hasattr(prior, "as_chain") or prior.steps is None:
        return model
    chain = prior.as_chain()
    return ModelDensity(model.space, [*model.stack, *chain.stack], chain.prior, Kind.WEIGHT)


def _scores(trace: Any) -> dict[str, Tensor]:
    """The log-probability of each site, ``(rows,)``."""
    trace.compute_log_prob()
    sampled = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and name != "data"}
    return {name: site["log_prob"] for name, site in sampled.items()}


def _by_site(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The ledger's terms added up by the site that they belong to: x, and each edge that is drawn."""
    found: dict[str, Tensor] = {}
    for view, names in views(terms).items():
        site = "x" if view == "distortion" else view.removeprefix("rate ")
        found[site] = total({name: terms[name] for name in names})
    return found


CHECKS = (pyro,)
