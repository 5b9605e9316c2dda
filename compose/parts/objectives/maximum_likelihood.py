"""Maximum likelihood, for models without a latent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from compose.core.declare import Misfit, ObjectivePart, Slot
from compose.core.kinds import Kind
from compose.core.objective import Loss, Objective
from compose.core.roles import promised
from compose.core.terms import total


class MaximumLikelihood(ObjectivePart):
    """Minimises ``-log p(x)``, exact; a model that draws anything on its way gets its bound from ``elbo``."""

    type: ClassVar[str] = "maximum_likelihood"
    source: ClassVar[str] = "Fisher 1922"

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """The model's log-probability is exact."""
        kind = promised(slot)
        if kind is not Kind.EXACT:
            yield Misfit(
                f"'{self.type}' needs an exact log-probability, and that of this model is {kind.spoken} "
                f"({kind.promise})."
            )

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The objective."""
        return MaximumLikelihoodObjective()


class MaximumLikelihoodObjective(Objective):
    """The negative log-likelihood, averaged over the batch."""

    of_terms = True

    def forward(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """``-log p``, in nats per example."""
        ledger = model(x, c, call="evaluate_terms", mode="path")
        return Loss(-total(ledger.terms).mean(), ledger)
