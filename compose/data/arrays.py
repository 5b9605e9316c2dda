"""Arrays in a file: vectors or images, integers or reals."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray

from compose.core.declare import DataPart
from compose.core.errors import DataError
from compose.core.spaces import Codes, Real, Space
from compose.data.array_file import Header, read_array, read_headers
from compose.data.files import Location, Share, expanded, shared_out
from compose.data.source import SPLITS, Source, Split

MOST_LEVELS = 65536
_ONE, _LABELS = ("x", "data"), ("labels", "y")


class _Place(NamedTuple):
    """Where the examples of a split lie: an array, its rows, and the array of their labels."""

    key: str
    rows: slice
    labels: str


class Arrays(DataPart):
    """Vectors or images from a file that ends in ``.npy``, ``.npz`` or ``.safetensors``; pickled objects are refused.

    Integers are ordered codes, floats are reals. An array is ``(n, numbers)``, ``(n, height, width)`` or images with
    channels. The file holds arrays named train, validation and test, with labels under ``train_labels`` and so on; or
    one array, which is cut in its order, with labels under ``labels`` or ``y``.
    """

    type: ClassVar[str] = "arrays"
    source: ClassVar[str] = "formats: numpy's npy and npz, read without pickle; safetensors"

    file: Location
    """The file; ``~`` is the home folder, a relative path starts at the current folder."""

    channels: Literal["first", "last"] = "first"
    """Whether images with channels are ``(n, channels, height, width)`` or ``(n, height, width, channels)``."""

    levels: Annotated[int, Ge(2), Le(MOST_LEVELS)] | None = None
    """How many values an integer takes, from 0 on; by default one more than the largest to train on."""

    labels: bool = False
    """Give the class label as the model's condition."""

    validation: Share = 0.1
    """Share of one array that is the validation split: the rows before the test split."""

    test: Share = 0.1
    """Share of one array that is the test split: its last rows. Shuffle a file that is sorted."""

    def spaces(self) -> tuple[Space, Codes | None]:
        """The space of an example and that of its label; reads headers, and integers where only they tell how many.

        Raises:
            DataError: the file is missing or broken; an array is missing, of another shape or type than wanted.
        """
        headers = self._headers()
        places = self._places(headers)
        headers_of = {name: headers[place.key] for name, place in places.items()}
        shape = self._shape({name: self._item(places[name].key, headers_of[name]) for name in SPLITS})
        kinds = {header.kind for header in headers_of.values()}
        if len(kinds) > 1:
            came = ", ".join(f"{name} {headers_of[name].dtype}" for name in SPLITS)
            raise self._error(f"the splits hold {came}; wanted integers in all of them, or floats.")
        space = Real(shape) if kinds == {"real"} else Codes(shape, self._size(places["train"]))
        if isinstance(space, Real) and self.levels is not None:
            raise self._error(f"holds {headers_of['train'].dtype}, and 'levels' counts the values of integers.")
        return space, self._classes(headers, places) if self.labels else None

    def load(self) -> Source:
        """Reads every array that is used.

        Raises:
            DataError: as ``spaces``; or a real is not finite, an integer out of range.
        """
        space, classes = self.spaces()
        splits = []
        for name, place in self._places(self._headers()).items():
            x = self._values(name, self._images(self._rows(place)), space)
            y = None if classes is None else self._codes(name, self._rows(place, labels=True), classes).long()
            splits.append(Split(x, y))
        train, validation, test = splits
        return Source(self.type, space, classes, train, validation, test)

    def _error(self, said: str) -> DataError:
        return DataError(f"{self.file}: {said}")

    def _headers(self) -> dict[str, Header]:
        return read_headers(expanded(self.file))

    def _places(self, headers: dict[str, Header]) -> dict[str, _Place]:
        """Where each split lies, by the names of the arrays."""
        if any(name in headers for name in SPLITS):
            if missing := [name for name in SPLITS if name not in headers]:
                raise self._error(
                    f"holds {_listed(headers)}, and no {_listed(missing)}; wanted all of {_listed(SPLITS)}."
                )
            return {name: _Place(name, slice(None), f"{name}_labels") for name in SPLITS}
        others = [name for name in headers if name not in _LABELS]
        named = [name for name in _ONE if name in headers] or others
        if len(named) != 1:
            raise self._error(f"holds {_listed(headers)}; wanted {_listed(SPLITS)}, or one array, as {_listed(_ONE)}.")
        labels = next((name for name in _LABELS if name in headers), _LABELS[0])
        shape = headers[named[0]].shape
        count = shape[0] if shape else 0
        first, second = shared_out(count, self.validation, self.test)
        if first < 1:
            raise self._error(
                f"'{named[0]}' has {count} rows, and shares of {self.validation} to validate and {self.test} to test "
                "leave none to train on."
            )
        rows = (slice(0, first), slice(first, second), slice(second, count))
        return {name: _Place(named[0], part, labels) for name, part in zip(SPLITS, rows, strict=True)}

    def _item(self, key: str, header: Header) -> tuple[int, ...]:
        """The shape of one example, channels first."""
        shape = header.shape
        if not 2 <= len(shape) <= 4 or 0 in shape:
            with_channels = {"first": "channels, height, width", "last": "height, width, channels"}[self.channels]
            raise self._error(
                f"'{key}' has shape {_spoken(shape)}; wanted (n, numbers), (n, height, width) or (n, {with_channels})."
            )
        item = shape[1:] if len(shape) != 3 else (1, *shape[1:])
        return (item[2], *item[:2]) if len(shape) == 4 and self.channels == "last" else item

    def _shape(self, items: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        if len(set(items.values())) > 1:
            came = ", ".join(f"{name} of {_spoken(shape)}" for name, shape in items.items())
            raise self._error(f"the examples are {came}; wanted one shape in all splits.")
        return items["train"]

    def _size(self, place: _Place) -> int:
        """How many values the integers to train on take."""
        if self.levels is not None:
            return self.levels
        largest = int(self._rows(place).max())
        if not 1 <= largest < MOST_LEVELS:
            raise self._error(
                f"the largest integer to train on is {largest}; wanted 1 to {MOST_LEVELS - 1}. "
                "Reals are saved as floats; 'levels' says how many values there are where they do not show."
            )
        return largest + 1

    def _classes(self, headers: dict[str, Header], places: dict[str, _Place]) -> Codes:
        for place in places.values():
            if place.labels not in headers:
                raise self._error(f"holds {_listed(headers)}, and labels were asked for; wanted '{place.labels}' too.")
            header, count = headers[place.labels], headers[place.key].shape[0]
            if header.kind != "integer" or header.shape != (count,):
                raise self._error(
                    f"'{place.labels}' holds {header.dtype} of shape {_spoken(header.shape)}; "
                    f"wanted an integer for each of the {count} rows of '{place.key}'."
                )
        largest = int(self._rows(places["train"], labels=True).max())
        if largest >= MOST_LEVELS:
            raise self._error(f"the largest label to train on is {largest}; number the classes from 0.")
        return Codes((), max(0, largest) + 1, ordered=False)

    def _rows(self, place: _Place, labels: bool = False) -> NDArray[Any]:
        return read_array(expanded(self.file), place.labels if labels else place.key)[place.rows]

    def _images(self, x: NDArray[Any]) -> NDArray[Any]:
        if x.ndim == 3:
            return x[:, None]
        return x.transpose(0, 3, 1, 2) if x.ndim == 4 and self.channels == "last" else x

    def _values(self, name: str, x: NDArray[Any], space: Space) -> torch.Tensor:
        if isinstance(space, Codes):
            return self._codes(name, x, space)
        with np.errstate(over="ignore"):
            reals = np.array(x, dtype=np.float32, order="C")
        faulty = np.flatnonzero(~np.isfinite(reals.reshape(len(reals), -1)).all(1))
        if len(faulty):
            raise self._error(
                f"{len(faulty)} of {len(reals)} rows of the {name} split are not finite as float32, "
                f"the first of them row {faulty[0]}."
            )
        return torch.from_numpy(reals)

    def _codes(self, name: str, x: NDArray[Any], space: Codes) -> torch.Tensor:
        least, largest = int(x.min()), int(x.max())
        if least < 0 or largest >= space.size:
            what = "values" if space.ordered else "labels"
            hint = "; 'levels' sets how many there are" if space.ordered and least >= 0 else ""
            raise self._error(
                f"the {name} split has {what} from {least} to {largest}; wanted 0 to {space.size - 1}{hint}."
            )
        return torch.from_numpy(np.array(x, dtype=np.uint8 if space.size <= 256 else np.int32, order="C"))


def _listed(names: Any) -> str:
    return ", ".join(names)


def _spoken(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
