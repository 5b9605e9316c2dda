"""Which scores may stand in one table: those of the same thing, whatever it was estimated by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Entries of a protocol that say how a score was estimated, not of what: -ELBO compares across them, NLL does not.
ESTIMATE = ("kind", "mode", "K", "evaluation seed")
#: What says how samples were measured.
MEASURED_BY = ("data", "features", "classifier", "samples", "neighbours", "within", "of", "seed")

Difference = tuple[str, str, str]


def protocol_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """The entries in which two protocols differ, with both values."""
    return [
        (key, str(a.get(key, "")), str(b.get(key, ""))) for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)
    ]


def of_other_things(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Why two scores are of different things; empty where -ELBO compares."""
    return [each for each in protocol_changes(a, b) if each[0] not in ESTIMATE]


def alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two groups of measures on samples were taken in the same way."""
    return all(a.get(key) == b.get(key) for key in MEASURED_BY)
