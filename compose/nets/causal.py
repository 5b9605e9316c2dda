"""Causal networks over sequences: what comes out at a place depends on what went in up to it, and on nothing later.

Each computes a whole sequence at once, for scoring, and one place after another from a cache, for sampling: the same
numbers, at the cost of one place.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from compose.core import random

#: Places of a cache that come into use together.
BLOCK = 32

#: Cosines and sines of angles.
Turn = tuple[Tensor, Tensor]


class Causal(nn.Module):
    """A causal network over ``n`` places in the order of rows of a grid, ``(batch, n, width)`` in and out."""

    @abstractmethod
    def forward(self, h: Tensor) -> Tensor:
        """All places at once."""

    @abstractmethod
    def begin(self, n: int, like: Tensor) -> Any:
        """An empty cache for ``n`` sequences."""

    @abstractmethod
    def step(self, h: Tensor, i: int, cache: Any) -> Tensor:
        """Place ``i`` alone, ``(batch, width)`` in and out, once all before it have been stepped through."""


def at_places(place: Tensor, context: nn.Linear | None, c: Tensor | None, cells: Tensor) -> Tensor:
    """What each place is, and what a condition says there.

    Args:
        place: Learned numbers of each place, ``(n, width)``.
        context: Maps what a condition says at a cell of the grid; none where there is no condition.
        c: The condition, ``(batch, numbers, *grid)``.
        cells: For each place its cell of the flattened grid, or a number that is one after division by their count.

    Returns:
        ``(batch or 1, n, width)``.
    """
    if context is None:
        return place[None]
    assert c is not None, "a conditional density was asked without a condition"
    there = c.reshape(*c.shape[:2], -1).movedim(1, 2)
    return place + context(there[:, cells % there.shape[1]])


class Transformer(Causal):
    """Blocks of attention to everything earlier and a network at each place, normalised before each.

    The cache holds a key and a value for each place and layer: ``2 * layers * n * width`` numbers a sequence.

    Args:
        layers: How many blocks.
        width: Numbers at each place.
        heads: Attention heads.
        places: Length of a whole sequence.
        dropout: Share of activations dropped in training.
        sees_all: Whether every place sees every other, so that there is no step and no cache.
        rotary: Whether a query and a key meet by how far apart they are; a head's width must be even.

    Source: Vaswani et al. 2017, arXiv:1706.03762; normalised before: Radford et al. 2019, GPT-2; rotary: Su et al.
    2021, arXiv:2104.09864.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        places: int,
        dropout: float = 0.0,
        sees_all: bool = False,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        self.places, self.heads, self.rotary = places, heads, rotary
        self.blocks = nn.ModuleList(_Block(width, heads, dropout, not sees_all) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor) -> Tensor:
        """All places at once."""
        turn = self._turn(0, h.shape[1], h)
        for block in self.blocks:
            h = block(h, turn)
        return self.norm(h)

    def begin(self, n: int, like: Tensor) -> Tensor:
        """Room for the keys and values of every place."""
        shape = (len(self.blocks), n * 2 * self.places * self.norm.normalized_shape[0])
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    def step(self, h: Tensor, i: int, cache: Tensor) -> Tensor:
        """Place ``i`` alone; its key and value go to the cache."""
        turn, hidden = self._turn(i, i + 1, h), self._hidden(i, h)
        for block, flat in zip(self.blocks, cache, strict=True):
            assert isinstance(block, _Block)
            h = block.step(h, i, self._kept(flat, i, len(h)), turn, hidden)
        return self.norm(h)

    def _kept(self, flat: Tensor, i: int, n: int) -> Tensor:
        """The keys and values of a layer, ``(n, heads, 2, places in use, width of a head)``.

        Attention waits for memory, which is read twice as quickly where nothing lies between one head's and the next
        one's. So places come into use by blocks, and what is there moves apart at the start of one.
        """
        room = self._in_use(flat, i, n)
        if i % BLOCK == 0:
            before = self._in_use(flat, i - 1, n).clone() if i else room[:, :, :, :0]
            # What is yet to come is hidden, but a hidden NaN would still be one.
            room[:, :, :, :i], room[:, :, :, i:] = before, 0.0
        return room

    def _in_use(self, flat: Tensor, i: int, n: int) -> Tensor:
        places, width = self._until(i), self.norm.normalized_shape[0] // self.heads
        return flat[: n * self.heads * 2 * places * width].view(n, self.heads, 2, places, width)

    def _until(self, i: int) -> int:
        """The end of the block that place ``i`` stands in."""
        return min(self.places, (i // BLOCK + 1) * BLOCK)

    def _hidden(self, i: int, like: Tensor) -> Tensor | None:
        """Added to the scores of the places in use: what comes after place ``i`` is not seen."""
        if i + 1 == self._until(i):
            return None
        later = torch.arange(self._until(i), device=like.device) > i
        return like.new_zeros(len(later)).masked_fill(later, -torch.inf).expand(1, 1, 1, -1)

    def _turn(self, start: int, end: int, like: Tensor) -> Turn | None:
        """Cosines and sines of the angles at some places, ``(places, half of a head's width)``; none if not rotary."""
        if not self.rotary:
            return None
        half = self.norm.normalized_shape[0] // self.heads // 2
        # Half precision does not count to a thousand.
        exact = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
        frequency = 10_000 ** -(torch.arange(half, **exact) / half)
        angle = torch.arange(start, end, **exact)[:, None] * frequency
        return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def turned(x: Tensor, turn: Turn) -> Tensor:
    """Each pair of numbers turned by its angle, ``(..., places, width of a head)``.

    The product of a query and a key, both turned, depends on how far apart they are and not on where.
    """
    (a, b), (cos, sin) = x.chunk(2, -1), turn
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.before, self.inside = nn.LayerNorm(width), nn.LayerNorm(width)
        self.split = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.each = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, h: Tensor, turn: Turn | None = None) -> Tensor:
        q, k, v = rearrange(self.split(self.before(h)), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        if turn is not None:
            q, k = turned(q, turn), turned(k, turn)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        h = h + self._drop(self.joined(rearrange(seen, "b h n d -> b n (h d)")))
        return h + self._drop(self.each(self.inside(h)))

    def step(self, h: Tensor, i: int, kept: Tensor, turn: Turn | None, hidden: Tensor | None) -> Tensor:
        q, k, v = self.split(self.before(h)).unflatten(1, (3, self.heads, 1, -1)).unbind(1)
        if turn is not None:
            q, k = turned(q, turn), turned(k, turn)
        keys, values = kept.unbind(2)
        keys[:, :, i : i + 1], values[:, :, i : i + 1] = k, v
        seen = functional.scaled_dot_product_attention(q, keys, values, attn_mask=hidden)
        h = h + self.joined(seen.flatten(1))
        return h + self.each(self.inside(h))

    def _drop(self, h: Tensor) -> Tensor:
        return random.dropout(h, self.dropout) if self.training else h


class CausalConv(Causal):
    """Two stacks of gated convolutions: one over all rows above, one along the row so far that looks at the first.

    Nothing earlier lies in a blind spot. The cache holds what every layer gave: ``2 * layers * n * width`` numbers a
    sequence; the rows above are convolved once a row.

    Args:
        layers: How many.
        width: Channels.
        kernel: Columns, and rows above, that a layer sees.
        grid: Rows and columns.
        dropout: Share of activations dropped in training.

    Source: van den Oord et al. 2016, arXiv:1606.05328.
    """

    def __init__(self, layers: int, width: int, kernel: int, grid: tuple[int, int], dropout: float = 0.0) -> None:
        super().__init__()
        self.grid = grid
        stacks = _Along if grid[0] == 1 else _Gated
        self.layers = nn.ModuleList(stacks(width, kernel, dropout, first=i == 0) for i in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor) -> Tensor:
        """All places at once."""
        along = rearrange(h, "b (r c) w -> b w r c", c=self.grid[1])
        above = along
        for layer in self.layers:
            above, along = layer(above, along)
        return self.norm(rearrange(along, "b w r c -> b (r c) w"))

    def begin(self, n: int, like: Tensor) -> Tensor:
        """Room for what went in and for what each layer gave, of either stack."""
        width = self.norm.normalized_shape[0]
        shape = (len(self.layers) + 1, 2, n, width, *self.grid)
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def step(self, h: Tensor, i: int, cache: Tensor) -> Tensor:
        """Place ``i`` alone; at the start of a row, the rows above are gone through for all of it."""
        row, column = divmod(i, self.grid[1])
        cache[0, :, :, :, row, column] = h
        for layer, (above, along), (above_next, along_next) in zip(self.layers, cache[:-1], cache[1:], strict=True):
            assert isinstance(layer, _Along)
            if column == 0 and isinstance(layer, _Gated):
                above_next[:, :, row] = layer.step_above(above, row)
            along_next[:, :, row, column] = layer.step_along(above_next[:, :, row, column], along, row, column)
        return self.norm(cache[-1, 1, :, :, row, column])


class _Along(nn.Module):
    """One layer along a row with nothing above it."""

    def __init__(self, width: int, kernel: int, dropout: float, first: bool) -> None:
        super().__init__()
        self.kernel, self.dropout, self.first = kernel, dropout, first
        self.horizontal = nn.Conv2d(width, 2 * width, (1, kernel))
        self.out = nn.Linear(width, width)

    def forward(self, above: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
        above = self.over(above)
        said = self.horizontal(functional.pad(along, (self.kernel - 1, 0))) + self.seen(above)
        gated = functional.glu(said, dim=1)
        gated = random.dropout(gated, self.dropout) if self.training else gated
        return above, along + _at_each(self.out, gated)

    def over(self, above: Tensor) -> Tensor:
        """The stack over the rows above, a layer on."""
        return above

    def seen(self, above: Tensor) -> Tensor:
        """What a place is told of the rows above it."""
        return above.new_zeros(())

    def step_along(self, above: Tensor, along: Tensor, row: int, column: int) -> Tensor:
        """One place of the row, ``(batch, width)``."""
        seen = along[:, :, row, max(0, column + 1 - self.kernel) : column + 1]
        weight = self.horizontal.weight[:, :, 0, self.kernel - seen.shape[2] :]
        said = functional.linear(seen.flatten(1), weight.flatten(1), self.horizontal.bias)
        said = said[:, :, None, None] + self.seen(above[:, :, None, None])
        return along[:, :, row, column] + self.out(functional.glu(said, dim=1)[:, :, 0, 0])


class _Gated(_Along):
    """One layer of both stacks; the first does not see its own row from above, and so no later one does."""

    def __init__(self, width: int, kernel: int, dropout: float, first: bool) -> None:
        super().__init__(width, kernel, dropout, first)
        self.vertical = nn.Conv2d(width, 2 * width, kernel)
        self.link = nn.Linear(width, 2 * width)

    def over(self, above: Tensor) -> Tensor:
        """Convolved over the rows above, and its own where that says no more than those."""
        rows = above.shape[2] + self.kernel - 1
        padded = functional.pad(above, (*self._sides, self.kernel - 1 + self.first, 0))
        return functional.glu(self.vertical(padded[:, :, :rows]), dim=1)

    def seen(self, above: Tensor) -> Tensor:
        """A linear map of it."""
        return _at_each(self.link, above)

    def step_above(self, above: Tensor, row: int) -> Tensor:
        """What the rows above give for one row, ``(batch, width, columns)``."""
        end = row + 1 - self.first
        rows = above[:, :, max(0, end - self.kernel) : end]
        padded = functional.pad(rows, (*self._sides, self.kernel - rows.shape[2], 0))
        return functional.glu(self.vertical(padded), dim=1)[:, :, 0]

    @property
    def _sides(self) -> tuple[int, int]:
        return self.kernel // 2, (self.kernel - 1) // 2


def _at_each(linear: nn.Linear, x: Tensor) -> Tensor:
    """A linear map of the channels at each place of an image."""
    return functional.conv2d(x, linear.weight[:, :, None, None], linear.bias)
