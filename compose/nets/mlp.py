"""Multi-layer perceptrons, plain and gated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional

from compose.core.declare import NetPart, Slot
from compose.core.spaces import Real

Activation = Literal["relu", "gelu", "silu", "tanh", "elu"]


class MLP(NetPart):
    """Fully connected layers; items of any shape are flattened on the way in and shaped on the way out."""

    type: ClassVar[str] = "mlp"
    source: ClassVar[str] = "gated layers: Tomczak and Welling 2018, arXiv:1705.07120"

    hidden: list[Annotated[int, Ge(1), Le(16384)]] = [256, 256]
    """Widths of the hidden layers; an empty list gives a linear map."""
    activation: Activation = "relu"
    """Nonlinearity of plain layers."""
    gated: bool = False
    """Layers ``A(x) * sigmoid(B(x))`` instead of ``activation(A(x))``."""

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The network between the slot's two spaces."""
        assert isinstance(slot.condition, Real) and isinstance(slot.space, Real)
        return MLPNet(slot.condition, slot.space, self.hidden, self.activation, self.gated)


class MLPNet(nn.Module):
    """Maps ``(batch, *takes.shape)`` to ``(batch, *gives.shape)``.

    Args:
        takes: Space of the input.
        gives: Space of the output.
        hidden: Widths of the hidden layers.
        activation: Name of the nonlinearity.
        gated: Whether layers are gated by a sigmoid.
    """

    def __init__(
        self, takes: Real, gives: Real, hidden: list[int], activation: str = "relu", gated: bool = False
    ) -> None:
        super().__init__()
        kinds = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "elu": nn.ELU}
        layers: list[nn.Module] = []
        width = takes.dim
        for out in hidden:
            layers += [Gated(width, out)] if gated else [nn.Linear(width, out), kinds[activation]()]
            width = out
        self.layers = nn.Sequential(*layers, nn.Linear(width, gives.dim))
        self.shape = gives.shape

    def forward(self, x: Tensor) -> Tensor:
        """Applies all layers."""
        y = x if x.dim() == 2 else x.flatten(1)
        for layer in self.layers:
            y = layer(y)
        return y.unflatten(1, self.shape) if len(self.shape) > 1 else y


class Gated(nn.Module):
    """A gated linear layer, ``A(x) * sigmoid(B(x))``, as one matrix product.

    Args:
        takes: Width of the input.
        gives: Width of the output.
    """

    def __init__(self, takes: int, gives: int) -> None:
        super().__init__()
        self.linear = nn.Linear(takes, 2 * gives)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, takes)`` to ``(batch, gives)``."""
        return functional.glu(self.linear(x), dim=-1)
