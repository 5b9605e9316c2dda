"""The VampPrior: a mixture of the posteriors of learned pseudo-inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from compose.core.declare import Misfit, Slot, as_real
from compose.core.gaussians import pairwise_log_prob
from compose.core.random import uniform
from compose.core.roles import Density, DensityPart, Mode, Posterior
from compose.core.spaces import Codes, Space


class Vamp(DensityPart):
    """``p(z) = 1/K sum_k q(z | u_k)``: the model lends its posterior, the pseudo-inputs ``u_k`` are learned.

    They live where the encoder sees its input, in features, and start at training examples.
    """

    type: ClassVar[str] = "vamp"
    source: ClassVar[str] = "Tomczak and Welling 2018, arXiv:1705.07120"
    gradient: ClassVar = "none"
    needs_posterior: ClassVar[bool] = True

    components: Annotated[int, Ge(1), Le(65536)] = 128
    """How many pseudo-inputs; each training step encodes them all."""

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any density; and its pseudo-inputs have no class label to show to the encoder."""
        yield from super().misfits(slot)
        if slot.beneath is not None and slot.beneath.labels is not None:
            yield Misfit(
                f"'{self.type}' has no class labels for its pseudo-inputs, and the stage below it takes labels; "
                "labels: false there would do."
            )

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        assert slot.beneath is not None, "a vamp was built above nothing"
        return VampDensity(slot.space, slot.beneath.space, self.components)


class VampDensity(Density):
    """A mixture of lent posteriors.

    Args:
        space: Space of z.
        below: Space of the items that the lent encoder takes.
        components: How many pseudo-inputs.
    """

    needs_posterior = True
    needs_fit = True

    def __init__(self, space: Space, below: Space, components: int) -> None:
        super().__init__(space)
        features = as_real(below)
        # Scaled and one-hot codes lie in [0, 1]; pseudo-inputs outside are inputs no encoder was ever shown.
        self.limits = (0.0, 1.0) if isinstance(below, Codes) else None
        self.pseudo_inputs = nn.Parameter(0.5 + 0.1 * torch.randn(components, *features.shape))
        self.lent: Posterior | None = None

    def bind(self, posterior: Posterior) -> None:
        """Receives the posterior of the stage below."""
        self.lent = posterior

    @torch.no_grad()
    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Starts the pseudo-inputs at items of the training set, evenly spaced through it."""
        lent = self._lent()
        items = torch.cat([lent.features(x) for x in batches()])
        picked = torch.linspace(0, len(items) - 1, len(self.pseudo_inputs), device=items.device).long()
        self.pseudo_inputs.copy_(items[picked])

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Exact log-density of each row, in nats."""
        lent, z = self._lent(), x.flatten(1)
        conditions = lent.encode(self._shown())
        gaussian = lent.density.gaussian(conditions)
        if gaussian is not None:
            each = pairwise_log_prob(z, gaussian.loc.flatten(1), gaussian.log_scale.flatten(1))
        else:
            n, k = len(x), len(conditions)
            pairs = lent.density.log_prob(
                x.repeat_interleave(k, 0), conditions.repeat(n, *[1] * (conditions.dim() - 1))
            )
            each = pairs.unflatten(0, (n, k))
        return torch.logsumexp(each, dim=1) - torch.log(torch.full((), each.shape[1], dtype=z.dtype, device=z.device))

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Picks a pseudo-input, then draws from its posterior."""
        lent = self._lent()
        picked = (uniform((n,), self.pseudo_inputs) * len(self.pseudo_inputs)).long()
        return lent.density.sample(n, lent.encode(self._shown()[picked]))

    def _shown(self) -> Tensor:
        return self.pseudo_inputs if self.limits is None else self.pseudo_inputs.clamp(*self.limits)

    def _lent(self) -> Posterior:
        assert self.lent is not None, "a vamp was asked before its model lent it a posterior"
        return self.lent
