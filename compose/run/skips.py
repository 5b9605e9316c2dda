"""Counts the steps that were not finite, and so not taken."""

from __future__ import annotations

import torch
from torch import Tensor

IN_A_ROW = 10


class Skips:
    """The skipped steps of one player.

    Whether a step was skipped stays on the device until ten steps have gathered, so that no step waits for the answer.

    Args:
        total: How many were skipped before.
    """

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self.streak = 0
        #: The last step of a streak that is too long.
        self.fatal: int | None = None
        self._unread: list[tuple[int, Tensor]] = []

    def add(self, step: int, skipped: Tensor) -> None:
        """Notes a step: a scalar 1 if it was skipped, else 0."""
        self._unread.append((step, skipped))
        if len(self._unread) >= IN_A_ROW:
            self.read()

    def read(self) -> None:
        """Counts all that was noted; this waits for the device."""
        if not self._unread:
            return
        steps, flags = zip(*self._unread, strict=True)
        self._unread.clear()
        for step, skipped in zip(steps, torch.stack(flags).tolist(), strict=True):
            self.total += int(skipped)
            self.streak = self.streak + 1 if skipped else 0
            if self.streak == IN_A_ROW and self.fatal is None:
                self.fatal = step
