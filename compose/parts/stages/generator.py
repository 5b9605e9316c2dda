"""The stage of a generative adversarial network: a net down, and no way up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, NoReturn

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from compose.core.declare import Misfit, Part, Slot, as_real, part_field
from compose.core.errors import KindError
from compose.core.kinds import Kind
from compose.core.roles import Mode, Stage, StagePart, labelled, with_label
from compose.core.spaces import Codes, Real, Space


class Generator(StagePart):
    """Down ``x = g(z)``; no way leads up, so the model has samples and no likelihood.

    Levels are generated in [0, 1], as a net sees them, and rounded once the sample is finished.
    """

    type: ClassVar[str] = "generator"
    source: ClassVar[str] = "Goodfellow et al. 2014, arXiv:1406.2661"

    dim: Annotated[int, Ge(1), Le(65536)] = 64
    """How many numbers z holds."""
    decoder: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Maps z to x."""
    labels: bool = True
    """Whether the decoder sees the class label, where the data give one."""

    @property
    def descends(self) -> bool:
        """Always."""
        return True

    def sees_labels(self) -> bool:
        """As its option says."""
        return self.labels

    def above(self, below: Space) -> Real:
        """A vector of ``dim`` numbers."""
        return Real((self.dim,))

    def terms(self) -> dict[str, str]:
        """None: nothing is scored."""
        return {}

    def kind(self, slot: Slot) -> Kind:
        """None."""
        return Kind.NONE

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """Between unordered codes there is nothing for a gradient to follow."""
        if isinstance(slot.space, Codes) and not slot.space.ordered:
            yield Misfit(f"'{self.type}' takes Real or ordered Codes, but {slot.origin} {slot.space}.")

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """The decoder gives x as a net sees it."""
        takes = labelled(self.above(slot.space), slot.labels if self.labels else None)
        return {"decoder": (self.decoder, Slot("net", as_real(slot.space), takes))}

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage around its net."""
        return GeneratorStage(
            slot.space, self.above(slot.space), children["decoder"], slot.labels if self.labels else None
        )


class GeneratorStage(Stage):
    """Generates x with a net.

    Args:
        below: Space of x.
        above: Space of z.
        decoder: Maps z to x.
        labels: Space of the class label that the net sees; none where it sees none.
    """

    implicit = True

    def __init__(self, below: Space, above: Real, decoder: nn.Module, labels: Codes | None) -> None:
        super().__init__(below, above)
        self.decoder, self.labels = decoder, labels

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> NoReturn:
        """Always refused.

        Raises:
            KindError: there is no way from x to z.
        """
        raise KindError("a generator has no way from x to z, so there is nothing to infer and no likelihood to score.")

    def relax(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """``g(z)``, levels between 0 and 1."""
        x = self.decoder(with_label(z, c, self.labels))
        return torch.sigmoid(x) if isinstance(self.below, Codes) else x

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """``g(z)``, rounded to levels."""
        x = self.relax(z, c)
        return (x * (self.below.size - 1)).round().long() if isinstance(self.below, Codes) else x
