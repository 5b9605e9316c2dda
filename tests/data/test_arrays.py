"""Files of arrays: what is read, and what each unfit file is answered with."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from compose.core import registry
from compose.core.errors import DataError
from compose.core.spaces import Codes, Real
from compose.data.arrays import Arrays

RANDOM = np.random.default_rng(0)
GREY = {
    name: RANDOM.integers(0, 17, (n, 5, 3)).astype(np.int64)
    for name, n in (("train", 40), ("validation", 6), ("test", 9))
}
GREY["train"][0, 0, 0] = 16
VECTORS = {name: RANDOM.normal(size=(len(x), 4)) for name, x in GREY.items()}
LABELS = {f"{name}_labels": np.arange(len(x)) % 4 for name, x in GREY.items()}
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes arrays into a file of a format, and says where."""

    def saver(arrays: dict[str, Any], suffix: str = ".npz") -> Path:
        path = tmp_path / f"data{suffix}"
        if suffix == ".npz":
            np.savez_compressed(path, **arrays)
        elif suffix == ".npy":
            (array,) = arrays.values()
            np.save(path, array)
        else:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        return path

    return saver


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("arrays", [GREY, VECTORS], ids=["integers", "reals"])
def test_three_splits_come_back_as_they_were_saved(save: Save, suffix: str, arrays: dict[str, np.ndarray]) -> None:
    part = Arrays(file=save({**arrays, **LABELS}, suffix), labels=True)
    source = part.load()
    assert part.spaces() == (source.space, source.condition)
    assert source.condition == Codes((), 4, ordered=False)
    assert source.space == (Codes((1, 5, 3), 17) if arrays is GREY else Real((4,)))
    for name, array in arrays.items():
        split = source.split(name)
        assert split.x.dtype == (torch.uint8 if arrays is GREY else torch.float32)
        np.testing.assert_array_equal(split.x.numpy().reshape(array.shape), array.astype(split.x.numpy().dtype))
        assert split.y is not None and split.y.dtype == torch.int64
        np.testing.assert_array_equal(split.y.numpy(), LABELS[f"{name}_labels"])
    protocol = source.protocol("test")
    assert protocol["levels" if arrays is GREY else "values"] == (17 if arrays is GREY else "real")


@pytest.mark.parametrize(("suffix", "key"), [(".npy", "x"), (".npz", "x"), (".npz", "data"), (".safetensors", "mine")])
def test_one_array_is_cut_in_its_order(save: Save, suffix: str, key: str) -> None:
    whole = RANDOM.normal(size=(40, 3)).astype(np.float32)
    source = Arrays(file=save({key: whole}, suffix), validation=0.25, test=0.1).load()
    cuts = [source.split(name).x.numpy() for name in ("train", "validation", "test")]
    assert [len(cut) for cut in cuts] == [26, 10, 4]
    np.testing.assert_array_equal(np.concatenate(cuts), whole)


@pytest.mark.parametrize("key", ["labels", "y"])
def test_labels_beside_one_array(save: Save, key: str) -> None:
    y = np.arange(40, dtype=np.int16) % 3
    source = Arrays(file=save({"x": RANDOM.normal(size=(40, 3)), key: y}), labels=True).load()
    found = [source.split(name).y for name in ("train", "validation", "test")]
    np.testing.assert_array_equal(torch.cat([each for each in found if each is not None]).numpy(), y)
    assert source.condition == Codes((), 3, ordered=False)


@pytest.mark.parametrize(
    ("shape", "channels", "item"),
    [
        ((10, 7), "first", (7,)),
        ((10, 4, 6), "first", (1, 4, 6)),
        ((10, 4, 6), "last", (1, 4, 6)),
        ((10, 3, 4, 6), "first", (3, 4, 6)),
        ((10, 4, 6, 3), "last", (3, 4, 6)),
    ],
)
def test_channels_come_first(save: Save, shape: tuple[int, ...], channels: str, item: tuple[int, ...]) -> None:
    whole = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    part = Arrays.model_validate({"file": str(save({"x": whole}, ".npy")), "channels": channels, "levels": 256})
    source = part.load()
    assert part.spaces()[0] == source.space == Codes(item, 256)
    wanted = whole[8] if channels == "first" or len(shape) < 4 else whole[8].transpose(2, 0, 1)
    np.testing.assert_array_equal(source.validation.x[0].numpy(), wanted.reshape(item))


DOWN = np.arange(20)[::-1].reshape(10, 2)


