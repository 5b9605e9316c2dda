"""The normal distribution: standard as a prior, diagonal with free parameters under a condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compose.core.declare import Slot
from compose.core.gaussians import LOG_2PI, Gaussian, bounded
from compose.core.random import standard_normal
from compose.core.roles import Density, DensityPart, Mode
from compose.core.spaces import Real, Space


class Normal(DensityPart):
    """``N(0, I)`` where nothing conditions it, else ``N(loc, diag(scale^2))`` with both from the condition."""

    type: ClassVar[str] = "normal"
    source: ClassVar[str] = "Kingma and Welling 2013, arXiv:1312.6114"
    centred: ClassVar[bool] = True

    def features(self, space: Space) -> Real:
        """Location and raw log-scale of every number, side by side on the first axis."""
        first, *rest = space.shape or (1,)
        return Real((2 * first, *rest))

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        return NormalDensity(slot.space, slot.condition)


class NormalDensity(Density):
    """Independent normals over every number of ``space``."""

    closed_form = True

    def __init__(self, space: Space, condition: Space | None = None) -> None:
        super().__init__(space, condition)
        self.axes = tuple(range(1, 1 + len(space.shape)))
        # A float64 scalar tensor: added in one operation with a factor, and exact in a float64 model.
        self.minus = torch.tensor(-0.5 * LOG_2PI * space.dim, dtype=torch.float64, device="cpu")
        # A standard normal owns no parameter that would say where, and in which precision, to draw.
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def gaussian(self, c: Tensor) -> Gaussian:
        """Splits the condition along its first axis into location and bounded log-scale."""
        loc, raw = self._exact(c).chunk(2, dim=1)
        log_scale = bounded(raw)
        return Gaussian(loc, log_scale, log_scale.exp())

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Exact log-density of each row, in nats."""
        if c is None:
            return torch.add(self.minus, (x * x).sum(self.axes), alpha=-0.5)
        loc, log_scale, scale = self.gaussian(c)
        noise = (x - loc) / scale
        return self.minus - (0.5 * noise * noise + log_scale).sum(self.axes)

    def expected_log_prob(self, q: Gaussian) -> Tensor:
        """``E_q log N(z; 0, I)``, in nats."""
        return torch.add(self.minus, (q.loc * q.loc + q.scale * q.scale).sum(self.axes), alpha=-0.5)

    def rsample_and_log_prob(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Draws ``loc + scale * noise`` with its log-density."""
        loc, log_scale, scale = self.gaussian(c)
        noise = standard_normal(loc.shape, loc)
        return loc + scale * noise, self.minus - (0.5 * noise * noise + log_scale).sum(self.axes)

    def centre(self, c: Tensor) -> Tensor:
        """The mean."""
        return self._exact(c).chunk(2, dim=1)[0]

    def _exact(self, c: Tensor) -> Tensor:
        """A net may have given halves, which are too coarse for what is drawn from them."""
        return c.to(torch.promote_types(c.dtype, self.like.dtype))

    def in_pyro(self, n: int, c: Tensor | None = None) -> Any:
        """Pyro's ``Normal``."""
        import pyro.distributions as pyro

        loc, _, scale = (self.like, None, self.like + 1) if c is None else self.gaussian(c)
        shape = (n, *self.space.shape)
        return pyro.Normal(loc.expand(shape), scale.expand(shape)).to_event(len(self.space.shape))

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws ``n`` items, one for each row of ``c`` where there is one."""
        if c is None:
            return standard_normal((n, *self.space.shape), self.like)
        return self.gaussian(c).rsample()
