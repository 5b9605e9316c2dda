"""What a verification found, check by check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compose.verification.tiny import Tiny


@dataclass(frozen=True)
class Finding:
    """One figure against its tolerance.

    Args:
        of: What was looked at: ``sum over x of E exp L``.
        off: How far the figure is from where it should be; none where nothing could be measured.
        allowed: How far it may be.
        said: The figures in words, or the reason why there are none.
    """

    of: str
    off: float | None
    allowed: float
    said: str

    @property
    def held(self) -> bool:
        """Whether it is within its tolerance; a figure that is not finite never is."""
        return self.off is not None and self.off <= self.allowed

    @property
    def verdict(self) -> str:
        """``held``, ``FAILED`` or ``not checked``."""
        return "not checked" if self.off is None else "held" if self.held else "FAILED"


def unchecked(of: str, why: str) -> Finding:
    """What cannot be checked, with the reason."""
    return Finding(of, None, 0.0, why)


@dataclass(frozen=True)
class Check:
    """A named check.

    Args:
        name: What it is called.
        meaning: What it proves, in a sentence.
        find: Measures; gives nothing where the model makes no such promise.
        sums: Whether it sums over all data, and so wants a space that can be counted.
    """

    name: str
    meaning: str
    find: Callable[[Tiny], Iterator[Finding]]
    sums: bool = False


def check(find: Callable[[Tiny], Iterator[Finding]]) -> Check:
    """Makes a check of a function; its docstring is the meaning."""
    return Check(find.__name__.replace("_", " "), " ".join((find.__doc__ or "").split()), find)


def sums(find: Callable[[Tiny], Iterator[Finding]]) -> Check:
    """Makes a check that sums over all data."""
    return replace(check(find), sums=True)


@dataclass(frozen=True)
class Report:
    """All findings on one model.

    Args:
        name: What was verified.
        shrunk: The tiny model in words.
        findings: By name of the check.
        seconds: How long it took.
        same_as: The name of what shrank to the same thing, and was verified in its place.
    """

    name: str
    shrunk: str
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    seconds: float = 0.0
    same_as: str = ""

    @property
    def failed(self) -> list[str]:
        """Names of the checks with a finding out of its tolerance."""
        return [name for name, found in self.findings.items() if any(each.verdict == "FAILED" for each in found)]

    @property
    def held(self) -> bool:
        """Whether no check failed."""
        return not self.failed
