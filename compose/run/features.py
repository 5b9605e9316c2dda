"""What items are compared by, where samples are set beside data: the last layer of a small classifier of the data set.

Points of few numbers are compared as they are. The classifier is trained once a data set, and kept.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional

from compose.core import random
from compose.core.declare import DataPart, as_real
from compose.core.errors import DataError, RunError
from compose.core.roles import to_features
from compose.core.spaces import Codes, Real, Space
from compose.data.source import Source, Split
from compose.nets.conv import Conv, ConvNet, grid
from compose.nets.mlp import MLPNet
from compose.run.directory import write_bytes
from compose.run.progress import counting

WIDTH = 64
STEPS, LR = 800, 2e-3
#: Examples of a step, and its pixels at most: of large images there are fewer.
BATCH, PIXELS = 128, 2**17
#: Of net and training; what is kept under another is left alone.
VERSION = 2

Features = Callable[[Tensor], Tensor]


def features(data: DataPart, source: Source, progress: bool = False) -> tuple[Features, dict[str, Any]] | None:
    """Maps items to at most 64 numbers, and what there is to say of how; none where there is nothing to compare by.

    Args:
        data: The declaration of the data.
        source: The data as the model sees them.
        progress: Whether to draw a bar while a classifier is trained.
    """
    if isinstance(source.space, Real) and source.space.dim <= WIDTH:
        return lambda x: x.flatten(1), {"features": f"the {source.space.dim} numbers themselves"}
    if (known := classifier(data, progress)) is None:
        return None
    net, said = known
    net = net.to(source.train.x.device)
    return net.features, {"features": f"{WIDTH} numbers of a classifier", **said}


def perceived_by(data: DataPart, progress: bool = False) -> nn.Module | None:
    """What images are compared by in training: layers of a classifier of their own, since scores are by another one."""
    labelled = _with_classes(data)
    return None if labelled is None else _kept(labelled, progress, "perception").net


def _with_classes(data: DataPart) -> Source | None:
    """The data with their class labels; none where they have none."""
    if "labels" not in type(data).model_fields:
        return None
    try:
        labelled = data.model_copy(update={"labels": True}).load()
    except DataError:  # they come without
        return None
    assert isinstance(labelled, Source)
    known = labelled.condition is not None and labelled.train.y is not None and labelled.validation.y is not None
    return labelled if known else None


def classifier(data: DataPart, progress: bool = False) -> tuple[Classifier, dict[str, Any]] | None:
    """A classifier of a data set, trained or read, and what is to be said of it; none where examples have no class."""
    labelled = _with_classes(data)
    if labelled is None:
        return None
    net = _kept(labelled, progress)
    levels = [f"{size} levels" for size in _sizes(labelled)]
    said = {"classifier": ", ".join([f"version {VERSION}", f"data digest {labelled.digest}", *levels])}
    return net, {**said, "classifier accuracy": _accuracy(net, labelled.validation), "on": "validation"}


class Classifier(nn.Module):
    """A net to 64 numbers, and a linear map from these to classes.

    Args:
        space: What one item is.
        classes: How many classes.
    """

    def __init__(self, space: Space, classes: int) -> None:
        super().__init__()
        self.space, self.classes = space, classes
        takes, gives = as_real(space), Real((WIDTH,))
        side = min(grid(takes), default=0)
        # Small images would have nothing left after two halvings, and large ones too much.
        options = Conv(channels=32, halvings=1 if side < 16 else 2 if side < 48 else 3)
        self.net = ConvNet(takes, gives, options) if side >= 8 else MLPNet(takes, gives, [256], "relu")
        self.last = nn.Linear(WIDTH, classes)

    def features(self, x: Tensor) -> Tensor:
        """``(n, 64)``."""
        seen = to_features(x, self.space, torch.float32)
        return torch.cat([functional.relu(self.net(part)) for part in seen.split(500)])

    def forward(self, x: Tensor) -> Tensor:
        """Unnormalised log-probabilities, ``(n, classes)``."""
        return self.last(self.features(x))


def cache() -> Path:
    """Where classifiers are kept: COMPOSE_CACHE, else ``~/.cache/compose``."""
    return Path(os.environ.get("COMPOSE_CACHE") or Path.home() / ".cache" / "compose")


def _kept(source: Source, progress: bool, name: str = "classifier") -> Classifier:
    """A classifier of a data set, by a random stream of that name: read, or trained and written.

    Raises:
        RunError: it cannot be written.
    """
    from safetensors.torch import save

    told = "-".join(map(str, [name, VERSION, source.digest, *_sizes(source)]))
    file = cache() / f"{told}.safetensors"
    if (net := _read(file, source)) is not None:
        return net
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Of processes that need it at once one trains it, and the others wait.
        with FileLock(file.with_suffix(".lock")):
            if (net := _read(file, source)) is None:
                net = _trained(source, progress, name)
                write_bytes(file, save(net.state_dict()))
    except OSError as error:
        raise RunError(
            f"{file.parent}, where classifiers of data are kept, cannot be written: {error.strerror or error}. "
            "COMPOSE_CACHE names another folder."
        ) from error
    return net


def _sizes(source: Source) -> list[int]:
    """The number of levels, of codes: nets see a level divided by it, and the digest of the data does not tell it."""
    return [source.space.size] if isinstance(source.space, Codes) else []


def _read(file: Path, source: Source) -> Classifier | None:
    """What a file holds; none where there is none, or one that is cut short or of another net."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    net = _net(source)
    try:
        net.load_state_dict(load_file(file))
    except (OSError, RuntimeError, SafetensorError):
        return None
    return net.eval().requires_grad_(False)


def _net(source: Source) -> Classifier:
    assert source.condition is not None
    return Classifier(source.space, source.condition.size)


@torch.enable_grad()  # whoever measures samples asks for it without gradients
def _trained(source: Source, progress: bool = False, name: str = "classifier") -> Classifier:
    title = "training what samples are compared by, once for these data"
    batch = max(1, min(BATCH, PIXELS // math.prod(grid(as_real(source.space)))))
    with random.region(0, name), counting(title, STEPS, progress) as tick:
        net = _net(source)
        optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=1e-2)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        for step in range(STEPS):
            index = torch.randint(len(source.train), (batch,))
            x, y = source.train_batch(index, random.generator(0, name, step))
            assert y is not None
            functional.cross_entropy(net(_shifted(x) if grid(as_real(source.space)) else x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            falling.step()
            tick(1)
    return net.eval().requires_grad_(False)


def _shifted(x: Tensor) -> Tensor:
    """Images moved by a pixel at most, with 0 coming in: they are of the same class, and there are more of them."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    moved = torch.roll(functional.pad(x, (1, 1, 1, 1)), (down, right), (-2, -1))
    return moved[..., 1:-1, 1:-1]


@torch.no_grad()
def _accuracy(net: Classifier, split: Split) -> float:
    assert split.y is not None
    return float((net(split.x).argmax(1) == split.y).double().mean())
