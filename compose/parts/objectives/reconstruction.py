"""What an autoencoder minimises while its prior waits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from compose.core.declare import Misfit, ObjectivePart, Slot
from compose.core.kinds import Kind
from compose.core.objective import Loss, Objective, penalised
from compose.core.roles import promised, stages_of, without_latent
from compose.core.terms import Ledger, total, views


class Reconstruction(ObjectivePart):
    """Minimises the distortion, and what a quantizer adds to it; no rate counts, and the prior is left out."""

    type: ClassVar[str] = "reconstruction"
    source: ClassVar[str] = "first of two phases: van den Oord et al. 2017, arXiv:1711.00937"
    one_sided: ClassVar[bool] = True

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """There is a latent, and a likelihood of the data given it."""
        if promised(slot) is Kind.NONE:
            yield Misfit(f"'{self.type}' needs a likelihood, and this model has none.")
        elif (missing := without_latent(self.type, stages_of(slot))) is not None:
            yield missing

    @property
    def reaches(self) -> tuple[str, ...]:
        """The stages alone."""
        return ("stages",)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The objective."""
        return ReconstructionObjective()


class ReconstructionObjective(Objective):
    """The distortion, averaged over the batch."""

    judged_by = "distortion"

    def forward(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """The distortion and all penalties."""
        ledger = model(x, c, call="evaluate_terms", mode="path", with_prior=False)
        terms = {name: ledger.terms[name] for name in views(ledger.terms)["distortion"]}
        kept = Ledger(terms, ledger.penalties, ledger.diagnostics)
        return Loss(penalised(-total(terms).mean(), kept), kept)
