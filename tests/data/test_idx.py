"""Folders of idx files: what is read, and what each broken file is answered with."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compose.core import registry
from compose.core.errors import DataError
from compose.core.spaces import Codes
from compose.data.idx import FashionMNIST, Idx

TRAIN, TEST = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
TRAIN_LABELS, TEST_LABELS = "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"
FASHION = FashionMNIST().folder


def idx(shape: tuple[int, ...], data: bytes, element: int = 8) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, element, len(shape), *shape) + data


@pytest.mark.parametrize("packed", [False, True])
def test_reads_every_image_and_label_in_order(write, arrays, packed):
    source = Idx(folder=write(packed), validation=10, labels=True).load()
    for split, name, rows in (
        (source.train, "train", slice(0, 30)),
        (source.validation, "train", slice(30, 40)),
        (source.test, "t10k", slice(0, 12)),
    ):
        images, labels = arrays[f"{name}-images-idx3-ubyte"], arrays[f"{name}-labels-idx1-ubyte"]
        np.testing.assert_array_equal(split.x.numpy()[:, 0], images[rows])
        assert split.y is not None and split.y.dtype == torch.int64 and split.x.dtype == torch.uint8
        np.testing.assert_array_equal(split.y.numpy(), labels[rows])
    assert source.space == Codes((1, 5, 3), 256) and source.condition == Codes((), 4, ordered=False)
    assert source.describe() == "idx, 256 levels, 1x5x3, 30/10/12, 4 classes"


def test_plain_and_packed_files_have_one_digest(write):
    plain = Idx(folder=write(), validation=10).load().digest
    for file in write().iterdir():
        file.unlink()
    assert Idx(folder=write(packed=True), validation=10).load().digest == plain


def test_spaces_reads_headers_only(write, arrays):
    header = idx(arrays[TRAIN].shape, b"")
    folder = write(replaced={TRAIN: header, TRAIN_LABELS: None, TEST_LABELS: None})
    assert Idx(folder=folder, validation=10, levels=8).spaces() == (Codes((1, 5, 3), 8), None)
    with pytest.raises(DataError, match="truncated: its header states 40 x 5 x 3 bytes, but 0 of 600"):
        Idx(folder=folder, validation=10).load()


def test_folder_follows_home_and_dumps_as_written(write, monkeypatch):
    monkeypatch.setenv("HOME", str(write()))
    part = Idx.model_validate({"folder": "~", "validation": 10})
    assert part.spaces()[0] == Codes((1, 5, 3), 256)
    assert part.model_dump()["folder"] == "~"


GZ = gzip.compress(idx((12, 5, 3), bytes(range(180))))
FAULTS = {
    "wrong magic": (TEST, b"GIF89a" + bytes(200), ["begins with 47 49 46 38", "wanted 00 00 08 03"]),
    "labels in place of images": (TEST, idx((12,), bytes(12)), ["begins with 00 00 08 01", "axes: 3"]),
    "floats": (TEST, idx((12, 5, 3), bytes(720), element=0x0D), ["holds float32", "unsigned bytes"]),
    "empty file": (TEST, b"", ["truncated: 0 bytes", "header of 16"]),
    "half a header": (TEST, idx((12, 5, 3), b"")[:9], ["truncated: 9 bytes", "header of 16"]),
    "no images": (TEST, idx((0, 5, 3), b""), ["is empty", "0 x 5 x 3"]),
    "truncated data": (TEST, idx((12, 5, 3), bytes(100)), ["truncated", "100 of 180"]),
    "a header that promises too much": (TEST, idx((2**32 - 1, 5, 3), bytes(100)), ["truncated", "100 of 64424509425"]),
    "data past the end": (TEST, idx((12, 5, 3), bytes(181)), ["goes on after the 12 x 5 x 3 bytes"]),
    "truncated gz": (TEST, GZ[: len(GZ) // 2], ["truncated: its gzip stream stops", "Get the file again"]),
    "gz without its sum": (TEST, GZ[:-8], ["truncated: its gzip stream stops"]),
    "gz of a wrong sum": (TEST, GZ[:-8] + b"\1\2\3\4" + GZ[-4:], ["broken gzip", "CRC"]),
    "gz of broken blocks": (TEST, GZ[:12] + b"\xff" * 40 + GZ[52:], ["broken gzip"]),
    "images of another size": (TEST, idx((12, 3, 5), bytes(180)), ["images of 3x5; wanted 5x3"]),
    "fewer labels": (TRAIN_LABELS, idx((39,), bytes(39)), ["holds 39 labels; wanted 40", TRAIN]),
    "a label out of range": (TEST_LABELS, idx((12,), bytes(11) + b"\x09"), ["the label 9; wanted 0 to 3"]),
    "labels of another form": (TRAIN_LABELS, idx((40, 1), bytes(40)), ["begins with 00 00 08 02", "axes: 1"]),
    "no train images": (TRAIN, None, [f"no file {TRAIN} or {TRAIN}.gz", "Wanted, each plain or with .gz", "'folder'"]),
    "no test labels": (TEST_LABELS, None, [f"no file {TEST_LABELS}"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_broken_files_are_named_with_what_was_wanted(write, fault):
    name, data, said = FAULTS[fault]
    folder = write(replaced={name: data})
    with pytest.raises(DataError) as error:
        Idx(folder=folder, validation=10, labels="label" in fault).load()
    for words in [str(folder), name, *said]:
        assert words in str(error.value)


@pytest.mark.parametrize("validation", [40, 41])
def test_validation_leaves_images_to_train_on(write, validation):
    with pytest.raises(DataError, match=f"holds 40 images, but validation takes {validation} .* at most 39"):
        Idx(folder=write(), validation=validation).spaces()


@pytest.mark.parametrize("folder", ["nowhere", "~no_such_user_here/x", "a\0b", "x" * 5000])
def test_missing_folder_says_how_to_get_the_data(folder):
    with pytest.raises(DataError, match=r"(?s)no such folder\..*train-images-idx3-ubyte"):
        Idx.model_validate({"folder": folder}).spaces()
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        FashionMNIST.model_validate({"folder": folder}).load()


def test_an_unreadable_file_is_a_data_error(write, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    folder = write()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=f"{TRAIN} cannot be read: Permission denied"):
        Idx(folder=folder).spaces()


@pytest.mark.parametrize(
    "options", [{"levels": 1}, {"levels": 257}, {"levels": 4, "binarize": True}, {"validation": 0}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValidationError) as error:
        FashionMNIST.model_validate(options)
    assert len(error.value.errors()) == 1


def test_registered_under_its_names():
    assert registry.load("data", "idx") is Idx and registry.load("data", "fashion_mnist") is FashionMNIST


@pytest.mark.skipif(not FASHION.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
class TestFashionMNIST:
    def test_binarised_with_its_floor(self):
        source = FashionMNIST(binarize=True, labels=True).load()
        assert source.describe() == "fashion_mnist, binarised, 1x28x28, 50000/10000/10000, 10 classes"
        assert source.floor is not None and abs(source.floor["test"] - 189.86) < 0.02
        assert source.test.y is not None and torch.bincount(source.test.y).tolist() == [1000] * 10
        assert source.test.x.unique().tolist() == [0, 1]

    def test_grey_levels(self):
        source = FashionMNIST().load()
        assert source.space == Codes((1, 28, 28), 256) and source.floor is None and source.condition is None
        assert source.train.x.max() == 255