@pytest.mark.parametrize(
    ("array", "space", "dtype"),
    [
        (DOWN % 2 == 0, Codes((2,), 2), torch.uint8),
        (DOWN.astype(">u2"), Codes((2,), 20), torch.uint8),
        (DOWN + 980, Codes((2,), 1000), torch.int32),
        (DOWN.astype(np.float16), Real((2,)), torch.float32),
        (DOWN.astype(">f8"), Real((2,)), torch.float32),
    ],
    ids=str,
)
def test_types_of_numbers(save: Save, array: np.ndarray, space: Codes | Real, dtype: torch.dtype) -> None:
    source = Arrays(file=save({"x": array})).load()
    assert source.space == space and source.train.x.dtype == dtype
    np.testing.assert_array_equal(source.train.x.numpy(), array[:8])


def test_how_many_levels_is_read_from_what_is_trained_on(save: Save) -> None:
    x = np.zeros((10, 2), np.uint8)
    x[3] = 5
    assert Arrays(file=save({"x": x})).spaces()[0] == Codes((2,), 6)
    assert Arrays(file=save({"x": x}), levels=9).spaces()[0] == Codes((2,), 9)


def test_short_floats_of_safetensors(tmp_path: Path) -> None:
    x = torch.arange(20).reshape(10, 2).to(torch.bfloat16)
    save_tensors({"x": x}, tmp_path / "data.safetensors")
    assert torch.equal(Arrays(file=tmp_path / "data.safetensors").load().train.x, x[:8].float())


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_spaces_read_no_values(save: Save, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from compose.data import arrays as room

    path = save({"x": RANDOM.normal(size=(10, 2))}, suffix)
    monkeypatch.setattr(room, "read_array", lambda *_: pytest.fail("values were read"))
    assert Arrays(file=path).spaces() == (Real((2,)), None)
    counts = save({"x": np.ones((10, 2), int)}, suffix)
    assert Arrays(file=counts, levels=4).spaces() == (Codes((2,), 4), None)


def test_the_file_follows_home_and_dumps_as_written(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(save({"x": np.ones((10, 2))}, ".npy").parent))
    part = Arrays.model_validate({"file": "~/data.npy"})
    assert part.spaces()[0] == Real((2,))
    assert part.model_dump()["file"] == "~/data.npy"


def _with(**changed: Any) -> dict[str, Any]:
    return {**VECTORS, **changed}


NAN = VECTORS["test"].copy()
NAN[[3, 5], 1] = np.nan, np.inf
FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "no test split": (
        {"train": VECTORS["train"], "validation": VECTORS["test"]},
        {},
        ["holds train, validation", "no test"],
    ),
    "two arrays without names": (
        {"a": NAN, "b": NAN},
        {},
        ["holds a, b", "train, validation, test, or one array, as x, data"],
    ),
    "only labels": ({"y": LABELS["test_labels"]}, {}, ["holds y; wanted train"]),
    "no values": (_with(train=np.zeros((0, 4))), {}, ["'train' has shape (0, 4)", "wanted (n, numbers)"]),
    "one axis": (_with(test=np.zeros(4)), {}, ["'test' has shape (4)", "(n, height, width)"]),
    "five axes": (
        {"x": np.zeros((9, 1, 1, 1, 1))},
        {"channels": "last"},
        ["(9, 1, 1, 1, 1)", "(n, height, width, channels)"],
    ),
    "a single number": ({"x": np.float64(3)}, {}, ["'x' has 0 rows"]),
    "other shapes": (_with(test=np.zeros((4, 5))), {}, ["train of (4), validation of (4), test of (5)", "one shape"]),
    "reals and integers": (_with(test=np.zeros((4, 4), int)), {}, ["train float64, validation float64, test int64"]),
    "not finite": (_with(test=NAN), {}, ["2 of 9 rows of the test split", "not finite", "first of them row 3"]),
    "beyond float32": (
        _with(train=np.full((3, 4), 1e300)),
        {},
        ["3 of 3 rows of the train split are not finite as float32"],
    ),
    "complex": (_with(test=NAN + 1j), {}, ["'test' holds complex128; wanted integers or floats"]),
    "texts": ({"x": np.array([["a"], ["b"]])}, {}, ["'x' holds <U1"]),
    "objects": ({"x": np.array([[print], [len]])}, {}, ["'x' holds Python objects", "save numbers"]),
    "records": ({"x": np.zeros(3, [("å", int)])}, {}, ["'x' holds"]),
    "levels of reals": (VECTORS, {"levels": 4}, ["holds float64", "'levels' counts the values of integers"]),
    "one level": ({"x": np.zeros((9, 2), int)}, {}, ["the largest integer to train on is 0; wanted 1 to 65535"]),
    "too many levels": ({"x": np.full((9, 2), 70000)}, {}, ["is 70000", "Reals are saved as floats"]),
    "negative": ({"x": np.array([[1], [-2], [3]] * 4)}, {}, ["train split has values from -2 to 3; wanted 0 to 3."]),
    "over the levels": (GREY, {"levels": 5}, ["values from 0 to 16; wanted 0 to 4; 'levels' sets"]),
    "a larger test": ({**GREY, "test": GREY["test"] + 9}, {}, ["the test split has values", "wanted 0 to 16"]),
    "no labels": (VECTORS, {"labels": True}, ["labels were asked for; wanted 'train_labels' too"]),
    "labels for fewer": (
        {**VECTORS, **LABELS, "test_labels": np.arange(3)},
        {"labels": True},
        ["'test_labels'", "(3)", "9 rows"],
    ),
    "real labels": (
        {"x": NAN, "y": np.zeros(9)},
        {"labels": True},
        ["'y' holds float64", "an integer for each of the 9 rows"],
    ),
    "a new label": (
        {**VECTORS, **LABELS, "test_labels": np.full(9, 4)},
        {"labels": True},
        ["test split has labels from 4 to 4; wanted 0 to 3."],
    ),
    "labels that are no classes": (
        {**VECTORS, **LABELS, "train_labels": np.where(LABELS["train_labels"] == 0, 2**40, 0)},
        {"labels": True},
        ["the largest label to train on is 1099511627776; number the classes from 0"],
    ),
    "nothing to train on": (
        {"x": NAN[:4]},
        {"validation": 0.5, "test": 0.5},
        ["'x' has 4 rows", "leave none to train on"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_unfit_files_are_named_with_what_was_wanted(save: Save, fault: str) -> None:
    arrays, options, said = FAULTS[fault]
    path = save(arrays)
    with pytest.raises(DataError) as error:
        Arrays.model_validate({"file": str(path), **options}).load()
    for words in [str(path), *said]:
        assert words in str(error.value), str(error.value)


def _bytes(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


WHOLE = _bytes(NAN)
HUGE = WHOLE.replace(b"(9, 4), }          ", b"(900000000000, 4), }")
BROKEN = {
    "another ending": ("data.csv", b"1,2", ["ends in .csv; wanted a file that ends in .npy, .npz, .safetensors"]),
    "no file": ("data.npy", None, ["no such file"]),
    "empty": ("data.npy", b"", ["no whole .npy file"]),
    "another format": ("data.npy", b"GIF89a" + bytes(99), ["no whole .npy file", "magic"]),
    "half of it": ("data.npy", WHOLE[:200], ["truncated: 'x' should have 288 bytes"]),
    "all but the last number": ("data.npy", WHOLE[:-8], ["no whole .npy file"]),
    "a header that promises too much": ("data.npy", HUGE, ["truncated", "28800000000000 bytes"]),
    "pickle": ("data.npy", _bytes(np.array([print])), ["Python objects"]),
    "no zip": ("data.npz", WHOLE, ["no whole .npz file", "zip"]),
    "no tensors": ("data.safetensors", WHOLE, ["no whole .safetensors file"]),
    "half of the tensors": ("data.safetensors", b"\x40\0\0\0\0\0\0\0{", ["no whole .safetensors file"]),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_are_named(tmp_path: Path, fault: str) -> None:
    name, data, said = BROKEN[fault]
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as error:
        Arrays(file=tmp_path / name).load()
    for words in [str(tmp_path / name), *said]:
        assert words in str(error.value), str(error.value)


def test_a_broken_member_of_an_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("x.npy", WHOLE[:-8])
        archive.writestr("notes.txt", "hello")
    with pytest.raises(DataError, match=r"data\.npz is no whole \.npz file: .*magic"):
        Arrays(file=tmp_path / "data.npz").load()


@pytest.mark.parametrize(
    "options", [{"levels": 1}, {"channels": "middle"}, {"test": 0}, {"test": 1}, {"validation": "half"}, {"file": 3}]
)
def test_options_that_do_not_hold_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        Arrays.model_validate({"file": "x.npy", **options})
    assert len(error.value.errors()) == 1


def test_registered_under_its_name() -> None:
    assert registry.load("data", "arrays") is Arrays
