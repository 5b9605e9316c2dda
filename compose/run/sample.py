"""Samples of a trained model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from compose.core import random
from compose.core.errors import SpaceError
from compose.core.model import ModelDensity
from compose.core.spaces import Codes
from compose.run.directory import Run

CHUNK = 500


def sample(run: Run | ModelDensity | str | Path, n: int = 64, seed: int = 0, label: int | None = None) -> Tensor:
    """Draws from a trained model.

    Args:
        run: The run, its directory, or a model.
        n: How many.
        seed: Seed of the draws.
        label: Class to draw, for a conditional model; without it the classes take turns.

    Returns:
        ``(n, *space.shape)``.

    Raises:
        SpaceError: a label is asked of an unconditional model, or is none of its classes.
    """
    if n < 1:
        raise SpaceError(f"{n} samples were asked for; wanted 1 at least.")
    model = run if isinstance(run, ModelDensity) else (run if isinstance(run, Run) else Run(run)).model()
    labels = _labels(model, n, label)
    with random.region(seed, "sample"):
        rows = [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]
        return torch.cat([model.sample(r.stop - r.start, None if labels is None else labels[r]) for r in rows])


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
