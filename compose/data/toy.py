"""Points of the plane from a known density: how far a model is from the truth can be told in nats."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Le

from compose.core.declare import DataPart
from compose.core.spaces import Real
from compose.data.planar import PLANAR, Planar
from compose.data.source import SPLITS, Source, Split

Count = Annotated[int, Ge(1), Le(10_000_000)]


class Toy(DataPart):
    """Points of the plane, drawn from a density that is known in closed form.

    The floor of a split is the mean of ``-log p_true`` over its own examples: what a model costs above it, it could
    still gain, up to the chance of this sample.
    """

    type: ClassVar[str] = "toy"
    source: ClassVar[str] = (
        "ring: Metz et al. 2017, arXiv:1611.02163; grid25: Srivastava et al. 2017, arXiv:1705.07761; "
        "moons: scikit-learn; checkerboard and spirals: Grathwohl et al. 2019, arXiv:1810.01367"
    )

    shape: Literal["ring", "grid25", "moons", "checkerboard", "spirals"] = "moons"
    """8 narrow Gaussians on a circle, 25 on a grid, two half moons, the 8 black squares of a board, two spirals."""

    train: Count = 20000
    """How many examples to train on."""

    validation: Count = 5000
    """How many to validate on."""

    test: Count = 5000
    """How many to test on."""

    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    """Seed of the draws; each split has a stream of its own."""

    def spaces(self) -> tuple[Real, None]:
        """A point of the plane, without a label."""
        return Real((2,)), None

    def density(self) -> Planar:
        """The true density: ``log_prob(x)``, in nats, and ``sample(n, random)``."""
        return PLANAR[self.shape]()

    def load(self) -> Source:
        """Draws every split."""
        density = self.density()
        streams = [np.random.RandomState([self.seed, i]) for i in range(len(SPLITS))]
        draws = [density.sample(getattr(self, name), random) for name, random in zip(SPLITS, streams, strict=True)]
        train, validation, test = (Split(torch.from_numpy(x.astype(np.float32))) for x in draws)
        floor = {
            name: -float(density.log_prob(split.x).mean())
            for name, split in zip(SPLITS, (train, validation, test), strict=True)
        }
        facts = {"density": self.shape, "seed": self.seed}
        return Source(
            self.type, *self.spaces(), train, validation, test, floor=floor, floor_of="the true density", facts=facts
        )
