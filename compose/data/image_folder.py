"""A folder of image files, of any size, in colour or grey."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from annotated_types import Ge, Le

from compose.core.errors import DataError
from compose.core.spaces import Codes
from compose.data.files import Location, Share, expanded, shared_out
from compose.data.image_file import FORMATS, Color, read_header, read_pixels
from compose.data.images import ImageSet
from compose.data.source import SPLITS, Source


class _File(NamedTuple):
    """An image file, with the name of the folder that is its label, if it lies in one."""

    path: Path
    label: str | None


_Splits = Mapping[str, list[_File]]


class ImageFolder(ImageSet):
    """Every image file in a folder and in the folders inside it that are not hidden, 256 levels a channel.

    Splits are the folders ``train``, ``validation`` and ``test`` where there are any; else the files are shared out by
    the hash of their name, so that a split does not depend on the order of a disk. Each split comes in the order of
    that hash, so that its first examples are of all classes.
    """

    type: ClassVar[str] = "images"
    source: ClassVar[str] = (
        "image files as Pillow reads them; a label is the name of a folder, as in ImageNet's archives"
    )
    stored: ClassVar[int] = 256

    folder: Location
    """The folder; ``~`` is the home folder, a relative path starts at the current folder."""

    size: Annotated[int, Ge(1), Le(4096)] | None = None
    """Cut the middle square of each image and resize it to this side; by default all have one size already."""

    color: Color = "rgb"
    """Three channels; one channel, and an image in colour is a fault; or one channel, converting what is in colour."""

    validation: Share = 0.1
    """Share of the files that is the validation split, where no folders say so."""

    test: Share = 0.1
    """Share of the files that is the test split, where no folders say so."""

    def spaces(self) -> tuple[Codes, Codes | None]:
        """The space of an image and that of its label; reads at most the headers of the files.

        Raises:
            DataError: there are no images; one is broken, has another size or colours, or has no label.
        """
        splits = self._splits()
        height, width = self._sides(sorted(file.path for files in splits.values() for file in files))
        space = self.codes((3 if self.color == "rgb" else 1, height, width))
        return space, Codes((), len(self._classes(splits)), ordered=False) if self.labels else None

    def load(self) -> Source:
        """Reads every image.

        Raises:
            DataError: as ``spaces``; or the pixels of an image are broken or transparent.
        """
        spaces, splits = self.spaces(), self._splits()
        x = {
            name: np.stack([read_pixels(file.path, self.color, self.size) for file in files])
            for name, files in splits.items()
        }
        classes = {label: i for i, label in enumerate(self._classes(splits))} if self.labels else {}
        y = {name: np.array([classes.get(str(file.label), 0) for file in files]) for name, files in splits.items()}
        resized = "as stored" if self.size is None else f"middle square, resized to {self.size}"
        return self.assemble(spaces, x, y if self.labels else None, {"images": f"{self.color}, {resized}"})

    def _sides(self, paths: list[Path]) -> tuple[int, int]:
        """Height and width of every image, from the headers where they have to tell."""
        if self.size is not None and self.color != "grey":
            return self.size, self.size
        headers = {path: read_header(path) for path in paths}
        if self.color == "grey" and (found := [path for path, header in headers.items() if header.colour]):
            raise DataError(
                f"{self.folder}: {len(found)} of {len(paths)} images are in colour, {found[0].name} the first; "
                "color: grey takes none. color: rgb keeps the colours, color: to_grey turns them grey."
            )
        if self.size is not None:
            return self.size, self.size
        sizes = Counter((header.height, header.width) for header in headers.values()).most_common()
        if len(sizes) > 1:
            came = [f"{count} of {height}x{width}" for (height, width), count in sizes]
            more = [f"{len(came) - 4} more sizes"] if len(came) > 4 else []
            least = min(min(sides) for sides, _ in sizes)
            raise DataError(
                f"{self.folder}: images of {len(sizes)} sizes (height x width): {', '.join([*came[:4], *more])}. "
                f"size: {least} would cut the middle square of each and resize it to {least}x{least}."
            )
        return sizes[0][0]

    def _splits(self) -> _Splits:
        """The files of each split, in the order of the hash of their names."""
        folder = expanded(self.folder)
        paths = self._paths(folder)
        if any(os.path.isdir(folder / name) for name in SPLITS):
            return self._by_folder(folder, paths)
        names = {path: path.relative_to(folder) for path in paths}
        first, second = shared_out(len(paths), self.validation, self.test)
        if first < 1:
            raise DataError(
                f"{self.folder} holds {len(paths)} images, and shares of {self.validation} to validate and {self.test} "
                "to test leave none to train on."
            )
        mixed = sorted(paths, key=lambda path: _hash(names[path]))
        parts = (mixed[:first], mixed[first:second], mixed[second:])
        return {
            name: [_File(path, _label(names[path])) for path in part] for name, part in zip(SPLITS, parts, strict=True)
        }

    def _paths(self, folder: Path) -> list[Path]:
        if not os.path.isdir(folder):
            raise DataError(f"{self.folder}: no such folder.")
        found: list[Path] = []
        read: dict[str, str] = {}
        for root, folders, names in os.walk(folder, followlinks=True):
            # By two names an image could lie in two splits; and a link to a folder above goes on without end.
            if (first := read.setdefault(os.path.realpath(root), root)) != root:
                raise DataError(f"{root} and {first} are one folder, by a link; remove it.")
            # A hidden folder is a program's, as the checkpoints of a notebook: copies of what lies beside it.
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [
                Path(root) / name for name in names if Path(name).suffix.lower() in FORMATS and not name.startswith(".")
            ]
        if not found:
            raise DataError(f"{self.folder} holds no image; wanted files that end in {', '.join(FORMATS)}.")
        return sorted(found)

    def _by_folder(self, folder: Path, paths: list[Path]) -> _Splits:
        found: dict[str, list[_File]] = {name: [] for name in SPLITS}
        for path in paths:
            split, *below = path.relative_to(folder).parts
            if split not in found or not below:
                raise DataError(
                    f"{self.folder} has folders of splits, and {path.relative_to(folder)} lies in none of them; "
                    f"wanted every image in {', '.join(SPLITS)}."
                )
            found[split].append(_File(path, _label(Path(*below))))
        if missing := [name for name in SPLITS if not found[name]]:
            raise DataError(f"{self.folder} has no image in {', '.join(missing)}; wanted some in {', '.join(SPLITS)}.")
        return {
            name: sorted(files, key=lambda file: _hash(file.path.relative_to(folder))) for name, files in found.items()
        }

    def _classes(self, splits: _Splits) -> list[str]:
        """The names of the labels, in alphabetic order."""
        for name, files in splits.items():
            if bare := [file.path for file in files if file.label is None]:
                raise DataError(
                    f"{bare[0]} ({name}) lies in no folder that would be its label; wanted LABEL/{bare[0].name}."
                )
        known = {str(file.label) for file in splits["train"]}
        for name, files in splits.items():
            if unknown := {str(file.label) for file in files} - known:
                raise DataError(
                    f"{self.folder}: the {name} split has the label {min(unknown)}, which no image to train on has."
                )
        return sorted(known)


def _hash(name: Path) -> bytes:
    """As good as drawn, and the same on every disk: the first files of an order by it are a fair sample."""
    return hashlib.sha256(os.fsencode(name.as_posix())).digest()


def _label(path: Path) -> str | None:
    return path.parts[0] if len(path.parts) > 1 else None
