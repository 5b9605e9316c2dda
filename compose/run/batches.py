"""The order of the data and its noise: functions of the step alone, so that a resumed training sees the same."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from compose.core import random
from compose.data.source import Source

Batch = tuple[Tensor, Tensor | None]


class Batches:
    """The training batches of one phase: every epoch a new permutation, joined without a gap.

    Args:
        source: The data, resident where they are used.
        size: Examples in a batch, over all devices.
        seed: Seed of the run.
        phase: Index of the phase.
        shard: Rank and world size of this device.
    """

    def __init__(self, source: Source, size: int, seed: int, phase: int, shard: tuple[int, int] = (0, 1)) -> None:
        self.source, self.size, self.seed, self.phase, self.shard = source, size, seed, phase, shard
        self.count = len(source.train)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        start, picked = step * self.size, []
        while len(picked) == 0 or sum(map(len, picked)) < self.size:
            have = sum(map(len, picked))
            epoch, offset = divmod(start + have, self.count)
            picked.append(self._permutation(epoch)[offset : offset + self.size - have])
        index = picked[0] if len(picked) == 1 else torch.cat(picked)
        device = self.source.train.x.device
        noise = random.generator(self.seed, "data noise", self.phase, step, device=device)
        return self.source.train_batch(index, noise, self.shard)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            shuffle = random.generator(self.seed, "data order", self.phase, epoch)
            order = torch.randperm(self.count, generator=shuffle)
            self._epoch, self._order = epoch, order.to(self.source.train.x.device)
        return self._order

    def all(self, size: int = 1000) -> Iterator[Batch]:
        """The whole training set once, in the order of the file, for what is fitted rather than trained."""
        noise = random.generator(self.seed, "fit", self.phase, device=self.source.train.x.device)
        for index in torch.arange(self.count).split(size):
            yield self.source.train_batch(index, noise)
