"""Loaded data: three splits, kept in memory whole, and what a score on them has to say about them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compose.core.errors import DataError
from compose.core.spaces import Codes, Real, Space
from compose.data.levels import binarise_afresh

SPLITS = ("train", "validation", "test")
BINARISATION_SEED = 777


@dataclass(frozen=True)
class Split:
    """Examples of one split, in the order of their file.

    Args:
        x: Codes, uint8 or where there are more than 256 of them int32, or reals, float32; ``(n, *shape)``. In the train
            split of binarised data the stored levels.
        y: Class labels, int64, ``(n,)``; none where none were asked for.
    """

    x: Tensor
    y: Tensor | None = None

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.x)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Split:
        """The same examples on ``device``; reals as ``dtype``, where one is given."""
        x = self.x.to(device, dtype if self.x.is_floating_point() else None)
        return Split(x, None if self.y is None else self.y.to(device))

    def thinned(self, most: int) -> Split:
        """At most so many examples, spread evenly: a file may be sorted by class."""
        if len(self) <= most:
            return self
        kept = torch.arange(most, device=self.x.device) * len(self) // most
        return Split(self.x[kept], None if self.y is None else self.y[kept])

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the examples, their type and their shape."""
        return _digest(self.x)


@dataclass(frozen=True)
class Source:
    """A data set, ready to train on and to score.

    Args:
        name: The data set's name in recipes.
        space: Space of one example, as a model sees it.
        condition: Space of one label; none where none were asked for.
        train: Split to train on.
        validation: Split to select on.
        test: Split to report.
        grey: How many levels the train split stores, for binarised data; none for all other.
        floor: Below what no model's -log p comes, by split, in nats per example; none where that is not known.
        floor_of: What it is that costs the floor.
        facts: What else a score has to say of how these examples came about, as the seed of their draws.
    """

    name: str
    space: Space
    condition: Codes | None
    train: Split
    validation: Split
    test: Split
    grey: int | None = None
    floor: dict[str, float] | None = None
    floor_of: str = "the binarisation"
    facts: Mapping[str, str | int] = field(default_factory=dict)

    def split(self, name: str) -> Split:
        """The split called ``train``, ``validation`` or ``test``.

        Raises:
            DataError: there is no such split.
        """
        if name not in SPLITS:
            raise DataError(f"{self.name} has no split {name!r}; wanted {', '.join(SPLITS)}.")
        return getattr(self, name)

    def train_batch(
        self, index: Tensor, generator: torch.Generator, shard: tuple[int, int] = (0, 1)
    ) -> tuple[Tensor, Tensor | None]:
        """Rows ``index`` of the train split; binarised data are drawn afresh.

        Args:
            index: Rows of the whole batch, over all devices, int64.
            generator: Source of the binarisation; drawn on its own device. Unused by data that are not binarised.
            shard: Rank and world size. Rank ``r`` gets the ``r``-th contiguous part of the batch, with the numbers that
                a single device would draw; parts differ by one row at most.

        Returns:
            Examples, ``(rows, *shape)``, and labels, int64, ``(rows,)``, where the split lies.
        """
        rank, world = shard
        assert 0 <= rank < world, f"rank {rank} of {world}"
        start, stop = (len(index) * edge // world for edge in (rank, rank + 1))
        rows = index[start:stop].to(self.train.x.device)
        x = self.train.x.index_select(0, rows)
        y = None if self.train.y is None else self.train.y.index_select(0, rows)
        if self.grey is not None:
            x = binarise_afresh(x, self.grey, len(index), start, generator)
        return x, y

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Source:
        """The same data with every split resident on ``device``; reals as ``dtype``, where one is given."""
        return replace(self, **{name: self.split(name).to(device, dtype) for name in SPLITS})

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all splits: examples (levels in binarised training) and labels."""
        parts = (self.split(name) for name in SPLITS)
        return _digest(*(tensor for part in parts for tensor in (part.x, part.y) if tensor is not None))

    def protocol(self, split: str) -> dict[str, Any]:
        """What a score on ``split`` has to say about its data; scores are comparable where these are equal.

        Raises:
            DataError: there is no such split.
        """
        part = self.split(split)
        record = {
            "data": self.name,
            "split": split,
            "digest": part.digest,
            "data digest": self.digest,
            "examples": len(part),
            **self.facts,
        }
        if isinstance(self.space, Real):
            return {**record, "values": "real"}
        if self.grey is None:
            return {**record, "levels": self.space.size}
        rule = f"p = k/{self.grey - 1}"
        if split == "train":
            return {**record, "binarisation": f"{rule}, fresh each step; the digest is of k"}
        return {**record, "binarisation": f"{rule}, validation then test drawn once", "seed": BINARISATION_SEED}

    def describe(self) -> str:
        """Name, values, shape and sizes in a line: ``fashion_mnist, binarised, 1x28x28, 50000/10000/10000``."""
        levels = "real" if isinstance(self.space, Real) else f"{self.space.size} levels"
        values = levels if self.grey is None else "binarised"
        shape = "x".join(str(side) for side in self.space.shape)
        sizes = "/".join(str(len(self.split(name))) for name in SPLITS)
        classes = [] if self.condition is None else [f"{self.condition.size} classes"]
        return ", ".join([self.name, values, shape, sizes, *classes])


def _digest(*tensors: Tensor) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.cpu().contiguous().numpy().data)
    return sha.hexdigest()[:16]
