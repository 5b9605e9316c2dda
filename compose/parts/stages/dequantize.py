"""From ordered codes to reals: noise inside each cell, then the logit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from compose.core.declare import Misfit, Slot
from compose.core.kinds import Kind
from compose.core.random import uniform
from compose.core.roles import Mode, Stage, StagePart, Step
from compose.core.spaces import Codes, Real, Space


class Dequantize(StagePart):
    """Up ``z = logit((x + u) / levels)`` with ``u ~ U(0, 1)``, down the level of ``sigmoid(z)``.

    The logit makes the latent the whole real line: a density over the unit cube would put mass outside it, and its
    samples would not be from the scored model. Adds ``-log q(u | x) = 0`` and the log-dets of scale and logit.
    """

    type: ClassVar[str] = "dequantize"
    source: ClassVar[str] = "Theis et al. 2016, arXiv:1511.01844; logit: Dinh et al. 2017, arXiv:1605.08803"

    def above(self, below: Space) -> Real:
        """The shape below."""
        return Real(below.shape)

    def terms(self) -> dict[str, str]:
        """The noise's density (that of a uniform, 0) and the log-det."""
        return {"minus_log_q": "", "log_det": ""}

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

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage in its slot."""
        assert isinstance(slot.space, Codes)
        return DequantizeStage(slot.space, self.above(slot.space))


class DequantizeStage(Stage):
    """Spreads each code over its cell of the real line.

    Args:
        below: Ordered codes.
        above: Reals of the same shape.
    """

    draws = True

    def __init__(self, below: Codes, above: Real) -> None:
        super().__init__(below, above)
        self.levels = below.size
        self.axes = tuple(range(1, 1 + len(below.shape)))
        # Owns no parameter that would say in which precision to draw.
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Draws u and takes the logit; ``log|dz/du| = log(levels / (a b))`` with ``a = x + u``, ``b = levels - a``."""
        u = uniform(x.shape, self.like)
        tiny = torch.finfo(u.dtype).eps / 4
        # A drawn 0 at level 0 would be logit(0); b is formed from 1 - u so that it keeps its digits at the top level.
        u = u.clamp(tiny, 1 - torch.finfo(u.dtype).eps / 2)
        k = x.to(u.dtype)
        log_a, log_b = torch.log(k + u), torch.log((self.levels - 1 - k) + (1 - u))
        log_det = (math.log(self.levels) - log_a - log_b).sum(self.axes)
        return Step(log_a - log_b, {"minus_log_q": torch.zeros_like(log_det), "log_det": log_det})

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The cell that ``sigmoid(z)`` lies in."""
        return (torch.sigmoid(z) * self.levels).floor().clamp(0, self.levels - 1).long()
