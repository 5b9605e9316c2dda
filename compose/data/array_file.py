"""Reads arrays of numbers from npy, npz and safetensors files; never objects, which would need pickle."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compose.core.errors import DataError

#: What the array of a file that holds one without a name is called.
ONLY = "x"
_SUFFIXES = (".npy", ".npz", ".safetensors")


class Header(NamedTuple):
    """What a file says of an array before it is read.

    Args:
        shape: Its shape.
        kind: Whether it holds reals or integers; truth values count as integers.
        dtype: Its type in the file's words.
    """

    shape: tuple[int, ...]
    kind: Literal["real", "integer"]
    dtype: str


def read_headers(path: Path) -> dict[str, Header]:
    """Name and header of every array in a file; reads no values.

    Raises:
        DataError: the file is missing or broken, is of another format, or holds something else than numbers.
    """
    with _told(path):
        if path.suffix == ".safetensors":
            return dict(_safetensors_headers(path))
        if path.suffix == ".npy":
            with path.open("rb") as file:
                return {ONLY: _npy_header(path, ONLY, file, os.path.getsize(path))}
        with zipfile.ZipFile(path) as archive:
            found = {}
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                with archive.open(info) as file:
                    found[name] = _npy_header(path, name, file, info.file_size)
            return found


def read_array(path: Path, name: str) -> NDArray[Any]:
    """The array of a name that ``read_headers`` found.

    Raises:
        DataError: as ``read_headers``, or the values end early.
    """
    with _told(path):
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(name)
                # numpy knows none of the shorter floats.
                return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        if path.suffix == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Says of a file what went wrong in it."""
    if path.suffix not in _SUFFIXES:
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'}; wanted a file that ends in {', '.join(_SUFFIXES)}."
        )
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file; wanted one that ends in {', '.join(_SUFFIXES)}.")
    try:
        yield
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # zipfile, zlib, numpy and safetensors each have their own.
        reason = (str(error) or error.__class__.__name__).splitlines()[0]
        raise DataError(f"{path} is no whole {path.suffix} file: {reason}") from error


def _npy_header(path: Path, name: str, file: IO[bytes], size: int) -> Header:
    """The header that an npy file, or one in an npz file, begins with; ``size`` is how many bytes it has."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{path}: '{name}' holds Python objects, and unpickling them could run code; save numbers.")
    if dtype.kind not in "fiub":
        raise _no_numbers(path, name, str(dtype))
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if wanted > size:
        raise DataError(f"{path} is truncated: '{name}' should have {wanted} bytes of values, and has under {size}.")
    return Header(shape, "real" if dtype.kind == "f" else "integer", str(dtype))


def _safetensors_headers(path: Path) -> Iterator[tuple[str, Header]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118, as the file itself is no iterable
            inner = file.get_slice(name)
            dtype = inner.get_dtype()
            if not dtype.startswith(("F", "BF", "I", "U", "BOOL")):
                raise _no_numbers(path, name, dtype)
            kind = "real" if dtype.startswith(("F", "BF")) else "integer"
            yield name, Header(tuple(inner.get_shape()), kind, dtype)


def _no_numbers(path: Path, name: str, dtype: str) -> DataError:
    return DataError(f"{path}: '{name}' holds {dtype}; wanted integers or floats.")
