"""Three grey images as the colours of one: a data set whose modes can be counted."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from compose.core.declare import DataPart, part_field
from compose.core.errors import DataError
from compose.core.spaces import Codes
from compose.data.source import SPLITS, Source, Split

Count = Annotated[int, Ge(1), Le(1_000_000)]
COLOURS = 3


class Stacked(DataPart):
    """Three images of a grey data set, drawn at random and apart, stacked as channels: ten classes make 1000 modes.

    Each split stacks images of its own split. Which modes a model finds is told by a classifier of the grey images.
    """

    type: ClassVar[str] = "stacked"
    source: ClassVar[str] = "Metz et al. 2017, arXiv:1611.02163; Srivastava et al. 2017, arXiv:1705.07761"

    of: part_field("data") = "digits"  # type: ignore[valid-type]
    """The grey images: digits, idx, fashion_mnist or another."""

    train: Count = 20000
    """How many to train on."""

    validation: Count = 1000
    """How many to validate on."""

    test: Count = 5000
    """How many to test on."""

    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    """Seed of the draws; each split has a stream of its own."""

    def spaces(self) -> tuple[Codes, None]:
        """Three channels of the grey space; no label.

        Raises:
            DataError: what is to be stacked is not grey, or not of levels.
        """
        space, _ = self.of.spaces()
        if not isinstance(space, Codes) or len(space.shape) != 3 or space.shape[0] != 1 or self._fresh():
            raise DataError(
                f"'{self.type}' stacks grey images of levels, and '{self.of.type}' gives {space}"
                f"{', drawn afresh in each step' if self._fresh() else ''}; digits and fashion_mnist would do."
            )
        return Codes((COLOURS, *space.shape[1:]), space.size, space.ordered), None

    def load(self) -> Source:
        """Reads the grey images and stacks them."""
        space, _ = self.spaces()
        grey = self.of.load()
        train, validation, test = (
            Split(self._stack(grey.split(name).x, i, getattr(self, name))) for i, name in enumerate(SPLITS)
        )
        facts = {"stacked": f"{self.of.type}, data digest {grey.digest}", "seed": self.seed}
        return Source(self.type, space, None, train, validation, test, facts=facts)

    def _stack(self, x: Tensor, stream: int, count: int) -> Tensor:
        pick = torch.Generator().manual_seed(self.seed * len(SPLITS) + stream)
        index = torch.randint(len(x), (count, COLOURS), generator=pick)
        return x[index].squeeze(2)

    def _fresh(self) -> bool:
        return bool(getattr(self.of, "binarize", False))
