"""A mixture of diagonal Gaussians."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from compose.core.declare import Slot
from compose.core.gaussians import LOG_2PI, bounded, pairwise_log_prob
from compose.core.random import categorical, standard_normal
from compose.core.roles import Density, DensityPart, Mode
from compose.core.spaces import Real, Space


class Mixture(DensityPart):
    """``p(z) = sum_k w_k N(z; loc_k, scale_k^2)``; all learned, or all from a condition."""

    type: ClassVar[str] = "mixture"
    source: ClassVar[str] = "as a latent prior: Dilokthanakul et al. 2016, arXiv:1611.02648"
    # A draw picks a component, which no pathwise gradient passes.
    gradient: ClassVar = "none"

    components: Annotated[int, Ge(1), Le(65536)] = 32
    """How many Gaussians."""

    def features(self, space: Space) -> Real:
        """For each component its raw weight, its location and its raw log-scale."""
        return Real((self.components, 1 + 2 * space.dim))

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        return MixtureDensity(slot.space, slot.condition, self.features(slot.space))


class MixtureDensity(Density):
    """Gaussians over the flattened numbers of ``space``.

    Args:
        space: Space of an item.
        condition: Its features; none for learned parameters.
        features: ``(components, 1 + 2 dim)``.
    """

    def __init__(self, space: Space, condition: Space | None, features: Real) -> None:
        super().__init__(space, condition)
        self.sizes = [1, space.dim, space.dim]
        self.free = None
        if condition is None:
            start = torch.zeros(features.shape)
            # Spread over the standard normal: components that start alike would stay alike.
            start[:, 1 : 1 + space.dim] = torch.randn(features.shape[0], space.dim)
            self.free = nn.Parameter(start)

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Exact log-density of each row, in nats."""
        z = x.flatten(1)
        if self.free is not None:
            raw, loc, log_scale = self._split(self.free)
            each = pairwise_log_prob(z, loc, log_scale)
        else:
            assert c is not None, "a conditional mixture was asked without a condition"
            raw, loc, log_scale = self._split(c)
            noise = (z[:, None] - loc) * (-log_scale).exp()
            each = -(0.5 * noise * noise + log_scale).sum(-1) - 0.5 * LOG_2PI * z.shape[1]
        return torch.logsumexp(torch.log_softmax(raw, -1) + each, dim=-1)

    def in_pyro(self, n: int, c: Tensor | None = None) -> Any:
        """Pyro's ``MixtureSameFamily`` of ``Normal``."""
        import pyro.distributions as pyro

        raw, loc, log_scale = self._split(self.free if c is None else c)
        loc, scale = (each.unflatten(-1, self.space.shape) for each in (loc, log_scale.exp()))
        each = pyro.Normal(loc, scale).to_event(len(self.space.shape))
        return pyro.MixtureSameFamily(pyro.Categorical(logits=raw), each).expand([n])

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Picks a component, then draws from it."""
        raw, loc, log_scale = self._split(self.free.expand(n, -1, -1) if self.free is not None else c)
        picked = categorical(raw)
        rows = torch.arange(n, device=picked.device)
        loc, log_scale = loc[rows, picked], log_scale[rows, picked]
        return (loc + log_scale.exp() * standard_normal(loc.shape, loc)).unflatten(1, self.space.shape)

    def _split(self, parameters: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        assert parameters is not None, "a conditional mixture was asked without a condition"
        raw, loc, log_scale = parameters.split(self.sizes, dim=-1)
        return raw[..., 0], loc, bounded(log_scale)
