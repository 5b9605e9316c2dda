"""Pictures of a run: samples, reconstructions beside their originals, the curve of the training."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from compose.core import random
from compose.core.spaces import Codes, Space
from compose.run.directory import Run
from compose.run.sample import sample

SIDE = 320


def save_grid(x: Tensor, space: Space, path: str | Path, columns: int | None = None) -> Path:
    """Writes images as one picture with a thin line between them.

    Args:
        x: ``(n, channels, height, width)`` of 1 or 3 channels, or anything that is drawn as rows of numbers.
        space: Space of one image; codes are scaled by their size.
        path: A png file.
        columns: Images in a row; a square by default.
    """
    from PIL import Image

    grey = _unit(x, space)
    n = len(grey)
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    blank = torch.ones(rows * columns - n, *grey.shape[1:])
    framed = torch.nn.functional.pad(torch.cat([grey, blank]), (0, 1, 0, 1), value=0.5)
    picture = rearrange(framed, "(r c) k h w -> (r h) (c w) k", c=columns)
    pixels = (picture * 255).round().to(torch.uint8).expand(-1, -1, 3).contiguous().numpy()
    image = Image.fromarray(pixels)
    scale = max(1, SIDE // max(1, min(image.size)))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)
    return Path(path)


def _unit(x: Tensor, space: Space) -> Tensor:
    x = x.detach().cpu().float()
    x = x / (space.size - 1) if isinstance(space, Codes) else (x - x.min()) / (x.max() - x.min()).clamp_min(1e-9)
    if x.dim() != 4 or x.shape[1] not in (1, 3):
        x = x.reshape(len(x), 1, 1, -1)
    return x.clamp(0, 1)


def draw(run: Run) -> list[Path]:
    """Writes every picture of a finished run into its ``figures``."""
    model, source = run.model(), run.recipe.data.load()
    pictures = [save_grid(sample(model, 64), source.space, run.figures / "samples.png")]
    if len(model.stages):
        x = source.test.x[:32]
        c = None if source.test.y is None else source.test.y[:32]
        with random.region(0, "reconstructions"):
            again = model.reconstruct(x, c)
        pairs = rearrange([x.long(), again.long()], "two (r c) k h w -> (r two c) k h w", c=8) if x.dim() == 4 else again
        pictures.append(save_grid(pairs, source.space, run.figures / "reconstructions.png", columns=8))
    return [*pictures, curve(run)]


def curve(run: Run) -> Path:
    """Draws loss, its views and the validation bound against steps."""
    import matplotlib

    matplotlib.use("agg", force=False)
    from matplotlib.figure import Figure

    lines = run.metrics()
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    names = sorted({name for line in lines for name in line} - {"phase", "step", "lr", "skipped", "seconds"})
    ends = [max((line["step"] for line in lines if line["phase"] == phase), default=0) for phase in range(1 + lines[-1]["phase"])]
    for name in names:
        points = [(sum(ends[: line["phase"]]) + line["step"], line[name]) for line in lines if name in line]
        style = {"marker": "o", "color": "black"} if name.startswith("validation") else {"linewidth": 1}
        axes.plot(*zip(*points, strict=True), label=name, **style)
    values = sorted(value for line in lines for name, value in line.items() if name in names and value > 0)
    if values:
        axes.set_ylim(0, 1.05 * values[int(0.98 * (len(values) - 1))])
    axes.set_xlabel("step")
    axes.set_ylabel("nats per example")
    axes.legend(frameon=False)
    figure.savefig(run.figures / "curve.png", dpi=120)
    return run.figures / "curve.png"
