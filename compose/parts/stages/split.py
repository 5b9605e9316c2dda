"""Multiscale flows: half of the channels leave, with a density of their own given the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from compose.core.declare import Misfit, Part, Slot, part_field
from compose.core.kinds import Kind
from compose.core.roles import Density, DensityPart, Mode, Stage, StagePart, Step, inside, labelled, with_label
from compose.core.spaces import Codes, Real, Space


class Split(StagePart):
    """Up ``z = a`` of ``x = (a, b)``, down ``b ~ p(b | a)``; adds ``log p(b | a)``.

    Channels, or the numbers of a vector, are halved. Nothing is drawn on the way up, so with an exact density the whole
    stays exact.
    """

    type: ClassVar[str] = "split"
    source: ClassVar[str] = "Dinh et al. 2017, arXiv:1605.08803; p(b | a): Kingma and Dhariwal 2018, arXiv:1807.03039"

    net: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Maps what stays to the parameters of the density of what leaves; for images 'conv'."""
    density: part_field("density") = "normal"  # type: ignore[valid-type]
    """p(b | a)."""
    labels: bool = True
    """Whether the network sees the class label, where the data give one."""

    def sees_labels(self) -> bool:
        """As its option says."""
        return self.labels

    def above(self, below: Space) -> Real:
        """What stays: of an odd number the larger part."""
        return self.parts(below)[0]

    def terms(self) -> dict[str, str]:
        """That of what leaves."""
        return {"log_likelihood": "density"}

    def kind(self, slot: Slot) -> Kind:
        """That of the density."""
        return self.density.kind(self.nested(slot)["density"][1])

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """It stands on reals of which half can leave."""
        space, came = slot.space, f"{slot.origin} {slot.space}"
        if isinstance(space, Codes):
            yield Misfit(f"'{self.type}' takes Real, but {came}; a stage 'dequantize' before it gives Real.")
        elif not space.shape or space.shape[0] < 2:
            image = len(space.shape) == 3
            of = "channel; a stage 'squeeze' before it gives 4" if image else "number"
            yield Misfit(f"'{self.type}' gives away half of what comes, but {came}, a single {of}.")

    @staticmethod
    def parts(space: Space) -> tuple[Real, Real]:
        """The spaces of what stays and of what leaves."""
        first, *rest = space.shape or (1,)
        return Real((max(1, first - first // 2), *rest)), Real((max(1, first // 2), *rest))

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """The network's output is what the density declares as its features."""
        a, b = self.parts(slot.space)
        assert isinstance(self.density, DensityPart)
        features = self.density.features(b) or Real((2 * b.shape[0], *b.shape[1:]))
        seen = slot.labels if self.labels else None
        return {
            "net": (self.net, Slot("net", features, labelled(a, seen))),
            "density": (self.density, Slot("likelihood", b, features, slot.labels, "stage 'split' leaves")),
        }

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage around its parts."""
        return SplitStage(slot.space, self.above(slot.space), children, slot.labels if self.labels else None)


class SplitStage(Stage):
    """Scores what leaves on the way up, draws it on the way down.

    Args:
        below: Space of x.
        above: Space of what stays.
        parts: ``net`` and ``density``.
        labels: Space of the class label that the network sees; none where it sees none.
    """

    def __init__(self, below: Space, above: Space, parts: Mapping[str, nn.Module], labels: Codes | None) -> None:
        super().__init__(below, above)
        self.net, density = parts["net"], parts["density"]
        assert isinstance(density, Density)
        self.density: Density = density
        self.kept, self.needs_fit, self.labels = above.shape[0], density.needs_fit, labels

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Scores b given a."""
        a, b = x[:, : self.kept], x[:, self.kept :]
        log_p, penalties = self.density.log_prob_and_penalties(b, self._features(a, c), mode)
        return Step(a, {"log_likelihood": log_p}, inside("log_likelihood", penalties))

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Draws b given a."""
        return torch.cat([z, self.density.sample(z.shape[0], self._features(z, c))], 1)

    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Fits a density with parts to fit."""
        self.density.fit(lambda: (x[:, self.kept :] for x in batches()))

    def _features(self, a: Tensor, c: Tensor | None) -> Tensor:
        return self.net(with_label(a, c, self.labels))
