"""Weights on disk: read, and put into a model only where they are of that model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from compose.core.errors import RunError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        RunError: it cannot be read, or was cut off.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} cannot be read as weights: {error}.") from error


def put(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Puts tensors into a module of the same form.

    Args:
        module: What takes them; nothing of it is changed where they do not fit.
        tensors: By the names of its parameters and buffers.
        path: Where they came from, for messages.

    Raises:
        RunError: they are of another module; says which of them, and how it differs.
    """
    own = module.state_dict()
    wrong = [name for name in sorted(own.keys() | tensors.keys()) if _form(own, name) != _form(tensors, name)]
    if wrong:
        more = f" ({len(wrong)} differ)" if len(wrong) > 1 else ""
        raise RunError(
            f"{path} holds the weights of another model than the recipe's: {wrong[0]} is "
            f"{_form(tensors, wrong[0])} there and {_form(own, wrong[0])} in the recipe{more}. Put back the recipe it "
            "was trained by, or train anew."
        )
    module.load_state_dict(dict(tensors))


def load_model(path: Path, model: nn.Module) -> None:
    """Reads weights into a model of the same form.

    Raises:
        RunError: as ``read_tensors`` and ``put``.
    """
    put(model, read_tensors(path), path)


def _form(tensors: Mapping[str, Tensor], name: str) -> str:
    if name not in tensors:
        return "absent"
    return "x".join(str(side) for side in tensors[name].shape) or "one number"
