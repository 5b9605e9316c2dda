"""The stage of a variational autoencoder: a posterior up, a likelihood down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from compose.core.declare import Part, Slot, as_real, part_field
from compose.core.kinds import Kind, weakest
from compose.core.roles import (
    Density,
    DensityPart,
    Mode,
    Posterior,
    Stage,
    StagePart,
    Step,
    inside,
    labelled,
    to_features,
    with_label,
)
from compose.core.spaces import Codes, Real, Space


class Latent(StagePart):
    """Up ``z ~ q(z | x)``, down ``x ~ p(x | z)``; adds ``log p(x | z) - log q(z | x)``."""

    type: ClassVar[str] = "latent"
    source: ClassVar[str] = "Kingma and Welling 2013, arXiv:1312.6114; Rezende et al. 2014, arXiv:1401.4082"
    lends_posterior: ClassVar[bool] = True

    dim: Annotated[int, Ge(1), Le(65536)] = 16
    """How many numbers z holds."""
    encoder: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Maps what lies below to the parameters of the posterior."""
    posterior: part_field("density") = "normal"  # type: ignore[valid-type]
    """q(z | x); must be exact, since it enters with a minus sign."""
    decoder: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Maps z to the parameters of the likelihood."""
    likelihood: part_field("density") = "categorical"  # type: ignore[valid-type]
    """p(x | z), over the space below."""
    labels: bool = True
    """Whether encoder and decoder see the class label, where the data give one."""

    def sees_labels(self) -> bool:
        """As its option says."""
        return self.labels

    @property
    def descends(self) -> bool:
        """Where its likelihood has a centre."""
        assert isinstance(self.likelihood, DensityPart)
        return self.likelihood.centred

    def above(self, below: Space) -> Real:
        """A vector of ``dim`` numbers."""
        return Real((self.dim,))

    def terms(self) -> dict[str, str]:
        """One from each of the two densities."""
        return {"log_likelihood": "likelihood", "minus_log_q": "posterior"}

    def kind(self, slot: Slot) -> Kind:
        """A path weight, or what the likelihood weakens it to."""
        nested = self.nested(slot)
        return weakest([Kind.WEIGHT, *(nested[key][0].kind(nested[key][1]) for key in ("posterior", "likelihood"))])

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """Each net's output is what the density after it declares as its features."""
        below, above = slot.space, self.above(slot.space)
        seen = slot.labels if self.labels else None
        posterior = self.posterior.features(above) or Real((2 * self.dim,))
        likelihood = self.likelihood.features(below) or Real((2, *below.shape))
        return {
            "encoder": (self.encoder, Slot("net", posterior, labelled(as_real(below), seen))),
            "posterior": (self.posterior, Slot("posterior", above, posterior, slot.labels, "stage 'latent' gives")),
            "decoder": (self.decoder, Slot("net", likelihood, labelled(above, seen))),
            "likelihood": (self.likelihood, Slot("likelihood", below, likelihood, slot.labels, slot.origin)),
        }

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage around its four parts."""
        return LatentStage(slot.space, self.above(slot.space), children, slot.labels if self.labels else None)


class LatentStage(Stage):
    """Infers z with one net and density, generates x with another pair.

    Args:
        below: Space of x.
        above: Space of z.
        parts: ``encoder``, ``posterior``, ``decoder``, ``likelihood``.
        labels: Space of the class label that both nets see; none where they see none.
    """

    draws = True

    def __init__(self, below: Space, above: Real, parts: Mapping[str, nn.Module], labels: Codes | None) -> None:
        super().__init__(below, above)
        self.encoder, self.decoder = parts["encoder"], parts["decoder"]
        q, p = parts["posterior"], parts["likelihood"]
        assert isinstance(q, Density) and isinstance(p, Density)
        self.posterior, self.likelihood, self.labels = q, p, labels
        self.closed_form, self.needs_fit = q.closed_form, p.needs_fit
        # Says which precision the nets have; cheaper to ask in every step than their parameters are.
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Draws z given x and scores x given z."""
        z, minus_log_q, gaussian = self.posterior.infer(self.q_features(self._features(x), c), closed)
        log_likelihood, penalties = self.likelihood.log_prob_and_penalties(x, self.p_features(z, c), mode)
        terms = {"log_likelihood": log_likelihood, "minus_log_q": minus_log_q}
        return Step(z, terms, inside("log_likelihood", penalties), gaussian=gaussian)

    def up(self, x: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()) -> tuple[Density, Tensor]:
        """The posterior and its parameters."""
        return self.posterior, self.q_features(self._features(x), c)

    def down(self, z: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()) -> tuple[Density, Tensor]:
        """The likelihood and its parameters."""
        return self.likelihood, self.p_features(z, c)

    def relax(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The middle of p(x | z)."""
        return self.likelihood.centre(self.p_features(z, c))

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Draws x given z."""
        return self.likelihood.sample(z.shape[0], self.p_features(z, c))

    def q_features(self, features: Tensor, c: Tensor | None = None) -> Tensor:
        """Parameters of the posterior, from what the encoder sees."""
        return self.encoder(with_label(features, c, self.labels))

    def p_features(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood."""
        return self.decoder(with_label(z, c, self.labels))

    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Fits a likelihood that is a model with parts to fit."""
        self.likelihood.fit(batches)

    def lend(self) -> Posterior:
        """Lends the features, the encoder and q."""
        return Posterior(self._features, self.q_features, self.posterior)

    def _features(self, x: Tensor) -> Tensor:
        return to_features(x, self.below, self.like.dtype)
