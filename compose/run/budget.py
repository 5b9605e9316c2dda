"""How much of a phase is done, and when a look at the validation set is due."""

from __future__ import annotations

import math
from typing import Any

from compose.recipe.recipe import Phase

LOOKS = 10


class Budget:
    """The budget of a phase, in steps, epochs or seconds.

    Args:
        phase: Its declaration.
        examples: How many training examples there are.
        at: The counters of the training.
    """

    def __init__(self, phase: Phase, examples: int, at: dict[str, Any]) -> None:
        self.at, self.seconds = at, phase.seconds
        self.steps = phase.steps
        if phase.epochs is not None:
            self.steps = max(1, math.ceil(phase.epochs * examples / phase.batch_size))
        # Steps between looks; none where they are spread over the seconds.
        self.every = phase.validate_every
        if self.every is None and self.steps is not None:
            self.every = max(1, math.ceil(self.steps / LOOKS))

    def done(self) -> float:
        """The share that is spent."""
        if self.seconds is not None:
            return self.at["seconds"] / self.seconds
        assert self.steps is not None, "a phase without a budget passed the check"
        return self.at["step"] / self.steps

    def due(self) -> bool:
        """Whether a look at the validation set is due: every so many steps, or ten times over a budget in seconds."""
        if self.every is not None:
            return self.at["step"] % self.every == 0
        looks = int(self.done() * LOOKS)
        due, self.at["looks"] = looks > self.at["looks"], max(looks, self.at["looks"])
        return due
