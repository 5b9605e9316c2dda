"""Samples of a trained model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from compose.core import random
from compose.core.errors import SpaceError
from compose.core.model import ModelDensity
from compose.core.spaces import Codes
from compose.run.compiled import compiled, explained
from compose.run.directory import Run

CHUNK = 500


def sample(
    run: Run | ModelDensity | str | Path, n: int = 64, seed: int = 0, label: int | None = None, compile: bool = False
) -> Tensor:
    """Draws from a trained model.

    Args:
        run: The run, its directory, or a model.
        n: How many.
        seed: Seed of the draws.
        label: Class to draw, for a conditional model; without it the classes take turns.
        compile: Whether to compile the model first; pays where samples are many.

    Returns:
        ``(n, *space.shape)``.

    Raises:
        SpaceError: a label is asked of an unconditional model, or is none of its classes.
        CompileError: the model is to be compiled and cannot be.
    """
    if n < 1:
        raise SpaceError(f"{n} samples were asked for; wanted 1 at least.")
    model = run if isinstance(run, ModelDensity) else (run if isinstance(run, Run) else Run(run)).model()
    labels = _labels(model, n, label)
    draw: Callable[..., Tensor] = compiled(model) if compile else model
    with random.region(seed, "sample"), explained("leave --compile out") if compile else nullcontext():
        rows = [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
        picked = [None if labels is None else labels[r] for r in rows]
        return torch.cat([draw(r.stop - r.start, c, call="sample") for r, c in zip(rows, picked, strict=True)])


def _labels(model: ModelDensity, n: int, label: int | None) -> Tensor | None:
    if not isinstance(model.condition, Codes):
        if label is not None:
            raise SpaceError(
                f"label {label} was asked for, but the model is unconditional; train with data.labels=true."
            )
        return None
    if label is not None and not 0 <= label < model.condition.size:
        raise SpaceError(f"label {label} was asked for, but the classes are 0 to {model.condition.size - 1}.")
    return torch.arange(n) % model.condition.size if label is None else torch.full((n,), label)
