"""The ledger of nats: named terms per example, and the two views that objectives act on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

#: The closed set of terms. A stage adds the first three, the prior the last.
TERMS = ("log_likelihood", "minus_log_q", "log_det", "log_prior")


class Ledger(NamedTuple):
    """What one evaluation of a model wrote down.

    Args:
        terms: ``edge.term`` -> nats per example, ``(batch,)``, from the data upward; they sum to L.
        penalties: ``edge.name`` -> values with a gradient that are no likelihood; those of a model inside under the
            term that it gives, ``z1.log_prior.z1.commitment``.
        diagnostics: Values without a gradient.
    """

    terms: dict[str, Tensor]
    penalties: dict[str, Tensor]
    diagnostics: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """L, in nats per example, ``(batch,)``."""
        return total(self.terms)


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of all terms, from the top down: so a model in a model sums to the very number of the flat one."""
    *rest, value = terms.values()
    for each in reversed(rest):
        value = each + value
    return value


def views(names: Mapping[str, object] | list[str]) -> dict[str, list[str]]:
    """Groups the names of terms into ``distortion`` and one ``rate z_i`` per sampled edge.

    What a model pays before the first ``-log q`` is distortion. From ``-log q(z_i)`` up to the next ``-log q`` it pays
    for ``z_i``: log-dets, the next likelihood or the prior. With a minus sign each group's sum is its view, and
    ``distortion + all rates = -L``.
    """
    groups: dict[str, list[str]] = {"distortion": []}
    group = "distortion"
    for name in names:
        edge, _, term = name.rpartition(".")
        if term == "minus_log_q":
            group = f"rate {edge}"
            groups[group] = []
        groups[group].append(name)
    return {group: members for group, members in groups.items() if members}


def rates_and_distortion(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The views' values, in nats per example: positive costs that sum to ``-L``."""
    return {view: -total({name: terms[name] for name in members}) for view, members in views(dict(terms)).items()}


def bits_per_dim(nats: float, dim: int) -> float:
    """Converts a negative log-likelihood in nats per example to bits per dimension of the data."""
    return nats / (dim * math.log(2))


def mean_and_error(values: Tensor) -> tuple[float, float | None]:
    """Mean and its standard error, over examples; of a single one there is no error."""
    return float(values.mean()), float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None
