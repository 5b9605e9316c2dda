"""One network for all times between noise and data: what densities share that walk from the one to the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn

from compose.core import random
from compose.core.declare import NetPart, Part, Slot, part_field
from compose.core.kinds import Kind
from compose.core.random import uniform
from compose.core.roles import Density, DensityPart
from compose.core.spaces import Real, Space

#: Numbers that tell a network the time.
TOLD = 32


class TimedPart(DensityPart):
    """Declares a density that asks one network at every time between noise and data."""

    gradient: ClassVar = "none"

    net: part_field("net") = "resmlp"  # type: ignore[valid-type]
    """Sees what lies between noise and data, the time and what conditions; gives as many numbers as a datum has."""
    context: Annotated[int, Ge(1), Le(4096)] = 16
    """Under a condition: how many numbers the net below gives to each place of the grid."""
    unlabelled: Annotated[float, Ge(0), Lt(1)] = 0.0
    """With labels: share of the training examples whose label is hidden, so that samples can be guided."""

    @property
    def training_differs(self) -> str:
        """Labels that are hidden."""
        return f"a share of {self.unlabelled:g} of its labels is hidden" if self.unlabelled else ""

    @property
    def denoises(self) -> bool:
        """From noise to data."""
        return True

    @property
    def hidden_labels(self) -> float:
        """What ``unlabelled`` says."""
        return self.unlabelled

    def features(self, space: Space) -> Real:
        """``context`` numbers at each place of the grid; the channels of a pixel share them."""
        return Real((self.context, *space.shape[1:]))

    def between(self, slot: Slot) -> tuple[int, int]:
        """How many channels the network sees beside a latent's own, and how many it gives for each of those."""
        return 0, 1

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """The network, which is told the time beside its input, or where it cannot be steered as more channels."""
        assert isinstance(self.net, NetPart)
        first, *rest = latent(slot.space).shape
        beside, many = self.between(slot)
        beside += self.context if slot.condition is not None or (self.labels and slot.labels is not None) else 0
        beside += 0 if self.net.steered else TOLD
        steer = Real((TOLD,)) if self.net.steered else None
        return {"net": (self.net, Slot("net", Real((many * first, *rest)), Real((first + beside, *rest)), steer=steer))}


def latent(space: Space) -> Real:
    """The space of what lies between noise and data."""
    return Real(space.shape or (1,))


class TimedDensity(Density):
    """A density whose network is asked at every time.

    Args:
        space: Of the data.
        condition: ``(context, ...)``; none for a density that stands alone.
        net: The network.
        steered: Whether it is told the time beside its input.
        kind: What L promises.
    """

    denoises = True

    def __init__(self, space: Space, condition: Space | None, net: nn.Module, steered: bool, kind: Kind) -> None:
        super().__init__(space, condition, kind)
        self.net, self.steered, self.latent = net, steered, latent(space)
        # Says where and in which precision it computes.
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def ask(self, seen: Iterable[Tensor], told: Tensor, c: Tensor | None) -> Tensor:
        """What the network gives, of all that it sees of a latent, of the condition and of the time."""
        given = [*seen] if c is None else [*seen, c]
        if not self.steered:
            given.append(told.reshape(*told.shape, *[1] * (given[0].dim() - 2)).expand(-1, -1, *given[0].shape[2:]))
        joined = torch.cat(given, 1) if len(given) > 1 else given[0]
        return self.net(joined, told) if self.steered else self.net(joined)

    def time(self, x: Tensor) -> Tensor:
        """A random time for each row; in training they are spread evenly over the batch of all devices."""
        t = uniform((len(x),), x)
        if not self.training:
            return t
        rank, world = random.share()
        return (rank * len(x) + torch.arange(len(x), dtype=x.dtype, device=x.device) + t) / (world * len(x))


def waves(t: Tensor, low: float, high: float) -> Tensor:
    """What a network is told of the time: waves of a number, ``(batch,)`` to ``(batch, TOLD)``.

    Args:
        t: The number.
        low: Log2 of the lowest frequency.
        high: Log2 of the highest.
    """
    frequency = 2 ** torch.linspace(low, high, TOLD // 2, dtype=t.dtype, device=t.device)
    angle = t[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1)
