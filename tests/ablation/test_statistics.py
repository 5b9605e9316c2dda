"""Intervals cover what they promise, and a finding is only what every interval shows."""

from __future__ import annotations

import numpy as np
import pytest

from compose.ablation.statistics import Effect, over_examples, over_seeds, paired


def test_a_paired_difference_is_far_sharper_than_its_parts():
    random = np.random.default_rng(0)
    base = random.normal(90, 20, 500)
    changed = base - 1 + random.normal(0, 0.5, 500)
    effect = paired("-ELBO", {0: changed}, {0: base})
    assert effect is not None
    assert effect.value == pytest.approx(-1, abs=0.1)
    low, high = effect.examples or (0, 0)
    assert low < -1 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 500**0.5, rel=0.15)


def test_the_interval_over_examples_covers_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        low, high = over_examples(random.exponential(1.0, 100) - 1, seed=trial)
        hits += low <= 0 <= high
    assert 0.90 <= hits / 200 <= 0.985


def test_the_interval_over_seeds_is_students():
    # Gosset's own example: t(4, 0.975) = 2.776 standard errors.
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    low, high = over_seeds(values) or (0, 0)
    assert (low, high) == pytest.approx((3 - 2.776 * 0.70711, 3 + 2.776 * 0.70711), abs=1e-3)
    assert over_seeds([1.0]) is None
    assert over_seeds([2.0, 2.0]) == (2.0, 2.0)


def test_equal_counts_are_known_no_better_than_they_are_counted():
    """Two trainings that each found one mode more show nothing; two that found all in place of none do."""
    one, all_of_them = (paired("modes found", {0: n, 1: n}, {0: 0, 1: 0}, False, step=1) for n in (1, 25))
    assert one is not None and one.direction == "not shown"
    assert all_of_them is not None and all_of_them.direction == "higher"


def test_only_seeds_that_both_have_are_paired():
    effect = paired("-ELBO", {0: [1.0, 3.0], 2: [4.0, 6.0]}, {0: [0.0, 0.0], 1: [9.0, 9.0], 2: [1.0, 1.0]})
    assert effect is not None
    assert effect.per_seed == {0: 2.0, 2: 4.0}
    assert effect.value == 3.0
    assert paired("-ELBO", {0: [1.0]}, {1: [1.0]}) is None


@pytest.mark.parametrize(
    "examples, seeds, direction",
    [
        ((-2.0, -1.0), (-3.0, -0.5), "lower"),
        ((1.0, 2.0), (0.5, 3.0), "higher"),
        ((-2.0, -1.0), (-3.0, 0.5), "not shown"),
        ((-2.0, 1.0), (-3.0, -0.5), "not shown"),
        (None, (-3.0, -0.5), "lower"),
        ((-2.0, -1.0), None, "lower"),
        (None, None, "not shown"),
    ],
)
def test_a_direction_is_shown_where_every_interval_shows_it(examples, seeds, direction):
    value = 1.5 if direction == "higher" else -1.5
    assert Effect("-ELBO", value, {0: value}, examples, seeds).direction == direction


def test_a_gain_is_less_of_a_cost_or_more_of_a_merit():
    less = Effect("-ELBO", -1.0, {0: -1.0}, (-2.0, -0.5), None)
    assert less.gain
    assert not Effect("coverage", -1.0, {0: -1.0}, (-2.0, -0.5), None, less_is_better=False).gain


def test_a_number_of_the_training_has_no_interval_over_examples():
    effect = paired("Frechet distance", {0: 20.0, 1: 21.0, 2: 22.0}, {0: 25.0, 1: 25.5, 2: 27.5})
    assert effect is not None
    assert effect.examples is None
    assert effect.direction == "lower"


def test_identical_trainings_show_nothing():
    effect = paired("-ELBO", {0: [1.0, 2.0], 1: [3.0, 4.0]}, {0: [1.0, 2.0], 1: [3.0, 4.0]})
    assert effect is not None
    assert effect.value == 0
    assert effect.direction == "not shown"
