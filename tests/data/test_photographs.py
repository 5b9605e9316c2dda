"""Crops of the two photographs: from regions that do not overlap, and each where it says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_sample_images

from compose.core import registry
from compose.core.spaces import Codes
from compose.data.photographs import BANDS, Photographs
from compose.data.source import SPLITS, Source

COUNTS = {"train": 300, "validation": 60, "test": 50}


@pytest.fixture(scope="module")
def source() -> Source:
    return Photographs(**COUNTS, labels=True).load()  # type: ignore[arg-type]


def test_as_declared(source: Source) -> None:
    part = Photographs(**COUNTS, labels=True)  # type: ignore[arg-type]
    assert part.spaces() == (source.space, source.condition) == (Codes((3, 64, 64), 256), Codes((), 2, ordered=False))
    for name, count in COUNTS.items():
        split = source.split(name)
        assert split.x.shape == (count, 3, 64, 64) and split.x.dtype == torch.uint8
        assert split.y is not None and set(split.y.tolist()) == {0, 1}
    assert source.protocol("test")["crops"] == "at random places, seed 0"
    assert source.describe() == "photographs, 256 levels, 3x64x64, 300/60/50, 2 classes"


def test_bands_do_not_overlap_and_hold_a_crop() -> None:
    edges = sorted((left, right) for bands in BANDS.values() for left, right in bands)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(edges))
    assert (edges[0][0], edges[-1][1]) == (0, 640)
    assert min(right - left for left, right in edges) >= 64


def test_each_crop_lies_in_its_region(source: Source) -> None:
    """It is found there again, by its first row of pixels, and nowhere else but in the photograph of its label."""
    photographs = [np.asarray(image) for image in load_sample_images().images]
    places: dict[str, set[tuple[int, int, int]]] = {}
    for name in SPLITS:
        split = source.split(name)
        assert split.y is not None
        places[name] = {
            (int(label), *_place(crop.numpy().transpose(1, 2, 0), photographs[int(label)], BANDS[name]))
            for crop, label in zip(split.x, split.y, strict=True)
        }
        assert len(places[name]) == len(split)  # no place twice
    spans = {name: {column for _, _, column in found} for name, found in places.items()}
    assert len(spans["train"]) > 100 and min(len(span) for span in spans.values()) > 10


def _place(crop: np.ndarray, photograph: np.ndarray, bands: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Row and column at which a crop was cut."""
    for left, right in bands:
        windows = np.lib.stride_tricks.sliding_window_view(photograph[:, left:right], (64, 64), axis=(0, 1))
        corners = np.argwhere((photograph[: len(windows), left : right - 63] == crop[0, 0]).all(-1))
        for row, column in corners:
            if np.array_equal(photograph[row : row + 64, left + column : left + column + 64], crop):
                return int(row), int(left + column)
    raise AssertionError("the crop is nowhere in its bands")


def test_crops_are_the_same_each_time_whatever_the_other_counts(source: Source) -> None:
    again = Photographs(train=10, validation=60, test=50).load()
    assert torch.equal(again.test.x, source.test.x) and torch.equal(again.validation.x, source.validation.x)
    assert torch.equal(again.train.x, source.train.x[:10])
    assert again.condition is None and again.test.y is None


def test_smaller_crops_of_fewer_levels() -> None:
    source = Photographs(**COUNTS, size=8, levels=4).load()  # type: ignore[arg-type]
    assert source.space == Codes((3, 8, 8), 4)
    assert source.train.x.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("options", [{"size": 65}, {"size": 1}, {"train": 0}, {"validation": 10_001}, {"levels": 300}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValidationError) as error:
        Photographs.model_validate(options)
    assert len(error.value.errors()) == 1


def test_the_most_crops_there_can_be() -> None:
    source = Photographs(train=1, validation=10_000, test=1).load()
    assert len(source.validation) == 10_000


def test_registered_under_its_name() -> None:
    assert registry.load("data", "photographs") is Photographs
