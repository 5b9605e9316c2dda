"""Convolutional residual networks between images, and between images and vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn import functional

from compose.core.declare import Misfit, NetPart, Slot
from compose.core.spaces import Real


class Conv(NetPart):
    """Residual 3x3 convolutions; the grid is halved or doubled as the two spaces ask.

    An item of three axes or more is an image: its last two axes are the grid, all before them channels. A vector is met
    on a grid that was halved ``halvings`` times.
    """

    type: ClassVar[str] = "conv"
    source: ClassVar[str] = (
        "He et al. 2016, arXiv:1603.05027; group norm: Wu and He 2018, arXiv:1803.08494; "
        "gates: van den Oord et al. 2016, arXiv:1606.05328"
    )

    channels: Annotated[int, Ge(1), Le(4096)] = 32
    """Channels at every resolution."""
    blocks: Annotated[int, Ge(1), Le(64)] = 1
    """Residual blocks of two convolutions, at every resolution but the finest of a net that changes it."""
    halvings: Annotated[int, Ge(0), Le(8)] = 2
    """Between an image and a vector: how often the grid is halved before it is flattened."""
    gated: bool = False
    """Blocks end in ``A(x) * sigmoid(B(x))`` instead of ``A(x)``."""
    norm: Literal["group", "none"] = "group"
    """Group normalisation, of each example by itself, before each convolution of a block."""

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """One of its two sides is an image; two images differ by halvings."""
        takes, gives = slot.condition, slot.space
        if not isinstance(takes, Real) or not isinstance(gives, Real):
            return
        start, end = grid(takes), grid(gives)
        if not start and not end:
            yield Misfit(f"'{self.type}' works on images, but here it would map {takes} to {gives}.")
        elif start and end and end not in _halved(start) and start not in _halved(end):
            yield Misfit(f"'{self.type}' halves or doubles a grid, which does not lead from {takes} to {gives}.")

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The network between the slot's two spaces."""
        assert isinstance(slot.condition, Real) and isinstance(slot.space, Real)
        return ConvNet(slot.condition, slot.space, self)


class ConvNet(nn.Module):
    """Maps ``(batch, *takes.shape)`` to ``(batch, *gives.shape)``.

    Args:
        takes: Space of the input.
        gives: Space of the output.
        options: Widths and depths.
    """

    def __init__(self, takes: Real, gives: Real, options: Conv) -> None:
        super().__init__()
        grids = _path(grid(takes), grid(gives), options.halvings)
        # Most of the cost would lie at the finest grid, so a net that leaves it does its work on the coarser ones.
        spared = max(grids) if len(grids) > 1 else None
        layers: list[nn.Module] = [_enter(takes, grids[0], options.channels)]
        for i, here in enumerate(grids):
            if i:
                layers.append(_resample(options.channels, grids[i - 1], here))
            if here != spared:
                layers += [Block(options, here) for _ in range(options.blocks)]
        self.layers = nn.Sequential(
            *layers, _norm(options, grids[-1]), nn.SiLU(), _leave(gives, grids[-1], options.channels)
        )
        self.shape = gives.shape

    def forward(self, x: Tensor) -> Tensor:
        """Applies all layers."""
        return self.layers(x).reshape(x.shape[0], *self.shape)


class Block(nn.Module):
    """Two convolutions beside the identity; the second starts at zero, so a deep net starts as a shallow one.

    Args:
        options: Width, norm and gate.
        at: The grid.
    """

    def __init__(self, options: Conv, at: tuple[int, ...]) -> None:
        super().__init__()
        width = options.channels
        last = nn.Conv2d(width, 2 * width if options.gated else width, 3, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        first = nn.Conv2d(width, width, 3, padding=1)
        self.layers = nn.Sequential(_norm(options, at), nn.SiLU(), first, _norm(options, at), nn.SiLU(), last)
        self.gated = options.gated

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels, height, width)``, in and out."""
        y = self.layers(x)
        return x + (functional.glu(y, dim=1) if self.gated else y)


def grid(space: Real) -> tuple[int, ...]:
    """Height and width of an image; empty for a vector."""
    return space.shape[-2:] if len(space.shape) >= 3 else ()


def _halved(fine: tuple[int, ...], times: int = 16) -> list[tuple[int, ...]]:
    """A grid and what halving it, rounded up, leads to."""
    grids = [fine]
    while len(grids) <= times and max(grids[-1]) > 1:
        grids.append(tuple((side + 1) // 2 for side in grids[-1]))
    return grids


def _path(start: tuple[int, ...], end: tuple[int, ...], halvings: int) -> list[tuple[int, ...]]:
    """The grids that a net goes through, from its input to its output."""
    fine = max(start, end, key=math.prod) if start and end else start or end
    down = _halved(fine) if start and end else _halved(fine, halvings)
    if start and end:
        down = down[: down.index(min(start, end, key=math.prod)) + 1]
    return down if start == fine else down[::-1]


def _enter(takes: Real, at: tuple[int, ...], width: int) -> nn.Module:
    if grid(takes):
        return nn.Sequential(Rearrange("b ... h w -> b (...) h w"), nn.Conv2d(_depth(takes), width, 3, padding=1))
    spread = Rearrange("b (c h w) -> b c h w", h=at[0], w=at[1])
    return nn.Sequential(nn.Flatten(), nn.Linear(takes.dim, width * math.prod(at)), spread)


def _leave(gives: Real, at: tuple[int, ...], width: int) -> nn.Module:
    if grid(gives):
        return nn.Conv2d(width, _depth(gives), 3, padding=1)
    return nn.Sequential(nn.Flatten(), nn.Linear(width * math.prod(at), gives.dim))


def _resample(width: int, here: tuple[int, ...], there: tuple[int, ...]) -> nn.Module:
    if there < here:
        return nn.Conv2d(width, width, 3, stride=2, padding=1)
    return nn.Sequential(nn.Upsample(there), nn.Conv2d(width, width, 3, padding=1))


def _norm(options: Conv, at: tuple[int, ...]) -> nn.Module:
    groups = math.gcd(options.channels, max(1, options.channels // 4))
    # Normalised, a few numbers keep little more than their order.
    few = math.prod(at) * options.channels // groups < 16
    return nn.Identity() if few or options.norm == "none" else nn.GroupNorm(groups, options.channels)


def _depth(space: Real) -> int:
    return math.prod(space.shape[:-2])
