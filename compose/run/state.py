"""Checkpoints: all tensors of a training and its counters in one file, written in one step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from compose.core.errors import RunError
from compose.run.directory import write_bytes
from compose.run.weights import put, read_tensors


def save(path: Path, modules: dict[str, nn.Module], optimizers: dict[str, Optimizer], counters: dict[str, Any]) -> None:
    """Writes a checkpoint.

    Args:
        path: The file.
        modules: Name -> module; their parameters and buffers are kept.
        optimizers: Name -> optimizer; their tensors are kept in the order of its parameters.
        counters: Everything else, as JSON can hold it.
    """
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors.update({f"{name}/{key}": value for key, value in module.state_dict().items()})
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors.update({f"{name}/{index}/{key}": value for key, value in state.items()})
    # Tied tensors would be refused; a copy each costs little and keeps every name.
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    write_bytes(path, to_bytes(tensors, {"counters": json.dumps(counters)}))


def restore(path: Path, modules: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> None:
    """Puts a checkpoint back into modules and optimizers of the same form.

    Raises:
        RunError: it cannot be read, or is of other modules.
    """
    tensors = read_tensors(path)
    for name, module in modules.items():
        start = f"{name}/"
        put(module, {key.removeprefix(start): tensors[key] for key in tensors if key.startswith(start)}, path)
    for name, optimizer in optimizers.items():
        form = optimizer.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"{name}/"):
                index, entry = key.removeprefix(f"{name}/").split("/")
                state.setdefault(int(index), {})[entry] = value
        # Rates are set afresh every step, so the form of the new optimizer serves as it is.
        optimizer.load_state_dict({"state": state, "param_groups": form["param_groups"]})


def counters(path: Path) -> dict[str, Any]:
    """The counters of a checkpoint.

    Raises:
        RunError: there is no checkpoint, or it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RunError(f"{path.parent} holds no {path.name}, so there is nothing to go on from.")
    try:
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["counters"])
    except SafetensorError as error:
        raise RunError(f"{path} cannot be read as a checkpoint: {error}.") from error


def save_model(path: Path, model: nn.Module) -> None:
    """Writes weights alone, in one step."""
    from safetensors.torch import save as to_bytes

    weights = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    write_bytes(path, to_bytes(weights))
