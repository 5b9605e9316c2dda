"""Named random streams: an extra draw in one never shifts another.

A stream is keyed by a seed and names (``"initialisation"``, ``"model noise"``, a step, a block). Parts draw through
``standard_normal`` and ``uniform``, which follow whatever the surrounding code set up: the plain global generator; one
device's share of a batch drawn for all devices (``shard``); or fixed blocks of examples (``blocks``), so that an
evaluation does not depend on how it was cut into chunks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

Draw = Callable[..., Tensor]


class _Surroundings:
    """Who is drawing: the share of a device, or a list of (generator, rows)."""

    def __init__(self) -> None:
        # Of the instance from the start: a compiled graph asks whether they are, and would be made anew once they were.
        self.shard: tuple[int, int] = (0, 1)
        self.blocks: Sequence[tuple[torch.Generator, int]] = ()


_now = _Surroundings()


def key(seed: int, *names: str | int) -> int:
    """A number that belongs to this seed and these names alone (63 bits)."""
    text = "/".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator at the start of the named stream."""
    return torch.Generator(device=device).manual_seed(key(seed, *names))


def reseed(seed: int, *names: str | int) -> None:
    """Puts the global generators of all devices at the start of the named stream."""
    if _accelerated():
        torch.manual_seed(key(seed, *names))
    else:
        # A hundred times as fast: the other one notes down for devices that may come who asked, at every step.
        torch.default_generator.manual_seed(key(seed, *names))


@cache
def _accelerated() -> bool:
    return torch.accelerator.is_available()


@contextmanager
def region(seed: int, *names: str | int) -> Iterator[None]:
    """Runs a block on the named stream and gives the global generators back as they were."""
    with torch.random.fork_rng():
        reseed(seed, *names)
        yield


@contextmanager
def shard(rank: int, world: int) -> Iterator[None]:
    """Makes device ``rank`` of ``world`` draw its slice of the noise that one device would draw for the whole batch."""
    before, _now.shard = _now.shard, (rank, world)
    try:
        yield
    finally:
        _now.shard = before


def share() -> tuple[int, int]:
    """Which device draws its slice of a batch, and of how many: ``(0, 1)`` where one draws it whole."""
    return _now.shard


@contextmanager
def blocks(generators: Sequence[tuple[torch.Generator, int]]) -> Iterator[None]:
    """Draws each batch block by block: from every generator, that many rows."""
    before, _now.blocks = _now.blocks, generators
    try:
        yield
    finally:
        _now.blocks = before


def standard_normal(shape: Sequence[int], like: Tensor) -> Tensor:
    """Draws from N(0, I); the first axis of ``shape`` is the batch; device and type as ``like``."""
    return _draw(torch.randn, shape, like)


def uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """Draws from the half-open [0, 1); the first axis of ``shape`` is the batch; device and type as ``like``."""
    return _draw(torch.rand, shape, like)


def dropout(x: Tensor, share: float) -> Tensor:
    """Sets a share of all numbers to 0 and stretches the rest, so that the mean stays; the first axis is the batch."""
    return x if not share else x * (uniform(x.shape, x) >= share) / (1 - share)


def gumbel(shape: Sequence[int], like: Tensor) -> Tensor:
    """Draws standard Gumbel noise; the first axis of ``shape`` is the batch; device and type as ``like``."""
    return -torch.log(-torch.log(uniform(shape, like).clamp_min(torch.finfo(like.dtype).tiny)))


def categorical(logits: Tensor) -> Tensor:
    """Draws an index from the last axis of unnormalised log-probabilities, by the Gumbel trick; ``(batch, ...)``."""
    return (logits + gumbel(logits.shape, logits)).argmax(-1)


def _draw(draw: Draw, shape: Sequence[int], like: Tensor) -> Tensor:
    if _now.blocks:
        return _draw_blocks(draw, shape, like)
    rank, world = _now.shard
    if world == 1:
        return draw(shape, dtype=like.dtype, device=like.device)
    everyone = draw((shape[0] * world, *shape[1:]), dtype=like.dtype, device=like.device)
    return everyone[rank * shape[0] : (rank + 1) * shape[0]]


def _draw_blocks(draw: Draw, shape: Sequence[int], like: Tensor) -> Tensor:
    rows = sum(count for _, count in _now.blocks)
    each, rest = divmod(shape[0], rows)
    assert rest == 0, f"a draw of {shape[0]} rows over blocks of {rows} in all"
    return torch.cat(
        [
            draw((count * each, *shape[1:]), dtype=like.dtype, device=like.device, generator=source)
            for source, count in _now.blocks
        ]
    )
