"""The stage of a vector-quantised autoencoder: codes up, a likelihood down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from compose.core.declare import Part, Slot, as_real, part_field
from compose.core.kinds import Kind, weakest
from compose.core.quantizer import Quantizer, QuantizerPart
from compose.core.roles import (
    Density,
    DensityPart,
    Mode,
    Stage,
    StagePart,
    Step,
    inside,
    labelled,
    to_features,
    with_label,
)
from compose.core.spaces import Codes, Real, Space


class Coded(StagePart):
    """Up ``k = quantize(encode(x))``, down ``x ~ p(x | k)``; adds ``log p(x | k)``, and ``-log q(k | x)``, which is 0.

    With a prior over the codes ``log p(x | k) + log p(k)`` is a bound: it counts one of the codes that x could have
    come from. That rate sends no gradient to the encoder; only what the decoder makes of the codes does.
    """

    type: ClassVar[str] = "codes"
    source: ClassVar[str] = "van den Oord et al. 2017, arXiv:1711.00937"

    factor: Annotated[int, Ge(1), Le(1024)] = 4
    """How many times fewer codes than numbers stand on each side of an item's grid, rounded up."""
    encoder: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Maps what lies below to a vector for each code."""
    quantizer: part_field("quantizer") = "vq"  # type: ignore[valid-type]
    """Makes codes of vectors, and says how wide these are."""
    decoder: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Maps the codes' vectors to the parameters of the likelihood."""
    likelihood: part_field("density") = "categorical"  # type: ignore[valid-type]
    """p(x | k), over the space below."""
    labels: bool = True
    """Whether encoder and decoder see the class label, where the data give one."""

    def sees_labels(self) -> bool:
        """As its option says."""
        return self.labels

    @property
    def descends(self) -> bool:
        """Where its likelihood has a centre; the gradient ends at the codes' vectors."""
        assert isinstance(self.likelihood, DensityPart)
        return self.likelihood.centred

    def above(self, below: Space) -> Codes:
        """The codes on a grid ``factor`` times coarser."""
        assert isinstance(self.quantizer, QuantizerPart)
        return self.quantizer.codes(self._grid(below))

    def terms(self) -> dict[str, str]:
        """The likelihood's, and the 0 of codes that are certain: from there on the model pays for them."""
        return {"log_likelihood": "likelihood", "minus_log_q": "quantizer"}

    def kind(self, slot: Slot) -> Kind:
        """One code of many: ``E exp L`` is at most p, or what the likelihood weakens it to."""
        likelihood, place = self.nested(slot)["likelihood"]
        return weakest([Kind.SUBWEIGHT, likelihood.kind(place)])

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """The encoder gives vectors as wide as the quantizer says; the decoder gives what the likelihood declares."""
        assert isinstance(self.quantizer, QuantizerPart) and isinstance(self.likelihood, DensityPart)
        below, seen = slot.space, slot.labels if self.labels else None
        vectors = Real((self.quantizer.width, *self._grid(below)))
        features = self.likelihood.features(below) or Real((2, *below.shape))
        return {
            "encoder": (self.encoder, Slot("net", vectors, labelled(as_real(below), seen))),
            "quantizer": (self.quantizer, Slot("quantizer", vectors, origin="the encoder gives")),
            "decoder": (self.decoder, Slot("net", features, labelled(vectors, seen))),
            "likelihood": (self.likelihood, Slot("likelihood", below, features, slot.labels, slot.origin)),
        }

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage around its four parts."""
        return CodedStage(slot.space, self.above(slot.space), children, slot.labels if self.labels else None)

    def _grid(self, below: Space) -> tuple[int, ...]:
        return tuple(math.ceil(side / self.factor) for side in below.grid)


class CodedStage(Stage):
    """Encodes x to codes, decodes them to the likelihood of x.

    Args:
        below: Space of x.
        above: Space of the codes.
        parts: ``encoder``, ``quantizer``, ``decoder``, ``likelihood``.
        labels: Space of the class label that both nets see; none where they see none.
    """

    draws = certain = True

    def __init__(self, below: Space, above: Codes, parts: Mapping[str, nn.Module], labels: Codes | None) -> None:
        super().__init__(below, above)
        self.encoder, self.decoder = parts["encoder"], parts["decoder"]
        quantizer, likelihood = parts["quantizer"], parts["likelihood"]
        assert isinstance(quantizer, Quantizer) and isinstance(likelihood, Density)
        self.quantizer, self.likelihood, self.labels = quantizer, likelihood, labels
        self.needs_fit = likelihood.needs_fit or quantizer.starts
        # Says which precision the nets have; cheaper to ask in every step than their parameters are.
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """The codes of x, and the score of x given their vectors."""
        found = self.quantizer(self._vectors(x, c))
        log_likelihood, penalties = self.likelihood.log_prob_and_penalties(x, self._features(found.vectors, c), mode)
        terms = {"log_likelihood": log_likelihood, "minus_log_q": torch.zeros_like(log_likelihood)}
        return Step(found.codes, terms, {**found.penalties, **inside("log_likelihood", penalties)})

    def down(self, z: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()) -> tuple[Density, Tensor]:
        """The likelihood and its parameters."""
        return self.likelihood, self._features(self.quantizer.vectors(z), c)

    def relax(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The middle of p(x | k), with a gradient to the decoder."""
        return self.likelihood.centre(self.down(z, c)[1])

    def mirror(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """The middle of p(x | k) for the codes of x, with a gradient straight through them to the encoder."""
        return self.likelihood.centre(self._features(self.quantizer(self._vectors(x, c)).vectors, c))

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Draws x given codes."""
        return self.likelihood.sample(z.shape[0], self.down(z, c)[1])

    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Starts the quantizer on what the encoder gives, and fits a likelihood that is a model with parts to fit."""
        if self.quantizer.starts:
            # An encoder that is not trained yet tells no label from another.
            some = None if self.labels is None else torch.zeros((), dtype=torch.long)
            self.quantizer.start(
                self._vectors(x, None if some is None else some.to(x.device).expand(len(x))) for x in batches()
            )
        if self.likelihood.needs_fit:
            self.likelihood.fit(batches)

    def _vectors(self, x: Tensor, c: Tensor | None) -> Tensor:
        return self.encoder(with_label(to_features(x, self.below, self.like.dtype), c, self.labels))

    def _features(self, vectors: Tensor, c: Tensor | None) -> Tensor:
        return self.decoder(with_label(vectors, c, self.labels))
