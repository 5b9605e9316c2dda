"""The handwritten digits that scikit-learn ships: 1,797 images of 8x8 pixels and 17 levels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from compose.core.spaces import Codes
from compose.data.images import ImageSet
from compose.data.source import Source

_ROWS = {"train": slice(0, 1000), "validation": slice(1000, 1350), "test": slice(1350, 1797)}


class Digits(ImageSet):
    """scikit-learn's digits, in the order of its file: 1,000 to train, 350 to validate, 447 to test."""

    type: ClassVar[str] = "digits"
    source: ClassVar[str] = (
        "Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI (its test part, as scikit-learn "
        "ships it); split of Tomczak 2022, Deep Generative Modeling, code jmtomczak/intro_dgm"
    )
    stored: ClassVar[int] = 17

    def spaces(self) -> tuple[Codes, Codes | None]:
        """The space of an image and that of its label; reads nothing."""
        return self.codes((1, 8, 8)), Codes((), 10, ordered=False) if self.labels else None

    def load(self) -> Source:
        """Reads scikit-learn's copy; no download."""
        from sklearn.datasets import load_digits

        images, classes = load_digits(return_X_y=True)
        x = {name: images[rows].astype(np.uint8) for name, rows in _ROWS.items()}
        y = {name: classes[rows] for name, rows in _ROWS.items()} if self.labels else None
        return self.assemble(self.spaces(), x, y)
