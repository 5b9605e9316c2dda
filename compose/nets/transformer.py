"""Transformers over the patches of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from compose.core.declare import Misfit, NetPart, Slot
from compose.core.spaces import Real, Space
from compose.nets.conv import grid
from compose.nets.steering import Modulation, Steering, modulated


class Transformer(NetPart):
    """Attention between the patches of an image, and a network at each: a DiT.

    The last two axes of an item are its grid, all before them channels. What steers it, as a time does, scales and
    shifts the features of each block and gates what it adds.
    """

    type: ClassVar[str] = "transformer"
    source: ClassVar[str] = (
        "Vaswani et al. 2017, arXiv:1706.03762; over patches, steered: Peebles and Xie, arXiv:2212.09748"
    )
    steered: ClassVar[bool] = True

    patch: Annotated[int, Ge(1), Le(64)] = 2
    """Side of a patch."""
    layers: Annotated[int, Ge(1), Le(256)] = 4
    """How many blocks are stacked."""
    width: Annotated[int, Ge(4), Le(4096)] = 128
    """Numbers at each patch."""
    heads: Annotated[int, Ge(1), Le(256)] = 4
    """Attention heads, which share the width."""

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """It goes from an image to one of the same grid, which patches tile; and all heads share the width."""
        if self.width % self.heads:
            yield Misfit(f"{self.heads} heads cannot share a width of {self.width} evenly.", key="heads", swap=False)
        takes, gives = slot.condition, slot.space
        if not isinstance(takes, Real) or not isinstance(gives, Real):
            return
        if not grid(takes) or grid(takes) != grid(gives):
            yield Misfit(f"'{self.type}' goes between images of one grid, but here from {takes} to {gives}.")
        elif any(side % self.patch for side in grid(takes)):
            yield Misfit(f"patches of {self.patch}x{self.patch} do not tile {takes}.", key="patch", swap=False)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The network between the slot's two spaces."""
        assert isinstance(slot.condition, Real) and isinstance(slot.space, Real)
        return TransformerNet(slot.condition, slot.space, self, slot.steer)


class TransformerNet(nn.Module):
    """Maps ``(batch, *takes.shape)`` to ``(batch, *gives.shape)``.

    Args:
        takes: Space of the input.
        gives: Space of the output.
        options: Patches, width, depth.
        steer: Space of a vector beside the input; none where there is none.
    """

    def __init__(self, takes: Real, gives: Real, options: Transformer, steer: Space | None = None) -> None:
        super().__init__()
        width, self.patch, self.shape = options.width, options.patch, gives.shape
        told = 0 if steer is None else width
        self.steering = Steering(steer, told)
        area = options.patch**2
        self.enter = nn.Linear(math.prod(takes.shape[:-2]) * area, width)
        self.place = nn.Parameter(0.02 * torch.randn(math.prod(grid(takes)) // area, width))
        self.blocks = nn.ModuleList(_Block(width, options.heads, told) for _ in range(options.layers))
        self.norm, self.modulation = nn.LayerNorm(width), Modulation(told, width)
        self.leave = nn.Linear(width, math.prod(gives.shape[:-2]) * area)

    def forward(self, x: Tensor, steer: Tensor | None = None) -> Tensor:
        """Through all blocks, patch by patch."""
        steer, (p, rows) = self.steering(steer), (self.patch, x.shape[-2] // self.patch)
        patches = rearrange(x.flatten(1, -3), "b c (y p) (x q) -> b (y x) (c p q)", p=p, q=p)
        h = self.enter(patches) + self.place
        for block in self.blocks:
            h = block(h, steer)
        h = self.leave(_at_each(self.norm(h), self.modulation(steer)))
        image = rearrange(h, "b (y x) (c p q) -> b c (y p) (x q)", y=rows, p=p, q=p)
        return image.reshape(x.shape[0], *self.shape)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, steered: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.inside = nn.LayerNorm(width), nn.LayerNorm(width)
        self.split, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.each = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.attending, self.thinking = Modulation(steered, width, 3), Modulation(steered, width, 3)

    def forward(self, h: Tensor, steer: Tensor | None) -> Tensor:
        by = self.attending(steer)
        q, k, v = rearrange(
            self.split(_at_each(self.before(h), by)), "b n (three h d) -> three b h n d", three=3, h=self.heads
        )
        seen = functional.scaled_dot_product_attention(q, k, v)
        h = h + _gated(self.joined(rearrange(seen, "b h n d -> b n (h d)")), by)
        by = self.thinking(steer)
        return h + _gated(self.each(_at_each(self.inside(h), by)), by)


def _at_each(h: Tensor, by: list[Tensor] | None) -> Tensor:
    """Modulated alike at every place, ``(batch, n, width)``."""
    return h if by is None else modulated(h, [each[:, None] for each in by])


def _gated(h: Tensor, by: list[Tensor] | None) -> Tensor:
    return h if by is None else h * by[2][:, None]
