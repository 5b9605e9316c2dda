"""Independent categorical codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from einops import einsum
from torch import Tensor, nn
from torch.nn import functional

from compose.core.declare import Slot
from compose.core.random import categorical
from compose.core.roles import Density, DensityPart, FreeParameters, Mode
from compose.core.spaces import Codes, Real, Space


class Categorical(DensityPart):
    """``p(x) = prod_i softmax(logits_i)[x_i]``, the logits learned or from a condition."""

    type: ClassVar[str] = "categorical"
    source: ClassVar[str] = "over pixel levels: van den Oord et al. 2016, arXiv:1601.06759"
    takes: ClassVar[tuple[type, ...]] = (Codes,)
    gradient: ClassVar = "none"
    centred: ClassVar[bool] = True

    def features(self, space: Space) -> Real:
        """A logit for every value of every code, values first."""
        return Real((space.size if isinstance(space, Codes) else 2, *space.shape))

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        return CategoricalDensity(slot.space, slot.condition, self.features(slot.space))


class CategoricalDensity(Density):
    """Independent codes.

    Args:
        space: Codes of any size.
        condition: ``(size, *shape)`` logits; none for learned logits.
        features: Space of the logits.
    """

    def __init__(self, space: Space, condition: Space | None, features: Real) -> None:
        super().__init__(space, condition)
        self.logits = FreeParameters(features, condition)
        self.ordered = isinstance(space, Codes) and space.ordered

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Exact log-probability of each row, in nats."""
        logits = self.logits(x.shape[0], c)
        return -functional.cross_entropy(logits, x.long(), reduction="none").flatten(1).sum(1)

    def centre(self, c: Tensor) -> Tensor:
        """Of ordered codes the mean level, of others the probabilities."""
        probabilities = c.softmax(1)
        if not self.ordered:
            return probabilities
        levels = torch.linspace(0, 1, c.shape[1], dtype=c.dtype, device=c.device)
        return einsum(probabilities, levels, "b k ..., k -> b ...")

    def in_pyro(self, n: int, c: Tensor | None = None) -> Any:
        """Pyro's ``Categorical``."""
        import pyro.distributions as pyro

        return pyro.Categorical(logits=self.logits(n, c).movedim(1, -1)).to_event(len(self.space.shape))

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws every code."""
        return categorical(self.logits(n, c).movedim(1, -1))
