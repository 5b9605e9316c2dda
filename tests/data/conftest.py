"""Writes small folders of idx files for the tests of the data room."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

Writer = Callable[..., Path]


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """A whole idx file of unsigned bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def arrays() -> dict[str, NDArray[np.uint8]]:
    """40 train and 12 test images of 5x3 of all grey levels, with labels 0 to 3, under MNIST's file names."""
    random = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": random.integers(0, 256, (40, 5, 3), dtype=np.uint8),
        "t10k-images-idx3-ubyte": random.integers(0, 256, (12, 5, 3), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(40, dtype=np.uint8) % 4,
        "t10k-labels-idx1-ubyte": np.arange(12, dtype=np.uint8) % 3,
    }


@pytest.fixture
def write(tmp_path: Path, arrays: dict[str, NDArray[np.uint8]]) -> Writer:
    """Writes ``arrays`` into a folder, plain or gzipped, some replaced by the bytes given; none leaves a file out."""

    def writer(packed: bool = False, replaced: dict[str, bytes | None] | None = None) -> Path:
        for name, array in arrays.items():
            data = (replaced or {}).get(name, idx_bytes(array))
            if data is not None:
                file = tmp_path / (f"{name}.gz" if packed else name)
                file.write_bytes(gzip.compress(data) if packed else data)
        return tmp_path

    return writer
