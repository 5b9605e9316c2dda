"""Paired differences and their intervals: over the examples of a test set, and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
RESAMPLES = 2000

Interval = tuple[float, float]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """What a change did to one number: the mean difference to the base over seeds, with what is known of it.

    Args:
        measure: Which number.
        value: Mean over the seeds of (with the change) - (base), paired by seed.
        per_seed: The difference of each seed.
        examples: 95 % over test examples, paired by example, of these very trainings; none where the number is not a
            mean over examples.
        seeds: 95 % over trainings, by Student's t; none with a single seed.
        less_is_better: Whether a negative value is a gain.
    """

    measure: str
    value: float
    per_seed: dict[int, float]
    examples: Interval | None
    seeds: Interval | None
    less_is_better: bool = True

    @property
    def shown(self) -> bool:
        """Whether every interval leaves out 0; a single training without an interval shows nothing."""
        intervals = [each for each in (self.examples, self.seeds) if each is not None]
        return bool(intervals) and all(low > 0 or high < 0 for low, high in intervals)

    @property
    def direction(self) -> str:
        """``lower``, ``higher`` or ``not shown``."""
        return ("lower" if self.value < 0 else "higher") if self.shown else "not shown"

    @property
    def gain(self) -> bool:
        """Whether it is shown, and to the good."""
        return self.shown and (self.value < 0) == self.less_is_better


def paired(
    measure: str, changed: dict[int, Any], base: dict[int, Any], less_is_better: bool = True, step: float = 0.0
) -> Effect | None:
    """The effect of a change on a number, over the seeds that both have; none where there are none.

    Args:
        measure: Its name.
        changed: By seed: the number of every test example, ``(n,)``, or one number of the training.
        base: The same of the base, of the same examples.
        less_is_better: Whether less of it is better.
        step: Of a count, what it is counted in.
    """
    seeds = [seed for seed in changed if seed in base]
    if not seeds:
        return None
    gaps = [np.asarray(changed[seed], dtype=np.float64) - np.asarray(base[seed], dtype=np.float64) for seed in seeds]
    means = [float(gap.mean()) for gap in gaps]
    examples = over_examples(np.mean(gaps, axis=0)) if gaps[0].ndim else None
    per_seed = dict(zip(seeds, means, strict=True))
    return Effect(measure, float(np.mean(means)), per_seed, examples, over_seeds(means, step), less_is_better)


def over_examples(gaps: Values, seed: int = 0) -> Interval:
    """A 95 % interval of the mean of paired differences: percentiles of means of examples drawn again.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    from scipy.stats import bootstrap

    if float(np.ptp(gaps)) == 0.0:
        return float(gaps[0]), float(gaps[0])
    # Not BCa: it would need a leave-one-out mean of every example, and means of hundreds of them are not skewed.
    found = bootstrap(
        (gaps,), np.mean, n_resamples=RESAMPLES, batch=100, confidence_level=LEVEL, method="percentile", rng=seed
    )
    low, high = found.confidence_interval
    return float(low), float(high)


def over_seeds(values: Sequence[float], step: float = 0.0) -> Interval | None:
    """A 95 % interval of the mean over trainings, by Student's t; none for a single one.

    Args:
        values: One of each training.
        step: Of counts, what they are counted in: their deviation is taken for no less than if they were rounded to
            it, a step over the square root of 12, so that two that are equal show no more than two can.
    """
    from scipy.stats import t

    if len(values) < 2:
        return None
    error = max(float(np.std(values, ddof=1)), step / 12**0.5) / len(values) ** 0.5
    if error == 0.0:
        return float(values[0]), float(values[0])
    low, high = t.interval(LEVEL, len(values) - 1, loc=np.mean(values), scale=error)
    return float(low), float(high)
