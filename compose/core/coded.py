"""What densities have in common that draw codes by a network over all places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from annotated_types import Ge, Le, Lt

from compose.core.declare import Misfit, Slot
from compose.core.roles import DensityPart
from compose.core.spaces import Codes, Real, Space


class CodedPart(DensityPart):
    """Codes drawn by a network that gives each place logits, from what is known of the others."""

    takes: ClassVar[tuple[type, ...]] = (Codes,)
    gradient: ClassVar = "none"
    longest: ClassVar[int]

    layers: Annotated[int, Ge(1), Le(256)] = 4
    """How many blocks are stacked."""
    # Normalised, fewer than four numbers hold next to nothing.
    width: Annotated[int, Ge(4), Le(4096)] = 128
    """Numbers (channels) at each code."""
    heads: Annotated[int, Ge(1), Le(256)] = 4
    """Of a transformer: attention heads, which share the width."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of activations dropped in training."""
    context: Annotated[int, Ge(1), Le(4096)] = 16
    """Under a condition: how many numbers the net gives to each place of the grid."""
    unlabelled: Annotated[float, Ge(0), Lt(1)] = 0.0
    """With labels: share of the training examples whose label is hidden, so that samples can be guided."""

    @property
    def training_differs(self) -> str:
        """Dropout, and labels that are hidden."""
        dropped = f"a share of {self.dropout:g} of its activations is dropped" if self.dropout else ""
        hidden = f"a share of {self.unlabelled:g} of its labels is hidden" if self.unlabelled else ""
        return ", ".join(filter(None, (dropped, hidden)))

    @property
    def hidden_labels(self) -> float:
        """What ``unlabelled`` says."""
        return self.unlabelled

    @property
    def attends(self) -> bool:
        """Whether the network is one of attention."""
        return True

    def features(self, space: Space) -> Real:
        """``context`` numbers at each place of the grid; the channels of a pixel share them."""
        return Real((self.context, *space.grid))

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any density; and there are not too many codes, and the width is one of all heads."""
        yield from super().misfits(slot)
        if self.attends and self.width % self.heads:
            yield Misfit(f"{self.heads} heads cannot share a width of {self.width} evenly.", key="heads", swap=False)
        if isinstance(slot.space, Codes) and slot.space.dim > self.longest:
            yield Misfit(f"{slot.space.dim} codes are more than the {self.longest} that '{self.type}' goes through.")
