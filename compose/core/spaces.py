"""Spaces: what one item on an edge is, without the batch axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compose.core.errors import SpaceError


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) or "scalar"


def _grid(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if len(shape) > 2 else shape


@dataclass(frozen=True)
class Real:
    """Real numbers of a fixed shape.

    Args:
        shape: Shape of one item; images are channels first.
    """

    shape: tuple[int, ...]

    @property
    def dim(self) -> int:
        """How many numbers one item holds."""
        return math.prod(self.shape)

    @property
    def grid(self) -> tuple[int, ...]:
        """The places of an item: of an image its height and width, which its channels share."""
        return _grid(self.shape)

    def check(self, x: Tensor, name: str = "x") -> None:
        """Refuse a tensor that is no batch of this space.

        Raises:
            SpaceError: ``x`` is not floating or not ``(batch, *shape)``.
        """
        if tuple(x.shape[1:]) != self.shape or x.dim() == 0 or not x.is_floating_point():
            raise SpaceError(f"{name} is {_came(x)}, but {self} wants floats of shape (batch, {_axes(self.shape)}).")

    def check_values(self, x: Tensor, name: str = "x") -> None:
        """As ``check``: of reals any value will do."""
        self.check(x, name)

    def __str__(self) -> str:
        return f"Real({_by(self.shape)})"


@dataclass(frozen=True)
class Codes:
    """Integers ``0 .. size-1`` of a fixed shape.

    Args:
        shape: Shape of one item; images are channels first.
        size: How many values a code takes: levels of a pixel, entries of a codebook, classes.
        ordered: Whether neighbouring values are alike: pixels yes, quantizer indices no.
    """

    shape: tuple[int, ...]
    size: int
    ordered: bool = True

    @property
    def dim(self) -> int:
        """How many codes one item holds."""
        return math.prod(self.shape)

    @property
    def grid(self) -> tuple[int, ...]:
        """The places of an item: of an image its height and width, which its channels share."""
        return _grid(self.shape)

    def raster(self) -> Tensor:
        """The places of a flattened item, row by row and at each pixel channel by channel, ``(dim,)``."""
        cells = math.prod(self.grid)
        return torch.arange(self.dim).reshape(-1, cells).T.flatten()

    def upper(self, rows: int) -> Tensor:
        """Those places that stand in the uppermost rows; of a sequence its first ones.

        Raises:
            SpaceError: there are no so many rows.
        """
        height = self.shape[-2] if len(self.shape) > 1 else self.dim
        if not 0 <= rows <= height:
            raise SpaceError(f"{rows} rows are to be kept, and an item of {self} has {height}.")
        return self.raster()[: rows * (self.dim // height)]

    def check(self, x: Tensor, name: str = "x") -> None:
        """Refuse a tensor that is no batch of this space (values are not read: that would stall a GPU).

        Raises:
            SpaceError: ``x`` is not integer or not ``(batch, *shape)``.
        """
        if tuple(x.shape[1:]) != self.shape or x.dim() == 0 or x.is_floating_point() or x.dtype == torch.bool:
            raise SpaceError(f"{name} is {_came(x)}, but {self} wants integers of shape (batch, {_axes(self.shape)}).")

    def check_values(self, x: Tensor, name: str = "x") -> None:
        """As ``check``, and every value lies in ``0 .. size-1``.

        Raises:
            SpaceError: naming the extreme value found.
        """
        self.check(x, name)
        if x.numel() and (int(x.min()) < 0 or int(x.max()) >= self.size):
            raise SpaceError(
                f"{name} holds values from {int(x.min())} to {int(x.max())}, but {self} wants 0 to {self.size - 1}."
            )

    def __str__(self) -> str:
        return f"Codes({_by(self.shape)}, size {self.size}, {'ordered' if self.ordered else 'unordered'})"


Space = Real | Codes


def _axes(shape: tuple[int, ...]) -> str:
    return ", ".join(str(side) for side in shape)


def _came(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of shape {tuple(x.shape)}"
