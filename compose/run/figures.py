"""Pictures of a run: samples, reconstructions beside their originals, the curve of the training."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compose.core import random
from compose.core.drawing import AS_IT_IS, Drawing
from compose.core.errors import SpaceError
from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.solvers import stepwise
from compose.core.spaces import Space
from compose.data.source import Source
from compose.run.ceiling import is_standard, last_drawn
from compose.run.directory import Run
from compose.run.pixels import tiled
from compose.run.plane import POINTS, is_plane, save_latent, save_plane
from compose.run.sample import complete, sample
from compose.run.snapshots import save_over_training

SIDE = 320
GRID, SHOWN, COLUMNS = 64, 32, 8
COMPLETIONS = 6
NOT_NATS = ("phase", "player", "step", "lr", "skipped", "seconds", "gradient norm", "accuracy", "slope", "r1", "r2")


def save_samples(
    run: Run,
    path: str | Path,
    n: int | None = None,
    seed: int = 0,
    label: int | None = None,
    compile: bool = False,
    how: Drawing = AS_IT_IS,
    means: bool = False,
) -> Path:
    """Draws from a run into one picture: a grid of images, or of the plane the points beside data and density.

    Args:
        run: A finished run.
        path: A png file.
        n: How many; 64, or of the plane 5000, by default.
        seed: Seed of the draws.
        label: Class to draw, for a conditional model; without it the classes take turns.
        compile: Whether to compile the model first.
        how: Temperature, limits and guidance, where the prior draws code by code.
        means: Whether to show the mean of the likelihood in place of a draw from it.

    Raises:
        SpaceError: a label is asked of an unconditional model, or is none of its classes; or there is nothing to
            sharpen, or no likelihood with a mean.
        CompileError: the model is to be compiled and cannot be.
    """
    model = run.model()
    plane = is_plane(model.space)
    x = sample(model, n if n is not None else POINTS if plane else GRID, seed, label, compile, how, means)
    return save_plane(x, model, run.recipe.data.load().train.x, path) if plane else save_grid(x, model.space, path)


def save_completions(
    run: Run,
    path: str | Path,
    x: Tensor,
    rows: int,
    seed: int = 0,
    label: int | Tensor | None = None,
    how: Drawing = AS_IT_IS,
) -> Path:
    """Fills in images from their upper rows, several times each, into one picture.

    Each row of it shows an image, what is kept of it, and what was made of that, six times.

    Args:
        run: A finished run.
        path: A png file.
        x: The images, ``(n, *space.shape)``.
        rows: How many rows of each are kept.
        seed: Seed of the draws.
        label: Class to draw, for a conditional model, or that of each image, ``(n,)``; without it classes take turns.
        how: Temperature, limits and guidance.

    Raises:
        SpaceError: the model does not draw its data code by code, or the images are no data of it.
    """
    model = run.model()
    if len(model.space.shape) < 2:
        raise SpaceError(f"an item of {model.space} has no rows to show; compose.complete in Python goes on from any.")
    label = label.repeat_interleave(COMPLETIONS) if isinstance(label, Tensor) else label
    filled = complete(model, x.repeat_interleave(COMPLETIONS, 0), rows, seed, label, how)
    kept = x.clone()
    kept[..., rows:, :] = 0
    shown = [torch.stack([x, kept], 1), filled.unflatten(0, (len(x), COMPLETIONS)).to(x.dtype)]
    return save_grid(torch.cat(shown, 1).flatten(0, 1), model.space, path, 2 + COMPLETIONS)


def save_grid(x: Tensor, space: Space, path: str | Path, columns: int | None = None) -> Path:
    """Writes images as one picture with a thin line between them.

    Args:
        x: ``(n, channels, height, width)`` of 1 or 3 channels, or anything that is drawn as rows of numbers.
        space: Space of one image; codes are scaled by their size, reals so that all but the farthest hundredth fit.
        path: A png file.
        columns: Images in a row; a square by default.
    """
    from PIL import Image

    image = Image.fromarray(tiled(x, space, columns).numpy())
    scale = max(1, SIDE // max(1, min(image.size)))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)
    return Path(path)


def draw(run: Run) -> list[Path]:
    """Writes every picture of a finished run into its ``figures``."""
    model, source = run.model(), run.recipe.data.load()
    pictures = [save_samples(run, run.figures / "samples.png")]
    if len(model.stages) and model.kind is not Kind.NONE and not is_plane(model.space):
        pictures.append(_reconstructions(model, source, run.figures / "reconstructions.png"))
    if (latent := _latent(model, source, run.figures / "latent.png")) is not None:
        pictures.append(latent)
    if (training := save_over_training(run, source.train.x, model.space)) is not None:
        pictures.append(training)
    return [*pictures, curve(run, "~" if stepwise(model) else model.kind.tilde)]


def _reconstructions(model: ModelDensity, source: Source, path: Path) -> Path:
    """Test examples, and below each row of them what becomes of it on the way up and down."""
    count = min(SHOWN, len(source.test))
    count -= count % COLUMNS if count > COLUMNS else 0
    x = source.test.x[:count]
    with random.region(0, "reconstructions"):
        again = model.reconstruct(x, None if source.test.y is None else source.test.y[:count])
    rows = zip(x.split(COLUMNS), again.to(x.dtype).split(COLUMNS), strict=True)
    return save_grid(torch.cat([part for pair in rows for part in pair]), source.space, path, min(COLUMNS, len(x)))


def _latent(model: ModelDensity, source: Source, path: Path) -> Path | None:
    """What test examples become in a last latent of two numbers, beside what its prior draws; none of any other."""
    edge = last_drawn(model)
    if edge is None or not is_plane(model.stack[edge].above):
        return None
    part = source.test.thinned(POINTS)
    with random.region(0, "latent"), torch.no_grad():
        up, down = model.meet(part.x, part.y, edge + 1)
        drawn = {f"q(z{edge + 1}), test examples": up, f"p(z{edge + 1})": down, "N(0, I)": torch.randn_like(up)}
    if is_standard(model):
        del drawn["N(0, I)"]
    return save_latent(drawn, path)


def curve(run: Run, about: str = "") -> Path:
    """Draws loss, its views and the validation bound against steps.

    Args:
        run: Of a finished training.
        about: What stands before a validation number that is an estimate.
    """
    from matplotlib.figure import Figure

    curves = _curves(run.metrics())
    apart = [curves.pop(name) for name in list(curves) if name.startswith("denoising")]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes, markers = figure.subplots(), cycle("os^")
    for name, (steps, values) in curves.items():
        if name.startswith("validation "):
            label = f"validation {about}{name.removeprefix('validation ')}"
            axes.plot(steps, values, label=label, marker=next(markers), color="black")
        else:
            axes.plot(steps, values, label=name, linewidth=1)
    if apart:
        axes.plot([], [], color="tab:brown", linewidth=1, label="denoising, on the right")
        right = axes.twinx()
        for steps, values in apart:
            right.plot(steps, values, color="tab:brown", linewidth=1)
        right.set(ylabel="denoising loss, no nats", ylim=(0, None))
    positive = sorted(value for _, values in curves.values() for value in values if value > 0)
    if positive:
        # The first steps are so much dearer than the last that they would hide everything.
        axes.set_ylim(0, 1.05 * positive[int(0.98 * (len(positive) - 1))])
    axes.set(xlabel="step", ylabel="nats per example")
    axes.legend(frameon=False)
    figure.savefig(run.figures / "curve.png", dpi=120)
    return run.figures / "curve.png"


def _curves(lines: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Steps, counted over all phases, and values of each metric that is in nats, and of the denoising loss."""
    ends: dict[int, int] = {}
    for line in lines:
        ends[line["phase"]] = line["step"]
    found: dict[str, tuple[list[int], list[float]]] = {}
    for line in lines:
        before = sum(end for phase, end in ends.items() if phase < line["phase"])
        player = f" of player {line['player']}" if "player" in line else ""
        # The loss of a phase that denoises is that alone, and not in nats.
        apart = ("loss",) if "denoising" in line else ()
        known = (name for name, value in line.items() if value is not None and name not in apart)
        for name in (name for name in known if not name.endswith(NOT_NATS)):
            steps, values = found.setdefault(name + player, ([], []))
            steps.append(before + line["step"])
            values.append(line[name])
    return dict(sorted(found.items()))
