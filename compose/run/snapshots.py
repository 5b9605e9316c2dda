"""Samples over a training, kept where no bound says how it goes: beside a critic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from compose.core.model import ModelDensity
from compose.core.spaces import Space
from compose.run.directory import Run, write_bytes
from compose.run.pixels import tiled
from compose.run.plane import is_plane, span
from compose.run.sample import sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points of the plane, or images, in one snapshot, and how many snapshots a picture shows.
DOTS, ROW, SHOWN = 2500, 16, 6


def keep_snapshot(run: Run, phase: int, step: int, model: ModelDensity) -> None:
    """Draws from the same noise as at every other step, and keeps what comes of it."""
    from safetensors.torch import save as to_bytes

    x = sample(model, DOTS if is_plane(model.space) else ROW).cpu().contiguous()
    folder = run.path / "snapshots"
    folder.mkdir(exist_ok=True)
    write_bytes(folder / f"{phase}-{step}.safetensors", to_bytes({"x": x}))


def save_over_training(run: Run, data: Tensor, space: Space) -> Path | None:
    """Writes ``figures/training.png``, samples of the same noise after more and more steps; none where none were kept.

    Args:
        run: A run.
        data: Its training points; of a plane they say what part of it is shown.
        space: Space of one datum.
    """
    from matplotlib.figure import Figure
    from safetensors.torch import load_file

    files = sorted((run.path / "snapshots").glob("*.safetensors"), key=_when)
    if not files:
        return None
    picked = [files[round((i + 1) * len(files) / min(SHOWN, len(files))) - 1] for i in range(min(SHOWN, len(files)))]
    plane = is_plane(space)
    size = (2.6 * len(picked), 2.9) if plane else (9, 0.72 * len(picked))
    figure = Figure(figsize=size, layout="constrained")
    grid = (1, len(picked)) if plane else (len(picked), 1)
    panels: list[Axes] = figure.subplots(*grid, squeeze=False).ravel().tolist()
    for axes, file in zip(panels, picked, strict=True):
        x, (_, step) = load_file(file)["x"], _when(file)
        axes.set(xticks=[], yticks=[])
        if plane:
            left, right, bottom, top = span(data)
            axes.scatter(x[:, 0], x[:, 1], s=1, linewidths=0, alpha=0.6)
            axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", title=f"step {step:,}")
        else:
            axes.imshow(tiled(x, space, len(x)).numpy(), interpolation="nearest")
            axes.set_ylabel(f"{step:,}", rotation=0, ha="right", va="center")
    if not plane:
        figure.suptitle("samples of the same noise, by step", fontsize="medium")
    figure.savefig(run.figures / "training.png", dpi=110)
    return run.figures / "training.png"


def _when(file: Path) -> tuple[int, int]:
    phase, step = file.stem.split("-")
    return int(phase), int(step)
