"""Binarised data: fresh in training, fixed in evaluation, equal on one device and on many."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compose.data.digits import Digits
from compose.data.levels import binarisation_floor, binarise_afresh, quantise
from compose.data.source import Source


@pytest.fixture(scope="module")
def grey() -> Source:
    return Digits().load()


@pytest.fixture(scope="module")
def binary() -> Source:
    return Digits(binarize=True, labels=True).load()


def test_evaluation_is_drawn_once_validation_then_test(grey, binary):
    random = np.random.RandomState(777)
    for split in ("validation", "test"):
        k = grey.split(split).x.numpy()
        np.testing.assert_array_equal(binary.split(split).x.numpy(), random.rand(*k.shape) < k / 16)
    assert torch.equal(binary.train.x, grey.train.x)


def test_equal_digest_each_time(binary):
    again = Digits(binarize=True, labels=True).load()
    assert again.digest == binary.digest
    assert [again.protocol(split) for split in ("validation", "test")] == [
        binary.protocol(split) for split in ("validation", "test")
    ]


def test_digest_speaks_of_every_value(binary):
    digest = binary.test.digest
    binary.test.x[-1, 0, 7, 7] ^= 1
    assert binary.test.digest != digest
    binary.test.x[-1, 0, 7, 7] ^= 1
    assert binary.test.digest == digest


@pytest.mark.parametrize("stored", [17, 256])
def test_fresh_draws_have_exact_frequencies(stored):
    k = torch.arange(stored, dtype=torch.uint8).repeat(20000, 1)
    draws = binarise_afresh(k, stored, len(k), 0, torch.Generator().manual_seed(1))
    p = torch.arange(stored) / (stored - 1)
    frequency = draws.double().mean(0)
    assert frequency[0] == 0 and frequency[-1] == 1
    deviations = (frequency - p)[1:-1] / (p * (1 - p) / len(k)).sqrt()[1:-1]
    assert deviations.abs().max() < 4.5 and abs(deviations.square().mean() - 1) < 6 * math.sqrt(2 / len(deviations))


def test_training_draws_afresh_and_repeats_with_its_generator(binary):
    index = torch.arange(64)
    generator = torch.Generator().manual_seed(3)
    first, second = (binary.train_batch(index, generator)[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, binary.train_batch(index, torch.Generator().manual_seed(3))[0])
    certain = (binary.train.x[index] == 0) | (binary.train.x[index] == 16)
    assert torch.equal(first[certain], second[certain])


@pytest.mark.parametrize("rows", [12, 13])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("name", ["grey", "binary"])
def test_shards_make_up_the_batch(request, name, world, rows):
    source: Source = request.getfixturevalue(name)
    index = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:rows]
    whole, labels = source.train_batch(index, torch.Generator().manual_seed(5))
    shards = [source.train_batch(index, torch.Generator().manual_seed(5), (rank, world)) for rank in range(world)]
    assert torch.equal(torch.cat([x for x, _ in shards]), whole)
    if labels is not None:
        assert torch.equal(torch.cat([y for _, y in shards if y is not None]), labels)
    assert max(len(x) for x, _ in shards) - min(len(x) for x, _ in shards) <= 1


def test_floor_is_the_mean_entropy(grey, binary):
    p = grey.test.x.flatten(1).double() / 16
    entropy = torch.distributions.Bernoulli(p).entropy().sum(1).mean()
    assert binary.floor is not None and grey.floor is None
    assert abs(binary.floor["test"] - float(entropy)) < 1e-5
    assert binarisation_floor(np.array([[0, 16], [8, 8]], np.uint8), 17) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize(("stored", "levels"), [(256, 2), (256, 100), (256, 256), (17, 3)])
def test_quantise_fills_every_level_in_order(stored, levels):
    k = np.arange(stored, dtype=np.uint8)
    codes = quantise(k, stored, levels)
    assert codes.tolist() == [level * levels // stored for level in range(stored)]
    counts = np.bincount(codes)
    assert len(counts) == levels and counts.max() - counts.min() <= 1


def test_to_moves_images_and_labels(binary):
    moved = binary.to("meta")
    tensors = [tensor for split in (moved.train, moved.validation, moved.test) for tensor in (split.x, split.y)]
    assert len(tensors) == 6 and {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}
    assert binary.train.x.device.type == "cpu"
