"""From ordered codes to reals: noise inside each cell, then the logit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from compose.core.declare import Misfit, Part, Slot, as_real, part_field
from compose.core.kinds import Kind
from compose.core.random import uniform
from compose.core.roles import Density, DensityPart, Mode, Stage, StagePart, Step, to_features
from compose.core.spaces import Codes, Real, Space


class Dequantize(StagePart):
    """Up ``z = logit((x + u) / levels)`` with ``u ~ q(u | x)``, down the level of ``sigmoid(z)``.

    The logit makes the latent the whole real line: a density over the unit cube would put mass outside it, and its
    samples would not be from the scored model. Adds ``-log q(u | x)``, of uniform noise 0, and the log-dets of scale
    and logit. A learned noise is a density over ``v = logit(u)`` given x.
    """

    type: ClassVar[str] = "dequantize"
    source: ClassVar[str] = (
        "Theis et al. 2016, arXiv:1511.01844; logit: Dinh et al. 2017, arXiv:1605.08803; "
        "learned noise: Ho et al. 2019, arXiv:1902.00275"
    )

    noise: part_field("density") | None = None  # type: ignore[valid-type]
    """q over the logit of u, given x; must be exact, since it enters with a minus sign. Without one, u is uniform."""
    encoder: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Maps x to the parameters of a learned noise, where there is one; for images 'conv'."""

    def last_nets(self) -> tuple[str, str]:
        """That of a learned noise; no net leads down."""
        return "" if self.noise is None else "encoder", ""

    def above(self, below: Space) -> Real:
        """The shape below."""
        return Real(below.shape)

    def terms(self) -> dict[str, str]:
        """The noise's density (that of a uniform, 0) and the log-det."""
        return {"minus_log_q": "" if self.noise is None else "noise", "log_det": ""}

    def kind(self, slot: Slot) -> Kind:
        """A path weight: exp L is p(x) in expectation over u."""
        return Kind.WEIGHT

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """Cells exist only between ordered codes."""
        if not isinstance(slot.space, Codes):
            yield Misfit(
                f"'{self.type}' takes ordered Codes, but {slot.origin} {slot.space}, which needs no dequantisation."
            )
        elif not slot.space.ordered:
            yield Misfit(f"'{self.type}' takes ordered Codes, but {slot.origin} {slot.space}: they have no neighbours.")

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """A learned noise, and the net whose output is what it declares as its features."""
        if self.noise is None:
            return {}
        above = self.above(slot.space)
        assert isinstance(self.noise, DensityPart)
        features = self.noise.features(above) or Real((2, *above.shape))
        return {
            "encoder": (self.encoder, Slot("net", features, as_real(slot.space))),
            "noise": (self.noise, Slot("noise", above, features, slot.labels, "stage 'dequantize' gives")),
        }

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage in its slot."""
        assert isinstance(slot.space, Codes)
        return DequantizeStage(slot.space, self.above(slot.space), children)


class DequantizeStage(Stage):
    """Spreads each code over its cell of the real line.

    Args:
        below: Ordered codes.
        above: Reals of the same shape.
        parts: ``encoder`` and ``noise``; empty for uniform noise.
    """

    draws = True

    def __init__(self, below: Codes, above: Real, parts: Mapping[str, nn.Module]) -> None:
        super().__init__(below, above)
        self.levels = below.size
        self.axes = tuple(range(1, 1 + len(below.shape)))
        self.encoder, self.noise = parts.get("encoder"), parts.get("noise")
        # Owns no parameter that would say in which precision to draw.
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Draws u and takes the logit; ``log|dz/du| = log(levels / (a b))`` with ``a = x + u``, ``b = levels - a``."""
        log_a, log_b, minus_log_q = self._uniform(x) if self.noise is None else self._learned(x)
        log_det = (math.log(self.levels) - log_a - log_b).sum(self.axes)
        return Step(log_a - log_b, {"minus_log_q": minus_log_q, "log_det": log_det})

    def _uniform(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u = uniform(x.shape, self.like)
        tiny = torch.finfo(u.dtype).eps / 4
        # A drawn 0 at level 0 would be logit(0); b is formed from 1 - u so that it keeps its digits at the top level.
        u = u.clamp(tiny, 1 - torch.finfo(u.dtype).eps / 2)
        k = x.to(u.dtype)
        return torch.log(k + u), torch.log((self.levels - 1 - k) + (1 - u)), u.new_zeros(len(x))

    def _learned(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``u = sigmoid(v)``; in logarithms throughout, so that a v far out keeps its digits."""
        assert isinstance(self.noise, Density) and self.encoder is not None
        # Whatever precision the net has: a half does not tell the cells of 256 levels apart.
        features = self.encoder(to_features(x, self.below, self.like.dtype)).to(self.like.dtype)
        v, log_q = (each.to(self.like.dtype) for each in self.noise.rsample_and_log_prob(features))
        log_u, log_rest, k = logsigmoid(v), logsigmoid(-v), x.to(v.dtype)
        log_a = torch.logaddexp(torch.log(k), log_u)
        log_b = torch.logaddexp(torch.log(self.levels - 1 - k), log_rest)
        return log_a, log_b, (log_u + log_rest).sum(self.axes) - log_q

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The cell that ``sigmoid(z)`` lies in."""
        return (torch.sigmoid(z) * self.levels).floor().clamp(0, self.levels - 1).long()
