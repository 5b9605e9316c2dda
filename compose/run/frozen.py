"""Passes once what a phase does not train: each example is encoded at the start, and only what is above trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compose.core.model import ModelDensity
from compose.core.terms import Ledger
from compose.data.source import Source, Split
from compose.run.batches import Batches


@dataclass(frozen=True)
class Frozen:
    """The lowest stages of a model, passed for good.

    Args:
        stages: How many.
        source: The data with what comes up to the lowest stage above in place of the train split.
        terms: The mean of each term of these stages over the train split, in nats.
    """

    stages: int
    source: Source
    terms: dict[str, Tensor]

    @property
    def digest(self) -> str:
        """Of what was encoded; a run records it."""
        return self.source.train.digest

    def over(self, wrapped: Any) -> Callable[..., Any]:
        """The model from the lowest stage above; what lies below adds its mean, the same at each step."""

        def call(x: Tensor, c: Tensor | None, call: str, **how: Any) -> Ledger:
            ledger = wrapped(x, c, call=call, start=self.stages, **how)
            below = {name: value.expand(len(x)) for name, value in self.terms.items()}
            return ledger._replace(terms={**below, **ledger.terms})

        return call


def frozen_stages(model: ModelDensity, source: Source) -> int:
    """How many stages, from the data upward, hold still: not trained, and without chance on the way up."""
    count = 0
    for stage in model.stack if source.grey is None else []:
        if not stage.certain or any(value.requires_grad for value in stage.parameters()):
            break
        count += 1
    # Bijections alone cost little, and reals take more room than codes.
    return count if any(stage.draws for stage in model.stack[:count]) else 0


@torch.no_grad()
def encoded(model: ModelDensity, source: Source, batches: Batches, stages: int) -> Frozen:
    """Passes the whole train split through the lowest stages."""
    up: list[Tensor] = []
    sums: dict[str, Tensor] = {}
    for x, c in batches.all():
        up.append(model.encode(x, c, stages))
        terms = model.evaluate_terms(x, c, with_prior=False).terms
        above = model.evaluate_terms(up[-1], c, with_prior=False, start=stages).terms
        for name in terms.keys() - above.keys():
            sums[name] = sums[name] + terms[name].sum() if name in sums else terms[name].sum()
    train = Split(torch.cat(up), source.train.y)
    return Frozen(stages, replace(source, train=train), {name: sums[name] / len(train) for name in sorted(sums)})
