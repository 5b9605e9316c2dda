"""The role of a quantizer: vectors become codes, and codes vectors again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from compose.core import random
from compose.core.declare import Misfit, Part, Slot
from compose.core.spaces import Codes, Real


class Quantized(NamedTuple):
    """What a quantizer made of a batch.

    Args:
        vectors: In place of those that came, of the same shape; the gradient goes straight through to these.
        codes: Their indices, ``(batch, *codes.shape)``.
        penalties: Weighted costs of training that are no likelihood: ``(batch,)``, or one number of the whole batch.
    """

    vectors: Tensor
    codes: Tensor
    penalties: Mapping[str, Tensor] = {}


class Quantizer(nn.Module):
    """Replaces each vector on a grid by one of finitely many.

    Args:
        takes: Vectors on a grid, ``(width, *grid)``.
        codes: What one item becomes.
    """

    #: Whether it starts from the data, by ``start``.
    starts: bool = False

    def __init__(self, takes: Real, codes: Codes) -> None:
        super().__init__()
        self.takes, self.codes = takes, codes

    @abstractmethod
    def forward(self, z: Tensor) -> Quantized:
        """Quantizes ``z``, ``(batch, width, *grid)``. Changes nothing of its own, in training neither."""

    @abstractmethod
    def vectors(self, codes: Tensor) -> Tensor:
        """The vectors that codes stand for, ``(batch, width, *grid)``."""

    def passed(self, rows: Tensor, found: Tensor) -> Tensor:
        """What was found for rows of vectors, ``(rows, width)`` both, with the gradient that goes on to the rows."""
        return straight_through(rows, found)

    def settle(self, kept: Tensor) -> None:
        """After a training step, moves what follows the data without a gradient, such as a running mean.

        Args:
            kept: Whether the step was taken, a scalar on the device; where it was skipped, nothing may move.
        """
        return

    def waits(self) -> bool:
        """Whether ``start`` still has something to set."""
        return self.starts

    def start(self, batches: Iterator[Tensor]) -> None:
        """Before the first step of a training, sets what starts from the data: all vectors that will come."""
        return


class QuantizerPart(Part):
    """Declares a quantizer: how wide its vectors are, and the codes that it gives."""

    role: ClassVar[str] = "quantizer"
    #: Of what passes through it.
    gradient: ClassVar[str] = "straight_through"

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        raise NotImplementedError(f"{self.__class__.__name__} must say how wide its vectors are")

    def codes(self, grid: tuple[int, ...]) -> Codes:
        """The space of the codes that vectors on a grid become."""
        raise NotImplementedError(f"{self.__class__.__name__} must declare the codes it gives")

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """It takes vectors of its own width; whoever owns it hands it those."""
        if not isinstance(slot.space, Real) or slot.space.shape[:1] != (self.width,):
            wanted = f"'{self.type}' takes vectors of {self.width} numbers on a grid"
            yield Misfit(f"{wanted}, but {slot.origin} {slot.space}.")


def to_rows(z: Tensor) -> Tensor:
    """The vectors of a grid one below the other, ``(batch * places, width)``."""
    return rearrange(z.flatten(2), "b d g -> (b g) d")


def to_grid(rows: Tensor, like: Tensor) -> Tensor:
    """Rows of vectors back on the grid of ``like``, ``(batch, width, *grid)``."""
    return rearrange(rows, "(b g) d -> b d g", b=len(like)).unflatten(2, like.shape[2:])


def straight_through(z: Tensor, vectors: Tensor) -> Tensor:
    """The value of ``vectors`` with the gradient of ``z`` (Bengio et al. 2013, arXiv:1308.3432)."""
    return z + (vectors - z).detach()


def over_devices(value: Tensor) -> Tensor:
    """The sum over all devices that share a batch; the same tensor where there is one."""
    if random.share()[1] > 1:
        torch.distributed.all_reduce(value)
    return value


def mean_over_devices(value: Tensor) -> Tensor:
    """The mean over all devices that share a batch, with a gradient."""
    world = random.share()[1]
    return value if world == 1 else _Summed.apply(value) / world  # type: ignore[operator]


class _Summed(torch.autograd.Function):
    """A sum over devices; what its result costs all of them, each of its parts costs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return over_devices(value.clone())

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return over_devices(slopes[0].clone())


def picked_over_devices(rows: Tensor, count: int) -> Tensor:
    """Rows picked at random with repetition from those of all devices that share a batch; the same on each."""
    rank, world = random.share()
    at = (torch.rand(count, device=rows.device) * (len(rows) * world)).long().clamp_max(len(rows) * world - 1)
    here = at - rank * len(rows)
    mine = (here >= 0) & (here < len(rows))
    return over_devices(torch.where(mine[:, None], rows[here.clamp(0, len(rows) - 1)], 0.0))
