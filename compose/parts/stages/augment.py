"""Augmented flows: noise beside the data gives a flow more numbers to work with than the data have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from compose.core.declare import Misfit, Part, Slot, part_field
from compose.core.kinds import Kind
from compose.core.roles import Density, DensityPart, Mode, Stage, StagePart, Step, labelled, with_label
from compose.core.spaces import Codes, Real, Space


class Augment(StagePart):
    """Up ``z = (x, e)`` with ``e ~ q(e | x)``, down ``x``; adds ``-log q(e | x)``. The dual of 'split'."""

    type: ClassVar[str] = "augment"
    source: ClassVar[str] = (
        "Huang et al. 2020, arXiv:2002.07101; as a surjection: Nielsen et al. 2020, arXiv:2007.02731"
    )

    extra: Annotated[int, Ge(1), Le(65536)] = 1
    """How many channels, or numbers of a vector, are added."""
    net: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Maps x to the parameters of q; for images 'conv'."""
    posterior: part_field("density") = "normal"  # type: ignore[valid-type]
    """q(e | x); must be exact, since it enters with a minus sign."""
    labels: bool = True
    """Whether the network sees the class label, where the data give one."""

    def sees_labels(self) -> bool:
        """As its option says."""
        return self.labels

    def last_nets(self) -> tuple[str, str]:
        """That of the noise; on the way down it is dropped."""
        return "net", ""

    def above(self, below: Space) -> Real:
        """More channels, or a longer vector."""
        first, *rest = below.shape or (1,)
        return Real((first + self.extra, *rest))

    def terms(self) -> dict[str, str]:
        """That of the noise."""
        return {"minus_log_q": "posterior"}

    def kind(self, slot: Slot) -> Kind:
        """A path weight: exp L is p(x) in expectation over e."""
        return Kind.WEIGHT

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """It stands on reals with an axis to add to."""
        came = f"{slot.origin} {slot.space}"
        if isinstance(slot.space, Codes):
            yield Misfit(f"'{self.type}' takes Real, but {came}; a stage 'dequantize' before it gives Real.")
        elif not slot.space.shape:
            yield Misfit(f"'{self.type}' adds channels or numbers of a vector, but {came}.")

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """The network's output is what the density declares as its features."""
        first, *rest = slot.space.shape or (1,)
        noise = Real((self.extra, *rest))
        assert isinstance(self.posterior, DensityPart)
        features = self.posterior.features(noise) or Real((2 * self.extra, *rest))
        takes = labelled(Real((first, *rest)), slot.labels if self.labels else None)
        return {
            "net": (self.net, Slot("net", features, takes)),
            "posterior": (self.posterior, Slot("posterior", noise, features, slot.labels, "stage 'augment' adds")),
        }

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage around its parts."""
        return AugmentStage(slot.space, self.above(slot.space), children, slot.labels if self.labels else None)


class AugmentStage(Stage):
    """Draws noise on the way up, drops it on the way down.

    Args:
        below: Space of x.
        above: Space of x with the noise.
        parts: ``net`` and ``posterior``.
        labels: Space of the class label that the network sees; none where it sees none.
    """

    draws = True

    def __init__(self, below: Space, above: Space, parts: Mapping[str, nn.Module], labels: Codes | None) -> None:
        super().__init__(below, above)
        self.net, posterior = parts["net"], parts["posterior"]
        assert isinstance(posterior, Density)
        self.posterior: Density = posterior
        self.kept, self.labels = below.shape[0], labels

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Draws e given x."""
        e, log_q = self.posterior.rsample_and_log_prob(self.net(with_label(x, c, self.labels)))
        return Step(torch.cat([x, e], 1), {"minus_log_q": -log_q})

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Drops e."""
        return z[:, : self.kept]
