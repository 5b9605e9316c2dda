"""Residual multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional

from compose.core.declare import NetPart, Slot
from compose.core.spaces import Real, Space
from compose.nets.steering import Modulation, Steering, modulated


class ResMLP(NetPart):
    """Normalised residual layers of one width; items of any shape are flattened first and shaped in the end.

    What steers it, as a time does, scales and shifts the features of each block.
    """

    type: ClassVar[str] = "resmlp"
    source: ClassVar[str] = "He et al. 2015, arXiv:1512.03385; steered: Perez et al. 2017, arXiv:1709.07871"
    steered: ClassVar[bool] = True

    # Normalised, fewer than four numbers hold next to nothing.
    width: Annotated[int, Ge(4), Le(16384)] = 256
    """Numbers between the blocks."""
    blocks: Annotated[int, Ge(1), Le(256)] = 3
    """How many residual blocks of two layers."""

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The network between the slot's two spaces."""
        assert isinstance(slot.condition, Real) and isinstance(slot.space, Real)
        return ResMLPNet(slot.condition, slot.space, self, slot.steer)


class ResMLPNet(nn.Module):
    """Maps ``(batch, *takes.shape)`` to ``(batch, *gives.shape)``.

    Args:
        takes: Space of the input.
        gives: Space of the output.
        options: Width and depth.
        steer: Space of a vector beside the input; none where there is none.
    """

    def __init__(self, takes: Real, gives: Real, options: ResMLP, steer: Space | None = None) -> None:
        super().__init__()
        width = options.width
        self.steering = Steering(steer, width)
        self.enter = nn.Linear(takes.dim, width)
        self.blocks = nn.ModuleList(_Block(width, 0 if steer is None else width) for _ in range(options.blocks))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, gives.dim)
        self.shape = gives.shape

    def forward(self, x: Tensor, steer: Tensor | None = None) -> Tensor:
        """Applies all blocks."""
        steer = self.steering(steer)
        h = self.enter(x.flatten(1))
        for block in self.blocks:
            h = block(h, steer)
        return self.leave(functional.silu(self.norm(h))).unflatten(1, self.shape)


class _Block(nn.Module):
    def __init__(self, width: int, steered: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = Modulation(steered, width)
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor, steer: Tensor | None) -> Tensor:
        y = modulated(self.norm(h), self.modulation(steer))
        return h + self.last(functional.silu(self.first(functional.silu(y))))
