"""Contracts of data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from compose.core.declare import DataPart, Slot
from compose.core.errors import DataError
from compose.core.spaces import Codes, Real
from compose.data.source import SPLITS
from compose.testing.contract import contract, require
from compose.testing.subject import ROWS, Subject, check_values


@dataclass(frozen=True)
class DataSubject(Subject):
    """A data set."""

    part: DataPart

    @property
    def slot(self) -> Slot:
        """Data stand on nothing."""
        return Slot("data", self.space)


def candidates(part: DataPart) -> Iterator[DataSubject]:
    """One: itself."""
    yield DataSubject(part, Real(()))


@contract(None)
def examples_lie_in_the_declared_spaces(subject: DataSubject) -> bool:
    """Each split lies in the space that is declared without reading it; what is missing is a ``DataError``."""
    assert isinstance(subject.part, DataPart)
    try:
        space, labels = subject.part.spaces()
        source = subject.part.load()
    except DataError:
        return False
    require(
        (source.space, source.condition) == (space, labels),
        f"{space}, {labels} declared, {source.space}, {source.condition} loaded",
    )
    for name in SPLITS[1:]:
        split = source.split(name)
        check_values(space, split.x, len(split), f"the {name} split")
    x, y = source.train_batch(torch.arange(ROWS), torch.Generator().manual_seed(0))
    check_values(space, x, ROWS, "a batch to train on")
    require((y is None) == (labels is None), "labels are declared and none came, or the other way round")
    if isinstance(labels, Codes) and y is not None:
        check_values(labels, y, ROWS, "labels to train on")
    return True


CONTRACTS = (examples_lie_in_the_declared_spaces,)
