"""What a diffusion minimises where its samples matter more than its bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt
from torch import Tensor, nn

from compose.core.declare import Misfit, ObjectivePart, Slot
from compose.core.kinds import Kind
from compose.core.objective import Loss, Objective
from compose.core.roles import DensityPart, promised
from compose.core.terms import Ledger


class Denoising(ObjectivePart):
    """Minimises ``|eps - eps_hat|^2 / 2`` of a diffusion, or of a flow its velocity, at random times; it is no bound.

    The bound weighs the last bit of noise most, which nobody sees. Stages below the prior get no gradient of it.
    """

    type: ClassVar[str] = "denoising"
    source: ClassVar[str] = "simple: Ho et al. 2020, arXiv:2006.11239; min_snr: Hang et al. 2023, arXiv:2303.09556"

    weighting: Literal["simple", "min_snr"] = "simple"
    """All noise alike, or as what is missed of the data, with no time counting for more than ``at_most``."""
    at_most: Annotated[float, Gt(0)] = 5.0
    """Of min_snr: the ratio of signal to noise from which on all times count alike."""

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """The model's prior walks from noise to data."""
        assert isinstance(slot.model, DensityPart)
        if promised(slot) is Kind.NONE:
            yield Misfit(f"'{self.type}' goes up to the prior, and of this implicit model no way leads up.")
        elif not slot.model.denoises:
            yield Misfit(f"'{self.type}' trains a 'diffusion' or 'flow_matching' prior, and this model has none.")
        elif idle := slot.model.of_the_bound:
            option = idle.partition(":")[0]
            yield Misfit(f"'{self.type}' has no use for '{idle}' of its prior: 'elbo' has; or leave out '{option}'.")

    @property
    def reaches(self) -> tuple[str, ...]:
        """The prior alone."""
        return ("prior",)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The objective."""
        return DenoisingObjective(self.at_most if self.weighting == "min_snr" else None)


class DenoisingObjective(Objective):
    """What is missed of the noise, averaged over the batch.

    Args:
        at_most: Ratio of signal to noise that counts at most; none where all noise counts alike.
    """

    def __init__(self, at_most: float | None) -> None:
        super().__init__()
        self.at_most = at_most

    def forward(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """One random time for each example."""
        each = model(x, c, call="denoising", at_most=self.at_most)
        return Loss(each.mean(), Ledger({}, {"denoising": each}, {}))
