"""The importance-weighted bound."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from compose.core.declare import Misfit, ObjectivePart, Slot
from compose.core.objective import Loss, Objective, penalised
from compose.core.roles import promised
from compose.core.terms import total


class IWAE(ObjectivePart):
    """Minimises ``-log 1/K sum_k exp L_k`` over K draws of every latent."""

    type: ClassVar[str] = "iwae"
    source: ClassVar[str] = "Burda et al. 2016, arXiv:1509.00519"

    samples: Annotated[int, Ge(1), Le(10000)] = 5
    """K; a step costs K times as much."""

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """Only weights may be averaged: of a mere bound, ``log mean exp`` is none."""
        kind = promised(slot)
        if not kind.importance_weighted:
            yield Misfit(
                f"'{self.type}' averages exp L, which needs a weight, and this model gives {kind.spoken} "
                f"({kind.promise})."
            )

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The objective."""
        return IWAEObjective(self.samples)


class IWAEObjective(Objective):
    """K draws a row, in one batch K times as large.

    Args:
        samples: K.
    """

    of_terms = True

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """The bound at K, averaged over the batch."""
        many = x.repeat_interleave(self.samples, 0)
        conditions = None if c is None else c.repeat_interleave(self.samples, 0)
        ledger = model(many, conditions, call="evaluate_terms", mode="path")
        weights = total(ledger.terms).unflatten(0, (-1, self.samples))
        value = (math.log(self.samples) - torch.logsumexp(weights, dim=1)).mean()
        return Loss(penalised(value, ledger), ledger)
