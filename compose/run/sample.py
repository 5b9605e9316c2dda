"""Samples of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compose.core import random
from compose.core.drawing import AS_IT_IS, Drawing
from compose.core.errors import DataError, SpaceError
from compose.core.model import ModelDensity
from compose.core.spaces import Codes
from compose.data.array_file import ONLY, read_array, read_headers
from compose.data.source import SPLITS
from compose.run.compiled import compiled, explained
from compose.run.directory import Run

CHUNK = 500


def sample(
    run: Run | ModelDensity | str | Path,
    n: int = 64,
    seed: int = 0,
    label: int | None = None,
    compile: bool = False,
    how: Drawing = AS_IT_IS,
    means: bool = False,
) -> Tensor:
    """Draws from a trained model.

    Args:
        run: The run, its directory, or a model.
        n: How many.
        seed: Seed of the draws.
        label: Class to draw, for a conditional model; without it the classes take turns.
        compile: Whether to compile the model first; pays where samples are many.
        how: Temperature, limits and guidance, where the prior draws code by code.
        means: Whether to give the mean of the likelihood in place of a draw from it: free of its noise, and no sample;
            of levels a real number between them.

    Returns:
        ``(n, *space.shape)``.

    Raises:
        SpaceError: a label is asked of an unconditional model, or is none of its classes; or the prior does not draw
            code by code, and is to be sharpened; or there is no likelihood with a mean.
        CompileError: the model is to be compiled and cannot be.
    """
    if n < 1:
        raise SpaceError(f"{n} samples were asked for; wanted 1 at least.")
    model = _model(run)
    labels = _labels(model, n, label)
    draw: Callable[..., Tensor] = compiled(model) if compile else model
    given = {**({} if how is AS_IT_IS else {"how": how}), **({"means": True} if means else {})}
    with random.region(seed, "sample"), explained("leave --compile out") if compile else nullcontext():
        return torch.cat([draw(rows, c, call="sample", **given) for rows, c in _chunks(n, labels)])


@torch.no_grad()
def sample_with_means(
    model: ModelDensity, n: int, seed: int = 0, how: Drawing = AS_IT_IS
) -> tuple[Tensor, Tensor | None]:
    """Draws as ``sample``, and the means of the likelihood under the same latents, where it has any.

    The latents are drawn once, which is most of the work where the prior takes many steps.
    """
    drawn: list[Tensor] = []
    means: list[Tensor] | None = [] if len(model.stages) and model.stack[0].draws else None
    with random.region(seed, "sample"):
        for rows, c in _chunks(n, _labels(model, n, None)):
            z = model.latents(rows, c, how)
            drawn.append(model.generate(z, c))
            if means is not None:
                try:
                    with torch.random.fork_rng():  # stages in between may draw, and are to shift no sample
                        means.append(model.generate(z, c, means=True))
                except SpaceError:
                    means = None
    return torch.cat(drawn), None if means is None else torch.cat(means)


def _chunks(n: int, labels: Tensor | None) -> Iterator[tuple[int, Tensor | None]]:
    """How many are drawn at once, and the class of each."""
    for start in range(0, n, CHUNK):
        rows = min(CHUNK, n - start)
        yield rows, None if labels is None else labels[start : start + rows]


def complete(
    run: Run | ModelDensity | str | Path,
    x: Tensor,
    rows: int,
    seed: int = 0,
    label: int | Tensor | None = None,
    how: Drawing = AS_IT_IS,
) -> Tensor:
    """Fills in images from their upper rows.

    Args:
        run: The run, its directory, or a model; of codes drawn step by step: the data, or what a stage makes of them.
        x: The images, ``(n, *space.shape)``.
        rows: How many rows of each are kept.
        seed: Seed of the draws.
        label: Class to draw, for a conditional model, or that of each image, ``(n,)``; without it classes take turns.
        how: Temperature, limits and guidance; what it knows is replaced.

    Raises:
        SpaceError: the model does not draw code by code, ``x`` is no batch of its data, or a label is none of its
            classes.
    """
    model = _model(run)
    if not model.prior.incremental or not all(stage.certain for stage in model.stack):
        raise SpaceError(
            "this model does not draw code by code, so it cannot go on from a part; an 'autoregressive' or 'masked' "
            "prior can, of the data or above a stage 'codes'."
        )
    model.space.check_values(x, "what is to be completed")
    labels = _labels(model, len(x), label)
    with random.region(seed, "sample"), torch.no_grad():
        below = model.space.grid[0]
        if not 0 <= rows <= below:
            raise SpaceError(f"{rows} rows are to be kept, and an item of {model.space} has {below}.")
        kept = torch.arange(below, device=x.device).reshape(-1, *[1] * (len(model.space.grid) - 1)) < rows
        # Nothing of what is to be filled in may reach the encoder. A row of codes is kept where all its pixels are.
        seen = model.encode(torch.where(kept, x, torch.zeros_like(x)), labels)
        known = model.prior.beginning(seen, rows * model.prior.space.grid[0] // below)
        return torch.where(kept, x, model.sample(len(x), labels, replace(how, known=known)))


def images(run: Run, which: str, n: int) -> tuple[Tensor, Tensor | None]:
    """The first data of a split of a run and their classes, or of a ``.npy`` file, without.

    Args:
        run: The run.
        which: train, validation, test, or the file.
        n: How many at most.

    Raises:
        SpaceError: there is no such file, or it holds no data of the run's space.
    """
    if which in SPLITS:
        split = run.recipe.data.load().split(which)
        return split.x[:n], None if split.y is None else split.y[:n]
    (space, _), path = run.recipe.spaces(), Path(which)
    said = f"{which} is neither {', '.join(SPLITS)} nor a .npy file of images"
    if path.suffix != ".npy":
        raise SpaceError(f"{said}.")
    try:
        header, values = read_headers(path)[ONLY], read_array(path, ONLY)
    except DataError as error:
        raise SpaceError(f"{said}: {error}") from error
    if not values.size:
        raise SpaceError(f"{which} holds no image.")
    kind = np.int64 if header.kind == "integer" else np.float32
    x = torch.from_numpy(np.array(values[:n] if values.ndim else values, kind))
    space.check_values(x, which)
    return x, None


def _model(run: Run | ModelDensity | str | Path) -> ModelDensity:
    return run if isinstance(run, ModelDensity) else (run if isinstance(run, Run) else Run(run)).model()


def _labels(model: ModelDensity, n: int, label: int | Tensor | None) -> Tensor | None:
    if isinstance(label, Tensor):
        return _of_each(model, n, label)
    if not isinstance(model.condition, Codes):
        if label is not None:
            raise SpaceError(
                f"label {label} was asked for, but the model is unconditional; train with data.labels=true."
            )
        return None
    if label is not None and not 0 <= label < model.condition.size:
        raise SpaceError(f"label {label} was asked for, but the classes are 0 to {model.condition.size - 1}.")
    at = next((each.device for each in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    if label is None:
        return torch.arange(n, device=at) % model.condition.size
    return torch.full((n,), label, device=at)


def _of_each(model: ModelDensity, n: int, labels: Tensor) -> Tensor | None:
    """The classes of images, where the model is told any."""
    if not isinstance(model.condition, Codes):
        return None
    model.condition.check_values(labels, "label")
    if len(labels) != n:
        raise SpaceError(f"{len(labels)} labels came with {n} images; wanted one for each.")
    return labels
