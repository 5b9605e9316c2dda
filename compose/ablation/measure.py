"""The numbers that changes are judged by: which way is good, where a run has them, how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

#: The split whose scores are compared.
SPLIT = "test"


@dataclass(frozen=True)
class Measure:
    """One number of a scored run.

    Args:
        at: Where ``scores.json`` has it, by the keys that lead there; none for ``codes used``, which is of all edges.
        less_is_better: Which way is good.
        digits: After the point; none to write it with an exponent.
        unit: With a space before it; empty where it has none.
        by_example: Whether it is a mean over test examples, of which each has its own.
        split: What it was taken on.
        step: Of a count, what it is counted in.
    """

    at: tuple[str, ...] = ()
    less_is_better: bool = True
    digits: int | None = 3
    unit: str = ""
    by_example: bool = False
    split: str = SPLIT
    step: float = 0.0

    def of(self, scores: Mapping[str, Any]) -> float | None:
        """The number in what ``scores.json`` holds; none where it has none."""
        if not self.at:
            return _codes_used(scores)
        found: Any = scores
        for key in self.at:
            found = (found or {}).get(key)
        return found


def _codes_used(scores: Mapping[str, Any]) -> float | None:
    """The share of the codes of all quantizers that the validation set uses; none where there is no quantizer."""
    books = [record for record in scores.get("health", ()) if "codes" in record]
    return sum(record["used"] for record in books) / sum(record["codes"] for record in books) if books else None


def _nats(name: str) -> Measure:
    return Measure(("splits", SPLIT, name), digits=2, unit=" nats", by_example=True)


def _sampled(group: str, name: str, less_is_better: bool = False, digits: int | None = 3, unit: str = "") -> Measure:
    return Measure(("measures", group, name), less_is_better, digits, unit)


#: By name, in the order of tables.
MEASURES = {
    "-ELBO": _nats("-ELBO"),
    "NLL": _nats("NLL"),
    "Frechet distance": _sampled("coverage", "Frechet distance", less_is_better=True, digits=2),
    "Frechet distance of means": _sampled("means", "Frechet distance", less_is_better=True, digits=2),
    "precision": _sampled("coverage", "precision"),
    "recall": _sampled("coverage", "recall"),
    "coverage": _sampled("coverage", "coverage"),
    "modes found": replace(_sampled("modes", "found", digits=1), step=1.0),
    "high quality": _sampled("modes", "high quality"),
    "reverse KL": _sampled("modes", "reverse KL", less_is_better=True, unit=" nats"),
    "codes used": Measure(less_is_better=False, split="validation"),
    "seconds a sample": _sampled("sampling", "seconds a sample", less_is_better=True, digits=None, unit=" s"),
}

if TYPE_CHECKING:
    MeasureName = str
else:
    MeasureName = Literal[tuple(MEASURES)]
