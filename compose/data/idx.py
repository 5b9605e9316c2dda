"""Folders of idx files under MNIST's file names: MNIST itself, Fashion-MNIST, KMNIST, EMNIST and the like."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from compose.core.errors import DataError
from compose.core.spaces import Codes
from compose.data.files import Location, expanded
from compose.data.idx_file import read_array, read_shape
from compose.data.images import ImageSet
from compose.data.levels import Levels
from compose.data.source import Source

_IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}


class Idx(ImageSet):
    """Grey images of 256 levels, from a folder of idx files, plain or gzipped; the last of train are for validation."""

    type: ClassVar[str] = "idx"
    source: ClassVar[str] = "LeCun, Cortes and Burges, The MNIST database of handwritten digits"
    stored: ClassVar[int] = 256
    remedy: ClassVar[str] = "Get the files from where the data set is published, or set 'folder' to where they lie."

    folder: Location
    """Folder that holds the files; ``~`` is the home folder, a relative path starts at the current folder."""

    validation: int = Field(default=10000, ge=1)
    """How many of the last training images are the validation split."""

    def spaces(self) -> tuple[Codes, Codes | None]:
        """The space of an image and that of its label; reads headers, and label files where labels are asked for.

        Raises:
            DataError: a file is missing or its header is broken; files do not belong together; the validation split
                leaves no image to train on.
        """
        shapes = {part: read_shape(self._file(name), 3) for part, name in _IMAGES.items()}
        train, test = shapes["train"], shapes["test"]
        if train[1:] != test[1:]:
            raise DataError(
                f"{self._file(_IMAGES['test'])} holds images of {test[1]}x{test[2]}; "
                f"wanted {train[1]}x{train[2]}, as in {_IMAGES['train']}."
            )
        if self.validation >= train[0]:
            raise DataError(
                f"{self._file(_IMAGES['train'])} holds {train[0]} images, but validation takes "
                f"{self.validation} of them; wanted at most {train[0] - 1}."
            )
        space = self.codes((1, *train[1:]))
        if not self.labels:
            return space, None
        labels = self._labels({part: shape[0] for part, shape in shapes.items()})
        return space, Codes((), int(labels["train"].max()) + 1, ordered=False)

    def load(self) -> Source:
        """Reads every file.

        Raises:
            DataError: as ``spaces``; or a file is truncated, broken or longer than its header states.
        """
        spaces = self.spaces()
        images = {part: read_array(self._file(name), 3) for part, name in _IMAGES.items()}
        labels = self._labels({part: len(x) for part, x in images.items()}) if self.labels else None
        return self.assemble(spaces, self._split(images), None if labels is None else self._split(labels))

    def _split(self, parts: dict[str, Levels]) -> dict[str, Levels]:
        train, validation = np.split(parts["train"], [-self.validation])
        return {"train": train, "validation": validation, "test": parts["test"]}

    def _labels(self, counts: dict[str, int]) -> dict[str, Levels]:
        labels = {part: read_array(self._file(name), 1) for part, name in _LABELS.items()}
        for part, count in counts.items():
            if len(labels[part]) != count:
                raise DataError(
                    f"{self._file(_LABELS[part])} holds {len(labels[part])} labels; "
                    f"wanted {count}, one for each image of {_IMAGES[part]}."
                )
        largest, came = int(labels["train"].max()), int(labels["test"].max())
        if came > largest:
            raise DataError(
                f"{self._file(_LABELS['test'])} holds the label {came}; "
                f"wanted 0 to {largest}, as in {_LABELS['train']}."
            )
        return labels

    def _file(self, name: str) -> Path:
        # os.path, as pathlib's own methods raise on a name too long and a folder without access.
        folder = expanded(self.folder)
        for path in (folder / name, folder / f"{name}.gz"):
            if os.path.isfile(path):
                return path
        what = f"no file {name} or {name}.gz" if os.path.isdir(folder) else "no such folder"
        names = ", ".join([*_IMAGES.values(), *(_LABELS.values() if self.labels else ())])
        raise DataError(f"{folder}: {what}. Wanted, each plain or with .gz: {names}. {self.remedy}")


class FashionMNIST(Idx):
    """Fashion-MNIST: 70,000 grey images of 28x28, ten kinds of clothing; 50,000 to train, 10,000 to validate."""

    type: ClassVar[str] = "fashion_mnist"
    source: ClassVar[str] = "Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747"
    remedy: ClassVar[str] = (
        "On Debian: apt-get install dataset-fashion-mnist. With the files elsewhere, set 'folder' to where they lie."
    )

    folder: Location = Path("/usr/share/datasets/fashion-mnist")
    """Folder that holds the files; by default that of the Debian package."""
