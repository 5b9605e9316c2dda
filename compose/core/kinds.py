"""What a ``log_prob`` promises: declared by every part, never guessed."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class Kind(IntEnum):
    """The promise of a returned value L, strongest first.

    ``EXACT``: L = log p. ``WEIGHT``: E exp L = p. ``SUBWEIGHT``: E exp L <= p. ``BOUND``: only E L <= log p.
    ``ESTIMATE``: E L = log p, of no sign. ``NONE``: no likelihood at all.
    """

    EXACT = 0
    WEIGHT = 1
    SUBWEIGHT = 2
    BOUND = 3
    ESTIMATE = 4
    NONE = 5

    def __str__(self) -> str:
        return self.name.lower()

    @property
    def spoken(self) -> str:
        """As a sentence says what L is: ``a weight``, ``an exact weight``."""
        return {Kind.EXACT: "an exact weight", Kind.ESTIMATE: "an estimate"}.get(self, f"a {self}")

    @property
    def tilde(self) -> str:
        """What stands before numbers of no sign, so that none is read as exact or as a bound."""
        return "~" if self is Kind.ESTIMATE else ""

    @property
    def promise(self) -> str:
        """The promise as a formula."""
        return {
            Kind.EXACT: "L = log p",
            Kind.WEIGHT: "E exp L = p",
            Kind.SUBWEIGHT: "E exp L <= p",
            Kind.BOUND: "E L <= log p",
            Kind.ESTIMATE: "E L = log p",
            Kind.NONE: "no likelihood",
        }[self]

    @property
    def importance_weighted(self) -> bool:
        """Whether ``log mean_k exp L_k`` is still a lower bound of log p for K > 1."""
        return self <= Kind.SUBWEIGHT


def weakest(kinds: Iterable[Kind]) -> Kind:
    """The kind of a composition: that of its weakest part."""
    return max(kinds, default=Kind.EXACT)
