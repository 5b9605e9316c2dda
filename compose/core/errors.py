"""What goes wrong, said to a person: where, what came, what was wanted, what would fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


class ComposeError(Exception):
    """Base of every error that a user can cause and mend."""


class SpaceError(ComposeError):
    """A tensor does not lie in the space it was handed to."""


class KindError(ComposeError):
    """A number was asked of a model whose ``log_prob`` does not promise it."""


class DataError(ComposeError):
    """A data file is missing, broken or not of the stated form."""


class TrainingError(ComposeError):
    """A training cannot start, or cannot go on."""


class CompileError(ComposeError):
    """torch cannot compile a model, here or at all."""


class RunError(ComposeError):
    """A run directory is missing, incomplete or made with other code."""


class AblationError(ComposeError):
    """The folder of an ablation is missing, taken or cannot be written, or there is nothing in it to compare."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a recipe.

    Args:
        path: Key path of the faulty entry, ``model.prior`` (empty: the whole file).
        message: What came and what was wanted, in a sentence.
        hint: What would fit, in a sentence; may be empty.
        where: ``file:line:column``; empty for a recipe made in Python.
    """

    path: str
    message: str
    hint: str = ""
    where: str = ""

    def __str__(self) -> str:
        head = " ".join(part for part in (self.where, self.path) if part)
        line = f"{head}: {self.message}" if head else self.message
        return f"{line}\n    {self.hint}" if self.hint else line


class RecipeError(ComposeError):
    """Every fault found in a recipe, in the order of the file.

    Args:
        faults: At least one fault.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))
