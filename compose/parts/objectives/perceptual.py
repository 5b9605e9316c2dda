"""Images beside their reconstructions, as a network sees both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.core.declare import Misfit, ObjectivePart, Part, Slot, as_real, part_field
from compose.core.errors import SpaceError
from compose.core.kinds import Kind
from compose.core.meta import without_memory
from compose.core.objective import Loss, Objective
from compose.core.roles import stages_of, without_latent
from compose.core.spaces import Codes, Real
from compose.core.terms import Ledger

#: How many numbers a network is asked for; its layers are looked at, so that any other would do as well.
GIVES = Real((64,))
#: What is looked at of it.
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
NOTHING = (
    "'perceptual' compares what the layers of its network give, and this one has none of "
    f"{', '.join(f'nn.{each.__name__}' for each in LAYERS)}."
)


class Perceptual(ObjectivePart):
    """Minimises how far apart data and reconstructions are in the layers of a frozen network; no likelihood.

    At each layer the channels of a place are scaled to length 1; the squared distance is averaged over places and added
    up over layers. A likelihood trained beside it no longer has the scale that its own data would give it: fit that
    again, in a phase of its own.
    """

    type: ClassVar[str] = "perceptual"
    source: ClassVar[str] = "Johnson et al. 2016, arXiv:1603.08155; Zhang et al. 2018, arXiv:1801.03924"
    one_sided: ClassVar[bool] = True

    network: part_field("net") | None = None  # type: ignore[valid-type]
    """What both are looked at by, frozen: by ``wrap`` any module; by default a classifier of the data set."""

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """There are reconstructions, and a gradient to what makes them; the network has layers to look at."""
        for network, place in self.nested(slot).values():
            if not any(network.misfits(place)):
                with without_memory():
                    found = _layers(network.build(place))
                if not found:
                    yield Misfit(NOTHING, key="network", swap=False)
        stages = stages_of(slot)
        if (missing := without_latent(self.type, stages)) is not None:
            yield missing
            return
        for i, (stage, place) in enumerate(stages, 1):
            way = "up" if stage.kind(place) is Kind.NONE else "" if stage.descends else "down with a gradient"
            if way:
                said = f"no way leads {way} through stage {i}, '{stage.type}'"
                yield Misfit(f"'{self.type}' is of reconstructions, and {said}.", swap=False)
            if i > 1 and isinstance(place.space, Codes):
                said = f"no gradient leads down through the codes that stage {i - 1}, '{stages[i - 2][0].type}', gives"
                yield Misfit(f"'{self.type}' is of reconstructions, and {said}.", swap=False)

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """The network takes a datum as nets see it."""
        place = Slot("net", GIVES, as_real(slot.space), strict=False)
        return {} if self.network is None else {"network": (self.network, place)}

    @property
    def reaches(self) -> tuple[str, ...]:
        """The stages alone."""
        return ("stages",)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The objective."""
        return PerceptualObjective(children.get("network"))


class PerceptualObjective(Objective):
    """The distance in all linear layers of a network.

    Args:
        network: What both are looked at by; none where one will be handed over.
    """

    judged_by = "distortion"

    def __init__(self, network: nn.Module | None) -> None:
        super().__init__()
        self.perceives = network is None
        # Not a part of it: nothing of the network is trained, and nothing is kept in checkpoints.
        self.network: list[nn.Module] = []
        if network is not None:
            self.receive(network)

    def receive(self, network: nn.Module) -> None:
        """Takes the network and freezes it.

        Raises:
            SpaceError: it has no layer to look at.
        """
        if not _layers(network):
            raise SpaceError(NOTHING)
        self.network[:] = [network.eval().requires_grad_(False)]

    def forward(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """The mean distance of the batch."""
        seen, back = model(x, c, call="mirror")
        with torch.no_grad():
            wanted = self._layers(seen)
        distance = sum((a - b).square().sum(1).mean(1) for a, b in zip(wanted, self._layers(back), strict=True))
        assert isinstance(distance, Tensor)
        return Loss(distance.mean(), Ledger({}, {"x.perceptual": distance}, {}))

    def _layers(self, x: Tensor) -> list[Tensor]:
        """What each linear layer gives, ``(batch, channels, places)``, the channels of a place scaled to length 1."""
        # It does not move with the objective that it is no part of.
        network = self.network[0].to(x.device)
        found: list[Any] = []
        handles = [
            layer.register_forward_hook(lambda _, given, gives: found.append(gives)) for layer in _layers(network)
        ]
        try:
            network(x.to(next(network.parameters()).dtype))
        finally:
            for handle in handles:
                handle.remove()
        return [functional.normalize(each, dim=1).reshape(*each.shape[:2], -1) for each in found]


def _layers(network: nn.Module) -> list[nn.Module]:
    """What of a network is looked at."""
    return [module for module in network.modules() if isinstance(module, LAYERS)]
