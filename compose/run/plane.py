"""Pictures of the plane: of a model's training points, density and samples, and of a latent of two numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.spaces import Real, Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points of data and of samples that are drawn, and cells a side of the density.
POINTS, CELLS = 5000, 200

Window = tuple[float, float, float, float]


def is_plane(space: Space) -> bool:
    """Whether an item is a point of the plane."""
    return space == Real((2,))


def save_plane(x: Tensor, model: ModelDensity, data: Tensor, path: str | Path) -> Path:
    """Writes training points, density and samples side by side, on the same window.

    The density is ``exp(L)`` on a grid where the model has an exact one without a condition, else a histogram of the
    samples.

    Args:
        x: Samples, ``(n, 2)``.
        model: What they are from.
        data: Training points, ``(m, 2)``.
        path: A png file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, 3))
    window = span(data)
    exact = model.kind is Kind.EXACT and model.condition is None
    _dots(panels[0], data, "training data")
    _dots(panels[2], x, "samples")
    density = _density(model, window) if exact else _histogram(x.cpu(), window)
    panels[1].imshow(density.numpy(), extent=window, origin="lower", aspect="auto", cmap="magma")
    panels[1].set_title("density of the model" if exact else f"histogram of {len(x)} samples")
    for axes in panels:
        axes.set(xlim=window[:2], ylim=window[2:], aspect="equal")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, bbox_inches="tight")
    return Path(path)


def save_latent(drawn: Mapping[str, Tensor], path: str | Path) -> Path:
    """Writes draws of one latent side by side, on the window of the first.

    Args:
        drawn: What they are from, and points, ``(n, 2)``.
        path: A png file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(drawn), 4.2), layout="constrained")
    window = span(next(iter(drawn.values()))[:POINTS].cpu())
    for axes, (title, points) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True):
        _dots(axes, points, title)
        axes.set(xlim=window[:2], ylim=window[2:], aspect="equal")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, bbox_inches="tight")
    return Path(path)


def _dots(axes: Axes, points: Tensor, title: str) -> None:
    shown = points[:POINTS].cpu().numpy()
    axes.scatter(shown[:, 0], shown[:, 1], s=2, linewidths=0, alpha=0.6)
    axes.set_title(f"{title}, {len(shown)} points")


def span(data: Tensor) -> Window:
    """What the data span, and a tenth more on each side."""
    low, high = data.min(0).values, data.max(0).values
    margin = 0.1 * (high - low).clamp_min(1e-3)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    return left, right, bottom, top


@torch.no_grad()
def _density(model: ModelDensity, window: Window) -> Tensor:
    """``exp(L)`` at the middle of each cell, ``(y, x)``."""
    left, right, bottom, top = window
    at = (torch.arange(CELLS) + 0.5) / CELLS
    y, x = torch.meshgrid(bottom + at * (top - bottom), left + at * (right - left), indexing="ij")
    grid = torch.stack([x, y], -1).flatten(0, 1)
    rows = [model.log_prob(part).exp() for part in grid.split(CELLS * 20)]
    return torch.cat(rows).reshape(CELLS, CELLS)


def _histogram(x: Tensor, window: Window) -> Tensor:
    left, right, bottom, top = window
    return torch.histogramdd(x, bins=[CELLS // 4] * 2, range=[left, right, bottom, top]).hist.T
