"""A normalizing flow as a density: prior, posterior or likelihood over reals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from compose.core.declare import Misfit, Slot
from compose.core.gaussians import LOG_2PI, bounded
from compose.core.random import standard_normal
from compose.core.roles import Density, DensityPart, Mode
from compose.core.spaces import Real, Space
from compose.nets.transforms import InvertibleNet, TransformOptions


class Flow(TransformOptions, DensityPart):
    """``log p(z) = log N(f(z)) + log|det df/dz|``, f invertible.

    Under a condition the base is ``N(loc, scale^2)`` with both from the condition, whose remaining ``context`` numbers
    steer every layer.
    """

    type: ClassVar[str] = "flow"
    source: ClassVar[str] = "Durkan et al. 2019, arXiv:1906.04032; Dinh et al. 2017, arXiv:1605.08803; arXiv:1705.07057"

    context: Annotated[int, Ge(0), Le(65536)] = 32
    """Under a condition: how many further numbers the net gives to steer the layers."""

    def features(self, space: Space) -> Real:
        """Location and raw log-scale of the base, then the context."""
        return Real((2 * space.dim + self.context,))

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any density; and a coupling needs two numbers, or nothing steers anything."""
        yield from super().misfits(slot)
        if isinstance(slot.space, Real):
            yield from self.couplings(slot.space, slot.origin)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        return FlowDensity(slot.space, slot.condition, self, self.context)


class FlowDensity(Density):
    """A flow over the flattened numbers of ``space``.

    Args:
        space: Space of an item.
        condition: Its features; none for a flow on N(0, I).
        options: What to stack.
        context: How many numbers of the condition steer the layers.
    """

    def __init__(self, space: Space, condition: Space | None, options: TransformOptions, context: int) -> None:
        super().__init__(space, condition)
        self.dim = space.dim
        self.transform = InvertibleNet(self.dim, options, 0 if condition is None else context)

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Exact log-density of each row, in nats."""
        base = None if c is None else self._base(c)
        noise, log_det = self.transform(x.flatten(1), None if base is None else base[2])
        if base is None:
            return -0.5 * (noise * noise).sum(1) - 0.5 * LOG_2PI * self.dim + log_det
        loc, log_scale, _ = base
        return self._base_log_prob((noise - loc) * (-log_scale).exp(), log_scale) + log_det

    def rsample_and_log_prob(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Draws from the base and pushes it through the inverse, counting its log-det on the way."""
        loc, log_scale, context = self._base(c)
        noise = standard_normal(loc.shape, loc)
        x, log_det = self.transform.inverse(loc + log_scale.exp() * noise, context)
        return x.unflatten(1, self.space.shape), self._base_log_prob(noise, log_scale) - log_det

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws ``n`` items, one for each row of ``c`` where there is one."""
        if c is not None:
            return self.rsample_and_log_prob(c)[0]
        x, _ = self.transform.inverse(standard_normal((n, self.dim), next(self.parameters())))
        return x.unflatten(1, self.space.shape)

    def _base(self, c: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        loc, raw, context = c.split([self.dim, self.dim, c.shape[1] - 2 * self.dim], dim=1)
        return loc, bounded(raw), context if context.shape[1] else None

    def _base_log_prob(self, noise: Tensor, log_scale: Tensor) -> Tensor:
        return -(0.5 * noise * noise + log_scale).sum(1) - 0.5 * LOG_2PI * self.dim
