"""Reads one idx file, plain or gzipped, of unsigned bytes: the format of the MNIST database.

A file is two zero bytes, the element type, the number of axes, each axis as a big-endian 32-bit integer, then the data.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from compose.core.errors import DataError
from compose.data.levels import Levels

_UNSIGNED_BYTE = 0x08
_OTHER_ELEMENTS = {0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_CHUNK = 1 << 24


def read_shape(path: Path, axes: int) -> tuple[int, ...]:
    """The shape that a file's header states; reads nothing behind the header.

    Raises:
        DataError: the file cannot be read, or does not begin as an idx file of unsigned bytes with ``axes`` axes.
    """
    with _opened(path) as file:
        return _shape(file, path, axes)


def read_array(path: Path, axes: int) -> Levels:
    """The whole array, of the shape that the header states.

    Raises:
        DataError: as ``read_shape``, or the data are fewer or more than the header states.
    """
    with _opened(path) as file:
        shape = _shape(file, path, axes)
        wanted = math.prod(shape)
        data = bytearray()
        # One byte past the end is asked for, so that gzip checks its sum and trailing data are seen; in chunks, so that
        # a header that promises too much takes no more memory than the file can fill.
        while len(data) <= wanted and (chunk := file.read(min(_CHUNK, wanted + 1 - len(data)))):
            data += chunk
    stated = " x ".join(str(side) for side in shape)
    if len(data) < wanted:
        raise DataError(
            f"{path} is truncated: its header states {stated} bytes, but {len(data)} of {wanted} are there."
        )
    if len(data) > wanted:
        raise DataError(f"{path} goes on after the {stated} bytes that its header states; wanted the end of the file.")
    return np.frombuffer(data, np.uint8).reshape(shape)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    """The unpacked bytes of a file; whether it is gzipped is read from its first bytes, not from its name."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                yield raw
                return
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield unpacked
    except EOFError as error:
        raise DataError(f"{path} is truncated: its gzip stream stops before its end. Get the file again.") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a broken gzip file ({error}). Get the file again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _shape(file: BufferedIOBase, path: Path, axes: int) -> tuple[int, ...]:
    magic = bytes((0, 0, _UNSIGNED_BYTE, axes))
    header = file.read(4 + 4 * axes)
    if header[:2] == b"\0\0" and header[2:3] and header[2] in _OTHER_ELEMENTS:
        raise DataError(f"{path} holds {_OTHER_ELEMENTS[header[2]]}; only idx files of unsigned bytes (0x08) are read.")
    if len(header) >= 4 and header[:4] != magic:
        came = f"begins with {header[:4].hex(' ')}"
        raise DataError(f"{path} {came}; wanted {magic.hex(' ')}: an idx file of unsigned bytes with axes: {axes}.")
    if len(header) < 4 + 4 * axes:
        raise DataError(f"{path} is truncated: {len(header)} bytes are there; wanted a header of {4 + 4 * axes}.")
    shape = struct.unpack(f">{axes}I", header[4:])
    if 0 in shape:
        raise DataError(f"{path} is empty: its header states {' x '.join(str(side) for side in shape)}.")
    return shape
