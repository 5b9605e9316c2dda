"""Training: phases one after the other, on any number of devices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from compose.core import registry
from compose.core.errors import DataError, RunError, TrainingError
from compose.recipe.check import load_recipe
from compose.recipe.recipe import Recipe
from compose.run.directory import Run, free_path


def train(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    devices: int = 1,
    accelerator: str = "auto",
    precision: str = "32-true",
    threads: int | None = None,
    progress: bool = True,
) -> Run:
    """Trains a recipe, scores the result and draws its pictures.

    Args:
        recipe: A recipe, its file, or the name of a shipped one.
        out: The run directory; ``runs/NAME`` by default, with a number where that is taken.
        overrides: Changes ``PATH=VALUE`` to a recipe given by file or name.
        devices: How many devices share each batch.
        accelerator: ``cpu``, ``gpu`` or ``auto``.
        precision: As lightning-fabric names it: ``32-true``, ``bf16-mixed``, ``64-true``.
        threads: torch threads a process; see ``thread_count``.
        progress: Whether to draw progress.

    Raises:
        RecipeError: with every fault of the recipe.
        RunError: the directory is taken or cannot be written.
        TrainingError: ten steps in a row were not finite, or the batch does not split over the devices.
    """
    name = Path(recipe).stem if isinstance(recipe, (str, Path)) else "recipe"
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise RunError(f"overrides ({', '.join(overrides)}) need a recipe by file or name; change the declaration instead.")
    _splits_evenly(recipe, devices)
    how = {"devices": devices, "accelerator": accelerator, "precision": precision, "threads": thread_count(threads)}
    record = {"name": name, "seed": recipe.seed, "data": _data_record(recipe), "how": how}
    run = Run.create(out or free_path(name), recipe, record)
    return _go(run, how, progress)


def resume(path: str | Path, progress: bool = True) -> Run:
    """Goes on with a training that was stopped; a budget in steps ends as if it never had been.

    Raises:
        RunError: there is no run, or its data are no longer the same.
    """
    run = Run(path)
    if run.finished:
        raise RunError(f"{path} has finished; its weights are in model.safetensors.")
    recipe, record = run.recipe, run.record
    digest = _data_record(recipe)["digest"]
    if digest != record["data"]["digest"]:
        raise RunError(f"the data of {path} had digest {record['data']['digest']} and now have {digest}.")
    return _go(run, record["how"], progress)


def thread_count(asked: int | None = None) -> int:
    """The one decision about threads: what was asked, else OMP_NUM_THREADS, else half of the cores and at most 4.

    The nets here are small, and two processes that contend for cores are many times slower than one thread each.
    """
    if asked is not None:
        return max(1, asked)
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return max(1, min(4, (os.cpu_count() or 1) // 2))


def _go(run: Run, how: dict[str, Any], progress: bool) -> Run:
    from compose.run.evaluate import evaluate
    from compose.run.figures import draw

    device = _launch(run, how, progress)
    evaluate(run, device=device, progress=progress)
    draw(run)
    return run


def _launch(run: Run, how: dict[str, Any], progress: bool) -> str:
    """Trains in this process, or in one process a device; returns the device to evaluate on."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning_fabric import Fabric

    several = how["devices"] > 1
    strategy = "ddp_spawn" if several else "auto"
    try:
        fabric = Fabric(
            accelerator=how["accelerator"], strategy=strategy, devices=how["devices"], precision=how["precision"]
        )
    except Exception as error:
        raise TrainingError(f"{how['devices']} device(s) of '{how['accelerator']}' cannot be had: {error}") from error
    plugins = list(registry.plugins())
    fabric.launch(_work, str(run.path), how["threads"], progress, plugins)
    return "cuda" if str(fabric.device).startswith("cuda") else "cpu"


def _work(fabric: Any, path: str, threads: int, progress: bool, plugins: list[str]) -> None:
    """The training of one process."""
    from compose.run.loop import Loop

    torch.set_num_threads(threads)
    for file in plugins:
        registry.load_plugin(file)
    Loop(Run(path), fabric, progress and fabric.is_global_zero).run_phases()


def _splits_evenly(recipe: Recipe, devices: int) -> None:
    for i, phase in enumerate(recipe.train):
        if phase.batch_size % devices:
            raise TrainingError(
                f"train.{i}.batch_size is {phase.batch_size}, which {devices} devices cannot share evenly; "
                f"take {phase.batch_size - phase.batch_size % devices or devices}."
            )


def _data_record(recipe: Recipe) -> dict[str, Any]:
    source = recipe.data.load()
    if not len(source.train):
        raise DataError(f"{source.describe()} has no training example.")
    return {"digest": source.digest, "is": source.describe()}
