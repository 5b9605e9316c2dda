"""Crops of the two colour photographs that scikit-learn ships, split by region."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from compose.core.spaces import Codes
from compose.data.images import ImageSet
from compose.data.levels import Levels
from compose.data.source import SPLITS, Source

#: Bands of columns of each split, in both photographs of 427 rows and 640 columns. Temple and flower are in all three.
BANDS = {"train": ((0, 190), (350, 640)), "validation": ((190, 270),), "test": ((270, 350),)}
NAMES, SEED = ("china.jpg", "flower.jpg"), 0


class Photographs(ImageSet):
    """Square crops of two photographs at random places, no place twice; the splits are of columns that do not overlap.

    Crops of one split overlap, so their scores are not independent: the standard error is too small. The label is which
    photograph: 0 china, 1 flower.
    """

    type: ClassVar[str] = "photographs"
    source: ClassVar[str] = (
        "scikit-learn's sample images, CC BY 2.0: china.jpg by danielbuechele, flower.jpg by vultilion"
    )
    stored: ClassVar[int] = 256

    size: Annotated[int, Ge(2), Le(64)] = 64
    """Side of a crop."""

    train: Annotated[int, Ge(1), Le(100_000)] = 8192
    """How many crops to train on."""

    validation: Annotated[int, Ge(1), Le(10_000)] = 512
    """How many crops to validate on."""

    test: Annotated[int, Ge(1), Le(10_000)] = 512
    """How many crops to test on."""

    def spaces(self) -> tuple[Codes, Codes | None]:
        """The space of a crop and that of its label; reads nothing."""
        return self.codes((3, self.size, self.size)), Codes((), 2, ordered=False) if self.labels else None

    def load(self) -> Source:
        """Reads scikit-learn's copy and cuts it; no download."""
        from sklearn.datasets import load_sample_image

        photographs = np.stack([load_sample_image(name) for name in NAMES])
        cuts = {name: self._cut(photographs, name) for name in SPLITS}
        x = {name: crops for name, (crops, _) in cuts.items()}
        y = {name: which for name, (_, which) in cuts.items()}
        facts = {"crops": f"at random places, seed {SEED}"}
        return self.assemble(self.spaces(), x, y if self.labels else None, facts)

    def _cut(self, photographs: Levels, split: str) -> tuple[Levels, NDArray[np.int64]]:
        """Crops of one split, channels first, and the photograph that each is of."""
        windows = np.lib.stride_tricks.sliding_window_view(photographs, (self.size, self.size), axis=(1, 2))
        starts = np.concatenate([np.arange(left, right - self.size + 1) for left, right in BANDS[split]])
        places = (*windows.shape[:2], len(starts))
        random = np.random.RandomState([SEED, SPLITS.index(split)])
        which, row, start = np.unravel_index(random.permutation(math.prod(places))[: getattr(self, split)], places)
        return windows[which, row, starts[start]], which
