"""Steps of Glow: couplings of the channels of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, ClassVar, cast

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from compose.core.declare import Misfit, Part, Slot, part_field
from compose.core.errors import TrainingError
from compose.core.roles import Mode, Stage, StagePart, Step, labelled, with_label
from compose.core.spaces import Codes, Real, Space
from compose.nets.channels import GlowOptions, GlowStep, Net

#: From how many items the scales of actnorm start: enough to be steady, few enough to go through layer by layer.
FITTED = 2000


class Coupling(GlowOptions, StagePart):
    """Up ``z = f(x)``, steps that mix the channels of an image and couple their halves; adds ``log|det df/dx|``.

    A step of Glow: actnorm, a mixing of the channels, a transform of one half that a network of the other half steers.
    """

    type: ClassVar[str] = "coupling"
    source: ClassVar[str] = (
        "Kingma and Dhariwal 2018, arXiv:1807.03039; Dinh et al. 2017, arXiv:1605.08803; "
        "splines: Durkan et al. 2019, arXiv:1906.04032"
    )

    layers: Annotated[int, Ge(1), Le(256)] = 4
    """How many steps."""
    net: part_field("net") = "conv"  # type: ignore[valid-type]
    """The network of each step."""
    labels: bool = True
    """Whether the networks see the class label, where the data give one."""

    def sees_labels(self) -> bool:
        """As its option says."""
        return self.labels

    @property
    def descends(self) -> bool:
        """Always."""
        return True

    def above(self, below: Space) -> Real:
        """The shape below."""
        return Real(below.shape)

    def terms(self) -> dict[str, str]:
        """Its log-det."""
        return {"log_det": ""}

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """It stands on real images of two channels at least, or nothing is left to steer by."""
        space, came = slot.space, f"{slot.origin} {slot.space}"
        if isinstance(space, Codes):
            yield Misfit(f"'{self.type}' takes Real, but {came}; a stage 'dequantize' before it gives Real.")
        elif len(space.shape) != 3:
            message = f"'{self.type}' works on images, channels x height x width, but {came}"
            yield Misfit(f"{message}; a stage 'bijection' couples the numbers of a vector.")
        elif space.shape[0] < 2:
            message = f"'{self.type}' steers one half of the channels by the other, but {came}, a single channel"
            yield Misfit(f"{message}; a stage 'squeeze' before it gives 4.")

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """One network for each step."""
        channels, *grid = slot.space.shape if len(slot.space.shape) == 3 else (slot.space.dim, 1, 1)
        moved = max(1, channels // 2)
        takes = labelled(Real((max(1, channels - moved), *grid)), slot.labels if self.labels else None)
        gives = Real((self.parameters_each() * moved, *grid))
        return {f"net#{i}": (self.net, Slot("net", gives, takes)) for i in range(self.layers)}

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage around its networks."""
        nets = [children[f"net#{i}"] for i in range(self.layers)]
        return CouplingStage(slot.space, self.above(slot.space), nets, self, slot.labels if self.labels else None)


class CouplingStage(Stage):
    """Steps one after the other.

    Args:
        below: Space of x, an image.
        above: Space of z, of the same shape.
        nets: One for each step.
        options: What a step does.
        labels: Space of the class label that the networks see; none where they see none.
    """

    def __init__(
        self, below: Space, above: Space, nets: list[nn.Module], options: GlowOptions, labels: Codes | None
    ) -> None:
        super().__init__(below, above)
        self.net = nn.ModuleList(nets)
        self.step = nn.ModuleList(GlowStep(below.shape[0], options, i % 2 == 1) for i in range(len(nets)))
        self.needs_fit, self.labels = options.actnorm, labels

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Applies f."""
        total = x.new_zeros(x.shape[0])
        for step, net in self._steps(c):
            x, log_det = step(x, net)
            total = total + log_det
        return Step(x, {"log_det": total})

    def relax(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Applies the inverse of f."""
        for step, net in reversed(self._steps(c)):
            z = step.inverse(z, net)
        return z

    @torch.no_grad()
    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Starts each actnorm at the first items as they come to it, without a label.

        Raises:
            TrainingError: there is one item only.
        """
        kept: list[Tensor] = []
        for batch in batches():
            kept.append(batch[: FITTED - sum(map(len, kept))])
            if sum(map(len, kept)) == FITTED:
                break
        x = torch.cat(kept)
        if len(x) < 2:
            raise TrainingError(
                f"actnorm starts at the scale of the data, and a batch of {len(x)} came, wanted at least 2; "
                "actnorm: false does without."
            )
        for step, net in self._steps(None):
            if step.actnorm is not None:
                step.actnorm.fit(x)
            x, _ = step(x, net)

    def _steps(self, c: Tensor | None) -> list[tuple[GlowStep, Net]]:
        pairs = zip(self.step, self.net, strict=True)
        return [(cast(GlowStep, step), partial(self._steered, net, c)) for step, net in pairs]

    def _steered(self, net: nn.Module, c: Tensor | None, x: Tensor) -> Tensor:
        if self.labels is None:
            return net(x)
        if c is None:
            return net(nn.functional.pad(x, (0, 0, 0, 0, 0, self.labels.size)))
        return net(with_label(x, c, self.labels))
