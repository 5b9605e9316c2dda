"""What contracts are tried on: a part in a place, with shaken weights, in float64."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from compose.core import random
from compose.core.declare import Part, Slot
from compose.core.errors import SpaceError
from compose.core.spaces import Codes, Real, Space
from compose.testing.contract import ContractError, require
from compose.testing.noise import Tape
from compose.testing.variants import shake, shrunk, spoken

SPACES: tuple[Space, ...] = (
    Real((1,)),
    Real((2,)),
    Real((1, 2, 2)),
    Real((2, 1, 2)),
    Codes((2,), 3),
    Codes((1, 2, 2), 2),
    Codes((2,), 3, ordered=False),
)
#: An item a row, and a condition a row where the part takes one.
Inputs = tuple[Tensor, Tensor | None]
LABELS = Codes((), 3, ordered=False)
ROWS = 24


@dataclass(frozen=True)
class Subject(ABC):
    """A part in a place.

    Args:
        part: Declaration with its options.
        space: What a density scores, a stage stands on, a net gives, an objective's model describes.
    """

    part: Part
    space: Space

    @property
    @abstractmethod
    def slot(self) -> Slot:
        """The slot that the part is handed."""

    @property
    def fits(self) -> bool:
        """Whether neither the part nor anything inside it is a misfit here."""
        return not self.reasons

    @property
    def reasons(self) -> list[str]:
        """Why the part, or something inside it, is a misfit here."""
        walked = self.part.walk(self.slot)
        return [reason.message for _, part, slot in walked for reason in part.misfits(slot)]

    def shrunk(self, most: int | None) -> Self:
        """The same with every size at most ``most``."""
        return self if most is None else replace(self, part=shrunk(self.part, most))

    def __str__(self) -> str:
        slot = self.slot
        given = "" if slot.condition is None else f" given {slot.condition}"
        labels = "" if slot.labels is None else f" with labels {slot.labels}"
        return f"{self.part.role} {spoken(self.part)} as {slot.use} on {slot.space}{given}{labels}"


@dataclass(frozen=True)
class Built(Subject):
    """A subject with a module to try.

    ``module`` gives the whole that is copied and saved; ``own`` finds the part's module in it: they differ where a part
    lives on what another lends.
    """

    def make(self) -> nn.Module:
        """The whole as ``build`` leaves it, in the precision of the day."""
        return self.part.build(self.slot)

    def own(self, whole: nn.Module) -> Any:
        """The module of the part inside the whole."""
        return whole

    @abstractmethod
    def inputs(self, whole: nn.Module, n: int) -> Inputs:
        """Random arguments of ``value``, ``n`` rows each."""

    @abstractmethod
    def value(self, whole: nn.Module, x: Tensor, c: Tensor | None) -> Tensor:
        """What the part computes: a row for each row of ``x``."""

    def module(self, seed: int = 0, shaken: float = 1.0) -> nn.Module:
        """The whole with shaken weights, in float64 and in training mode."""
        with random.region(seed, "contract", "weights"):
            return shake(self.make().double(), shaken)


def draw(space: Space, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random items: standard normal, or uniform codes."""
    if isinstance(space, Codes):
        return torch.randint(space.size, (n, *space.shape))
    return torch.randn(n, *space.shape, dtype=dtype)


def check_values(space: Space, x: Tensor, n: int, name: str) -> None:
    """Requires ``n`` finite items that lie in the space.

    Raises:
        ContractError: they do not.
    """
    require(len(x) == n, f"{name} is {len(x)} rows, wanted {n}")
    try:
        space.check_values(x, name)
    except SpaceError as error:
        raise ContractError(str(error)) from error
    require(bool(x.isfinite().all()), f"{name} is not finite")


def check_labels(labels: Codes, value: Callable[[Tensor], Tensor], n: int, tape: Tape) -> None:
    """Requires that the values of ``n`` rows differ between labels, under the same noise.

    Raises:
        ContractError: two labels give the same values.
    """
    values = []
    for label in range(labels.size):
        with torch.no_grad(), tape.run():
            values.append(value(torch.full((n,), label)))
    for label in range(1, labels.size):
        require(not torch.equal(values[0], values[label]), f"labels 0 and {label} give the same values")
