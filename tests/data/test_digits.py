"""scikit-learn's digits: the real images, their split and their levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits

from compose.core import registry
from compose.core.errors import DataError
from compose.core.spaces import Codes
from compose.data.digits import Digits


def test_every_digit_in_the_order_of_the_file():
    source = Digits(labels=True).load()
    images, classes = load_digits(return_X_y=True)
    splits = [source.train, source.validation, source.test]
    assert [len(split) for split in splits] == [1000, 350, 447]
    np.testing.assert_array_equal(torch.cat([split.x for split in splits]).flatten(1).numpy(), images)
    np.testing.assert_array_equal(torch.cat([split.y for split in splits if split.y is not None]).numpy(), classes)


@pytest.mark.parametrize(
    ("options", "size"),
    [({}, 17), ({"levels": 17}, 17), ({"levels": 2}, 2), ({"levels": 5}, 5), ({"binarize": True}, 2)],
)
def test_codes_lie_in_the_declared_space(options, size):
    part = Digits.model_validate(options)
    space, condition = part.spaces()
    source = part.load()
    assert space == source.space == Codes((1, 8, 8), size) and condition is None
    for split in (source.validation, source.test):
        space.check_values(split.x)
        assert split.x.unique().tolist() == list(range(size))
    batch, labels = source.train_batch(torch.arange(1000), torch.Generator())
    space.check_values(batch)
    assert labels is None


def test_labels_are_the_condition():
    part = Digits(labels=True)
    source = part.load()
    assert part.spaces()[1] == source.condition == Codes((), 10, ordered=False)
    index = torch.tensor([5, 900, 5])
    x, y = source.train_batch(index, torch.Generator())
    assert torch.equal(x, source.train.x[index]) and source.train.y is not None and y is not None
    assert torch.equal(y, source.train.y[index])


def test_quantised_levels_are_equal_bins():
    stored, quantised = Digits().load(), Digits(levels=4).load()
    assert torch.equal(quantised.test.x, (stored.test.x.int() * 4 // 17).to(torch.uint8))


def test_protocol_tells_splits_levels_and_binarisation_apart():
    records = [
        Digits.model_validate(options).load().protocol(split)
        for options in ({}, {"levels": 2}, {"binarize": True})
        for split in ("train", "validation", "test")
    ]
    assert len({record["digest"] for record in records}) == 8  # grey levels of train are those of binarised training
    assert len({record["data digest"] for record in records}) == 3
    assert len({str(record) for record in records}) == 9
    assert records[5] == {
        "data": "digits",
        "split": "test",
        "digest": records[5]["digest"],
        "data digest": records[5]["data digest"],
        "examples": 447,
        "levels": 2,
    }
    assert records[8]["seed"] == 777 and "p = k/16" in records[8]["binarisation"]


def test_labels_change_the_data_digest_and_not_the_digest_of_what_is_scored():
    plain, labelled = (Digits(labels=labels).load().protocol("test") for labels in (False, True))
    assert plain["digest"] == labelled["digest"] and plain["data digest"] != labelled["data digest"]


@pytest.mark.parametrize("options", [{"levels": 1}, {"levels": 18}, {"levels": 4, "binarize": True}, {"folder": "x"}])
def test_options_that_do_not_hold_are_refused(options):
    with pytest.raises(ValidationError) as error:
        Digits.model_validate(options)
    assert len(error.value.errors()) == 1


def test_unknown_split_names_those_there_are():
    with pytest.raises(DataError, match="no split 'dev'; wanted train, validation, test"):
        Digits().load().protocol("dev")


def test_registered_under_its_name():
    assert registry.load("data", "digits") is Digits
