"""What all sets of images share: fewer levels, binarisation, labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import field_validator, model_validator
from pydantic_core import PydanticCustomError

from compose.core.declare import DataPart
from compose.core.spaces import Codes
from compose.data.levels import Levels, binarisation_floor, binarise, quantise
from compose.data.source import BINARISATION_SEED, SPLITS, Source, Split


class ImageSet(DataPart):
    """Base of the data sets of images; ``stored`` is how many levels their files hold."""

    stored: ClassVar[int]

    levels: int | None = None
    """Quantise the stored levels to this many: ``k * levels // stored``. All of them by default."""

    binarize: bool = False
    """Take a stored level as a probability, ``p = k / (stored - 1)``: drawn afresh each step in training, and once for
    validation and test."""

    labels: bool = False
    """Give the class label as the model's condition."""

    @field_validator("levels")
    @classmethod
    def _within_stored(cls, levels: int | None) -> int | None:
        if levels is not None and not 2 <= levels <= cls.stored:
            raise PydanticCustomError(
                "levels_range",
                "levels is {levels}, but '{type}' stores {stored}; wanted 2 to {stored}",
                {"levels": levels, "type": cls.type, "stored": cls.stored},
            )
        return levels

    @model_validator(mode="after")
    def _one_rule(self) -> ImageSet:
        if self.binarize and self.levels is not None:
            raise PydanticCustomError(
                "levels_and_binarize",
                "levels: {levels} and binarize: true exclude each other; leave one of them out",
                {"levels": self.levels, "keys": "levels binarize"},
            )
        return self

    def codes(self, shape: tuple[int, ...]) -> Codes:
        """The space of one image of ``shape``, as a model sees it."""
        return Codes(shape, 2 if self.binarize else self.levels or self.stored, ordered=True)

    def assemble(
        self,
        spaces: tuple[Codes, Codes | None],
        images: Mapping[str, Levels],
        labels: Mapping[str, NDArray[Any]] | None,
        facts: Mapping[str, str | int] | None = None,
    ) -> Source:
        """Makes a source of stored levels, ``(n, ...)`` by split, of labels, ``(n,)`` by split, and of its facts."""
        space, condition = spaces
        x = {name: images[name].reshape(-1, *space.shape) for name in SPLITS}
        floor = {name: binarisation_floor(x[name], self.stored) for name in SPLITS} if self.binarize else None
        if self.binarize:
            random = np.random.RandomState(BINARISATION_SEED)
            x |= {name: binarise(x[name], self.stored, random) for name in ("validation", "test")}
        elif self.levels is not None:
            x = {name: quantise(x[name], self.stored, self.levels) for name in SPLITS}
        y = {name: None if labels is None else torch.from_numpy(labels[name]).long() for name in SPLITS}
        train, validation, test = (Split(torch.from_numpy(x[name]), y[name]) for name in SPLITS)
        grey = self.stored if self.binarize else None
        return Source(self.type, space, condition, train, validation, test, grey, floor, facts=facts or {})
