"""U-shaped convolutional networks between images of one grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le, Len, Lt
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from compose.core import random
from compose.core.declare import Misfit, NetPart, Part, Slot
from compose.core.spaces import Real, Space
from compose.nets.conv import grid
from compose.nets.steering import Modulation, Steering, modulated


class UNet(NetPart):
    """Residual convolutions down to a coarse grid and up again, with what was found on the way down beside it.

    The last two axes of an item are its grid, all before them channels. What steers it, as a time does, scales and
    shifts the features of each block.
    """

    type: ClassVar[str] = "unet"
    source: ClassVar[str] = (
        "Ronneberger et al. 2015, arXiv:1505.04597; residual, with attention, steered: Ho et al. 2020, arXiv:2006.11239"
    )
    steered: ClassVar[bool] = True

    channels: Annotated[list[Annotated[int, Ge(1), Le(4096)]], Len(1, 8)] = [32, 64]
    """Channels at each resolution, the finest first; every further one halves the grid, rounded up."""
    blocks: Annotated[int, Ge(1), Le(64)] = 1
    """Residual blocks at each resolution, down and up."""
    attention: bool = True
    """Whether places attend to each other at the coarsest resolution."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of activations dropped in training."""

    @property
    def training_differs(self) -> str:
        """Dropout."""
        return f"a share of {self.dropout:g} of its activations is dropped" if self.dropout else ""

    def narrowed(self) -> Part:
        """With two resolutions at most: an image that can be halved often has more states than can be summed over."""
        return self.model_copy(update={"channels": self.channels[:2]})

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """It goes from an image to an image of the same grid, which can be halved so often."""
        takes, gives = slot.condition, slot.space
        if not isinstance(takes, Real) or not isinstance(gives, Real):
            return
        if not grid(takes) or grid(takes) != grid(gives):
            yield Misfit(f"'{self.type}' goes between images of one grid, but here from {takes} to {gives}.")
        elif max(grid(takes)) <= 2 ** (len(self.channels) - 2):
            message = f"{takes} cannot be halved {len(self.channels) - 1} times; give fewer resolutions."
            yield Misfit(message, key="channels", swap=False)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The network between the slot's two spaces."""
        assert isinstance(slot.condition, Real) and isinstance(slot.space, Real)
        return UNetNet(slot.condition, slot.space, self, slot.steer)


class UNetNet(nn.Module):
    """Maps ``(batch, *takes.shape)`` to ``(batch, *gives.shape)``.

    Args:
        takes: Space of the input.
        gives: Space of the output.
        options: Widths and depths.
        steer: Space of a vector beside the input; none where there is none.
    """

    def __init__(self, takes: Real, gives: Real, options: UNet, steer: Space | None = None) -> None:
        super().__init__()
        widths, self.shape = options.channels, gives.shape
        told = 0 if steer is None else 4 * widths[0]
        self.steering = Steering(steer, told)
        self.enter = nn.Conv2d(math.prod(takes.shape[:-2]), widths[0], 3, padding=1)
        areas = [math.prod((side + 2**i - 1) // 2**i for side in grid(takes)) for i in range(len(widths))]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, kept = widths[0], [widths[0]]
        for i, wide in enumerate(widths):
            if i:
                self.down.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                kept.append(width)
            for _ in range(options.blocks):
                self.down.append(Block(width, wide, areas[i], told, options.dropout))
                kept.append(width := wide)
        self.middle = nn.ModuleList(
            [Block(width, width, areas[-1], told, options.dropout), *[Attention(width, areas[-1])] * options.attention]
        )
        for i, wide in reversed(list(enumerate(widths))):
            for _ in range(options.blocks + 1):
                self.up.append(Block(width + kept.pop(), wide, areas[i], told, options.dropout))
                width = wide
            if i:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm = norm(width, areas[0])
        self.leave = nn.Conv2d(width, math.prod(gives.shape[:-2]), 3, padding=1)

    def forward(self, x: Tensor, steer: Tensor | None = None) -> Tensor:
        """Down and up again."""
        steer = self.steering(steer)
        h = self.enter(x.flatten(1, -3))
        kept = [h]
        for layer in self.down:
            h = layer(h, steer) if isinstance(layer, Block) else layer(h)
            kept.append(h)
        for layer in self.middle:
            h = layer(h, steer) if isinstance(layer, Block) else layer(h)
        for layer in self.up:
            if isinstance(layer, Block):
                h = layer(torch.cat([h, kept.pop()], 1), steer)
            else:
                h = layer(functional.interpolate(h, kept[-1].shape[2:]))
        return self.leave(functional.silu(self.norm(h))).reshape(x.shape[0], *self.shape)


class Block(nn.Module):
    """Two convolutions beside the identity, steered between them; the second starts at zero.

    Args:
        takes: Channels in.
        gives: Channels out.
        area: Places of the grid.
        steered: Numbers of what steers; 0 where nothing does.
        dropout: Share of activations dropped in training.
    """

    def __init__(self, takes: int, gives: int, area: int, steered: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.before, self.first = norm(takes, area), nn.Conv2d(takes, gives, 3, padding=1)
        self.between, self.last = norm(gives, area), nn.Conv2d(gives, gives, 3, padding=1)
        self.modulation = Modulation(steered, gives)
        self.beside = nn.Identity() if takes == gives else nn.Conv2d(takes, gives, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, steer: Tensor | None = None) -> Tensor:
        """``(batch, takes, height, width)`` to ``(batch, gives, height, width)``."""
        h = self.first(functional.silu(self.before(x)))
        h = modulated(self.between(h), self.modulation(steer, 2))
        h = functional.silu(h)
        return self.beside(x) + self.last(random.dropout(h, self.dropout) if self.training else h)


class Attention(nn.Module):
    """Attention of every place to every other, beside the identity.

    Args:
        width: Channels; a head takes 32 of them, or all.
        area: Places of the grid.
    """

    def __init__(self, width: int, area: int) -> None:
        super().__init__()
        self.heads = max(1, width // 32) if width % max(1, width // 32) == 0 else 1
        self.norm, self.split = norm(width, area), nn.Conv2d(width, 3 * width, 1)
        self.joined = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, width, height, width)``, in and out."""
        parts = "b (three h d) y x -> three b h (y x) d"
        q, k, v = rearrange(self.split(self.norm(x)), parts, three=3, h=self.heads)
        seen = functional.scaled_dot_product_attention(q, k, v)
        return x + self.joined(rearrange(seen, "b h (y x) d -> b (h d) y x", y=x.shape[2]))


def norm(width: int, area: int) -> nn.Module:
    """Normalises groups of four channels or more, of each example by itself; a few numbers are left as they are."""
    groups = math.gcd(width, max(1, width // 4))
    # Normalised, a few numbers keep little more than their order.
    return nn.Identity() if area * width // groups < 16 else nn.GroupNorm(groups, width)
