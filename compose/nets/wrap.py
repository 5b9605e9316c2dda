"""Any torch module as a network: handed over in Python, or registered under a name for recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from pydantic import field_serializer
from torch import Tensor, nn

from compose.core import registry
from compose.core.declare import Misfit, NetPart, Slot
from compose.core.errors import SpaceError
from compose.core.spaces import Real

Factory = Callable[[tuple[int, ...], tuple[int, ...]], nn.Module]


def module(name: str) -> Callable[[Factory], Factory]:
    """Registers a function ``(takes_shape, gives_shape) -> torch module`` that recipes name; for plugins.

    Example:
        >>> @module("one_layer")
        ... def one_layer(takes, gives):
        ...     return nn.Sequential(nn.Flatten(), nn.LazyLinear(gives[0]))
    """

    def keep(factory: Factory) -> Factory:
        registry.modules[name] = factory
        return factory

    return keep


@module("linear")
def linear(takes: tuple[int, ...], gives: tuple[int, ...]) -> nn.Module:
    """One matrix."""
    return nn.Sequential(nn.Flatten(), nn.Linear(Real(takes).dim, Real(gives).dim), nn.Unflatten(1, gives))


class Wrap(NetPart):
    """A torch module used as it is; its output is checked against the shape that is wanted, before training."""

    type: ClassVar[str] = "wrap"
    source: ClassVar[str] = "your own"

    module: str | nn.Module | Callable[..., Any] = "linear"
    """A registered name (``linear`` is shipped), or in Python a module, or a function of the two shapes."""

    @field_serializer("module", when_used="json")
    def _name(self, value: object) -> str:
        return value if isinstance(value, str) else f"<{value.__class__.__name__}>"

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """The name is registered, and the module gives what is wanted (tried without memory, on the meta device)."""
        if isinstance(self.module, str) and self.module not in registry.modules:
            yield Misfit(
                f"no torch module is registered as {self.module!r}; there is: {', '.join(sorted(registry.modules))}.",
                key="module",
                swap=False,
            )
            return
        if slot.condition is not None and not isinstance(self.module, nn.Module):
            try:
                with torch.device("meta"):
                    self._try(self._make(slot), slot)
            except SpaceError as error:
                yield Misfit(str(error), key="module", swap=False)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The module.

        Raises:
            SpaceError: it does not map the one space to the other.
        """
        net = self._make(slot)
        if isinstance(self.module, nn.Module):
            self._try(net, slot)
        return net

    def _make(self, slot: Slot) -> nn.Module:
        assert slot.condition is not None, "a net was built without an input"
        if isinstance(self.module, nn.Module):
            return self.module
        factory = registry.modules[self.module] if isinstance(self.module, str) else self.module
        return factory(slot.condition.shape, slot.space.shape)

    def _try(self, net: nn.Module, slot: Slot) -> None:
        assert slot.condition is not None, "a net was built without an input"
        first: Tensor | None = next(net.parameters(), None)
        x = torch.zeros(2, *slot.condition.shape, device=None if first is None else first.device)
        try:
            with torch.no_grad():
                came = tuple(net(x).shape[1:])
        except Exception as error:
            raise SpaceError(f"the wrapped module fails on {slot.condition}: {str(error).splitlines()[0]}") from error
        if slot.strict and came != slot.space.shape:
            raise SpaceError(f"the wrapped module gives shape {came}, but {slot.space} is wanted of it here.")
