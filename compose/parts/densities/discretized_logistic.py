"""Mixtures of logistics over ordered levels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional

from compose.core.declare import Misfit, Slot
from compose.core.gaussians import bounded
from compose.core.random import categorical, uniform
from compose.core.roles import Density, DensityPart, FreeParameters, Mode
from compose.core.spaces import Codes, Real, Space


class DiscretizedLogistic(DensityPart):
    """Each code's probability is the mass of a mixture of logistics in its cell; the end levels take the tails.

    Codes are independent given the condition, channels included.
    """

    type: ClassVar[str] = "discretized_logistic"
    source: ClassVar[str] = "Kingma et al. 2016, arXiv:1606.04934; mixture: Salimans et al. 2017, arXiv:1701.05517"
    takes: ClassVar[tuple[type, ...]] = (Codes,)
    gradient: ClassVar = "none"
    centred: ClassVar[bool] = True

    components: Annotated[int, Ge(1), Le(256)] = 5
    """How many logistics a pixel mixes."""
    shared_scale: bool = False
    """One scale for all of them, learned by itself, in place of those that a net gives: it can be fitted alone."""

    def features(self, space: Space) -> Real:
        """For every component of every code: raw weight, location and, unless that is shared, raw log-scale."""
        return Real((2 if self.shared_scale else 3, self.components, *space.shape))

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any density; and only ordered codes have cells."""
        yield from super().misfits(slot)
        if isinstance(slot.space, Codes) and not slot.space.ordered:
            yield Misfit(f"'{self.type}' takes ordered Codes, but {slot.origin} {slot.space}.")

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        assert isinstance(slot.space, Codes)
        return DiscretizedLogisticDensity(slot.space, slot.condition, self.features(slot.space))


class DiscretizedLogisticDensity(Density):
    """Levels ``0 .. size-1`` sit at ``-1 .. 1``, each in a cell of half-width ``1 / (size - 1)``.

    Args:
        space: Ordered codes.
        condition: As ``features``; none for learned parameters.
        features: ``(3, components, *shape)``; 2 in place of 3 where one scale is learned for all.
    """

    def __init__(self, space: Codes, condition: Space | None, features: Real) -> None:
        super().__init__(space, condition)
        self.levels = space.size
        self.parameters_or = FreeParameters(features, condition)
        self.scale = nn.Parameter(torch.zeros(())) if features.shape[0] == 2 else None
        if self.parameters_or.value is not None:
            # Components that start alike would stay alike.
            spread = torch.linspace(-0.9, 0.9, features.shape[1]) if features.shape[1] > 1 else torch.zeros(1)
            self.parameters_or.value.data[1] = spread.reshape(-1, *[1] * len(space.shape))

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Exact log-probability of each row, in nats.

        With cell edges ``a`` above and ``b`` below, both standardised, the mass is
        ``sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))``, which keeps its digits in any tail.
        """
        raw, loc, raw_scale = self._of_each(x.shape[0], c)
        inverse_scale = (-bounded(raw_scale, 7.0)).exp()
        half = 1 / (self.levels - 1)
        centre = (2 * half * x.to(loc.dtype) - 1)[:, None]
        a, b = (centre + half - loc) * inverse_scale, (centre - half - loc) * inverse_scale
        lowest, highest = (x == 0)[:, None], (x == self.levels - 1)[:, None]
        below_a = torch.where(highest, 0.0, functional.logsigmoid(a))
        above_b = torch.where(lowest, 0.0, functional.logsigmoid(-b))
        width = torch.where(lowest | highest, 0.0, torch.log(-torch.expm1(-2 * half * inverse_scale)))
        mass = torch.logsumexp(torch.log_softmax(raw, dim=1) + below_a + above_b + width, dim=1)
        return mass.flatten(1).sum(1)

    def centre(self, c: Tensor) -> Tensor:
        """The mean location of the logistics; the tails that the end levels take do not count."""
        raw, loc, *_ = c.unbind(1)
        return (1 + (raw.softmax(1) * loc).sum(1)) / 2

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Picks a component, draws from its logistic, takes the cell it falls in."""
        raw, loc, raw_scale = self._of_each(n, c)
        picked = categorical(raw.movedim(1, -1))[:, None]
        loc, scale = loc.gather(1, picked)[:, 0], bounded(raw_scale, 7.0).exp().gather(1, picked)[:, 0]
        u = uniform(loc.shape, loc).clamp(torch.finfo(loc.dtype).tiny, 1 - torch.finfo(loc.dtype).eps / 2)
        value = loc + scale * torch.logit(u)
        return ((value + 1) * (self.levels - 1) / 2).round().clamp(0, self.levels - 1).long()

    def _of_each(self, n: int, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Raw weight, location and raw log-scale of every component of every code."""
        parameters = self.parameters_or(n, c)
        # Half precision does not tell the cells of 256 levels apart.
        parameters = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        raw, loc, *given = parameters.unbind(1)
        return raw, loc, given[0] if self.scale is None else self.scale.expand_as(loc)
