"""What a contract is, and how it speaks when a part breaks it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compose.core.errors import ComposeError


class ContractError(ComposeError, AssertionError):
    """A part breaks a promise of its role."""


@dataclass(frozen=True)
class Contract:
    """One promise, tried on a subject: a part in a place.

    Args:
        name: What it is called in reports.
        promise: What is promised, in a sentence.
        try_on: Raises ``ContractError`` where the promise is broken; false where the part makes no such promise there.
        sizes: What the part's sizes are shrunk to: the first with which it fits; none leaves them as they are.
    """

    name: str
    promise: str
    try_on: Callable[[Any], bool]
    sizes: tuple[int | None, ...]


def contract(*sizes: int | None) -> Callable[[Callable[[Any], bool]], Contract]:
    """Makes a contract of a function; its docstring is the promise. Parts are shrunk to 8 where no size is said."""

    def make(function: Callable[[Any], bool]) -> Contract:
        return Contract(function.__name__, " ".join((function.__doc__ or "").split()), function, sizes or (8,))

    return make


def require(holds: bool, message: str) -> None:
    """Says ``message`` unless ``holds``.

    Raises:
        ContractError: it does not hold.
    """
    if not holds:
        raise ContractError(message)


def same(came: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Compares number by number, ``|came - wanted| <= tolerance * (1 + |wanted|)``.

    Raises:
        ContractError: a shape differs, a value is not finite, or one is too far off; the worst pair is named.
    """
    _within(came, wanted, tolerance, 1.0, what)


def mostly_same(came: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    """Compares as ``same`` does three numbers of four; the rest within 1e-4, for what amplifies its own rounding.

    Raises:
        ContractError: as ``same``.
    """
    _within(came, wanted, tolerance, 0.75, what)
    _within(came, wanted, 1e-4, 1.0, what)


def _within(came: Tensor, wanted: Tensor, tolerance: float, share: float, what: str) -> None:
    require(came.shape == wanted.shape, f"{what}: shape {tuple(came.shape)} came, {tuple(wanted.shape)} was wanted")
    came, wanted = came.detach().double().flatten(), wanted.detach().double().flatten()
    gap = torch.nan_to_num((came - wanted).abs() / (1 + wanted.abs()), nan=torch.inf)
    if not gap.numel():
        return
    at = int(gap.argsort()[math.ceil(share * gap.numel()) - 1])
    require(
        float(gap[at]) <= tolerance,
        f"{what}: {float(came[at]):.12g} came, {float(wanted[at]):.12g} was wanted "
        f"(off by {float(gap[at]):.2g}, allowed {tolerance:g})",
    )
