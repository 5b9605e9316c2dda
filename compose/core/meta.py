"""Modules without memory: how they are wired and how large they are, before any weight exists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def without_memory() -> Iterator[None]:
    """Every parameter that a module registers inside goes to torch's meta device: it has a shape and no memory.

    Buffers stay real, since some layers index with them while they are built.
    """

    # torch takes what a hook returns, though its annotation has none.
    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        return None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    normal_ = Tensor.normal_

    # Without memory there is nothing to fill; torch would import its compiler to find that out, for longer than itself.
    def filled(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if tensor.is_meta else normal_(tensor, *args, **kwargs)

    handle = nn.modules.module.register_module_parameter_registration_hook(to_meta)
    setattr(Tensor, "normal_", filled)  # noqa: B010 (torch's own stands in a base class)
    try:
        yield
    finally:
        delattr(Tensor, "normal_")
        handle.remove()
