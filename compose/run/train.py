"""Training: phases one after the other, on any number of devices."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compose.core import registry
from compose.core.declare import Slot
from compose.core.errors import ComposeError, DataError, RunError, TrainingError
from compose.recipe.check import load_recipe
from compose.recipe.recipe import Recipe
from compose.run.begun import Begun, after_first_phase
from compose.run.compiled import require_compiler
from compose.run.directory import Run, free_path

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    devices: int = 1,
    accelerator: str = "auto",
    precision: str = "32-true",
    threads: int | None = None,
    compile: bool = False,
    progress: bool = True,
    after: Run | Begun | str | Path | None = None,
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
        compile: Whether to compile the model; pays where steps are many.
        progress: Whether to draw progress.
        after: A run with the same first phase: what that came to is taken over, and the second is the first to train;
            or other weights to begin with.

    Raises:
        RecipeError: with every fault of the recipe.
        RunError: the directory is taken or cannot be written, or ``after`` has another first phase.
        TrainingError: ten steps in a row were not finite, or the batch does not split over the devices.
        CompileError: the model is to be compiled and cannot be.
    """
    name = Path(recipe).stem if isinstance(recipe, (str, Path)) else "recipe"
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise RunError(
            f"overrides ({', '.join(overrides)}) need a recipe by file or name; change the declaration instead."
        )
    _splits_evenly(recipe, devices)
    how = {"devices": devices, "accelerator": accelerator, "precision": precision, "threads": thread_count(threads)}
    how |= {"compile": compile}
    fabric = _fabric(recipe, how)
    record = {"name": name, "seed": recipe.seed, "data": _data_record(recipe), "how": how}
    start = after if isinstance(after, Begun) or after is None else after_first_phase(Run(after), recipe)
    run = Run.create(out or free_path(name), recipe, record)
    if start is not None:
        start.keep(run, [line for line in Run(start.of).metrics() if line["phase"] < start.phase])
    return _go(run, fabric, how, progress)


def resume(
    path: str | Path,
    *,
    devices: int | None = None,
    accelerator: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    compile: bool | None = None,
    progress: bool = True,
) -> Run:
    """Goes on with a training that was stopped; a budget in steps ends as if it never had been.

    Args:
        path: The run directory.
        devices: How many devices share each batch from here on. This and the next four: as before by default.
        accelerator: ``cpu``, ``gpu`` or ``auto``.
        precision: As ``train`` takes it.
        threads: torch threads a process.
        compile: Whether to compile the model.
        progress: Whether to draw progress.

    Raises:
        RunError: there is no run, it has come to its end, or its data are no longer the same.
        TrainingError: the devices cannot be had, or the batch does not split over them.
        CompileError: the model is to be compiled and cannot be.
    """
    run = Run(path)
    if run.scored:
        raise RunError(f"{path} has finished; its weights are in model.safetensors, its scores in scores.json.")
    recipe, record = run.recipe, run.record
    digest = _data_record(recipe)["digest"]
    if digest != record["data"]["digest"]:
        raise RunError(f"the data of {path} had digest {record['data']['digest']} and now have {digest}.")
    changes = {"devices": devices, "accelerator": accelerator, "precision": precision, "compile": compile}
    changes |= {"threads": None if threads is None else thread_count(threads)}
    how = {"compile": False, **record["how"], **{key: value for key, value in changes.items() if value is not None}}
    _splits_evenly(recipe, how["devices"])
    fabric = _fabric(recipe, how, f"go on without: compose train --resume {path} --no-compile")
    run.change_record(how=how)
    return _go(run, fabric, how, progress)


def thread_count(asked: int | None = None) -> int:
    """The one decision about threads: what was asked, else OMP_NUM_THREADS, else half of the cores and at most 4.

    The nets here are small, and two processes that contend for cores are many times slower than one thread each.
    """
    if asked is not None:
        return max(1, asked)
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return max(1, min(4, (os.cpu_count() or 1) // 2))


def _go(run: Run, fabric: Fabric, how: dict[str, Any], progress: bool) -> Run:
    """Does what is left to do: training, pictures, and the scores as the last."""
    from compose.run.evaluate import evaluate
    from compose.run.figures import draw

    with _threads(how["threads"]):
        if not run.finished:
            _launch(run, fabric, how, progress)
        draw(run)
        evaluate(run, device="cuda" if fabric.device.type == "cuda" else "cpu", progress=progress)
    return run


def _fabric(recipe: Recipe, how: dict[str, Any], instead: str = "leave --compile out") -> Fabric:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy

    # Where players step in turn, each step leaves the others' parameters without a gradient.
    in_turn = any(len(phase.players) > 1 for phase in recipe.train)
    several = how["devices"] > 1
    strategy = DDPStrategy(start_method="spawn", find_unused_parameters=in_turn) if several else "auto"
    where = {key: how[key] for key in ("accelerator", "devices", "precision")}
    if str(how["precision"]).startswith("16"):
        raise TrainingError(
            f"precision '{how['precision']}' needs its losses scaled, which no step here does; take bf16-mixed."
        )
    try:
        fabric = Fabric(strategy=strategy, **where)
    except Exception as error:
        raise TrainingError(f"{how['devices']} device(s) of '{how['accelerator']}' cannot be had: {error}") from error
    if how["compile"]:
        require_compiler(fabric.device.type, instead)
    return fabric


def _launch(run: Run, fabric: Fabric, how: dict[str, Any], progress: bool) -> None:
    """Trains in this process, or in one process a device."""
    # An error of a process of its own comes back as a value: raised there, all but its text would be lost.
    launch: Callable[..., ComposeError | None] = fabric.launch
    error = launch(_work, str(run.path), how, progress, list(registry.plugins()))
    if error is not None:
        raise error


def _work(fabric: Fabric, path: str, how: dict[str, Any], progress: bool, plugins: list[str]) -> ComposeError | None:
    """The training of one process."""
    from compose.run.loop import Loop

    try:
        with _threads(how["threads"]):
            for file in plugins:
                registry.load_plugin(file)
            Loop(Run(path), fabric, progress and fabric.is_global_zero, how["compile"]).run_phases()
    except ComposeError as error:
        return error
    return None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Computes with so many threads, then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _splits_evenly(recipe: Recipe, devices: int) -> None:
    if devices < 1:
        raise TrainingError(f"{devices} devices were asked for; wanted 1 at least.")
    for i, phase in enumerate(recipe.train):
        if phase.batch_size % devices:
            raise TrainingError(
                f"train.{i}.batch_size is {phase.batch_size}, which {devices} devices cannot share evenly; "
                f"take {phase.batch_size - phase.batch_size % devices or devices}."
            )
        share = phase.batch_size // devices
        for objective in [term.objective for player in phase.players for term in player.objectives if devices > 1]:
            space, labels = recipe.spaces()
            slot = Slot("objective", space, labels=labels, model=recipe.model, batch=share)
            for misfit in objective.misfits(slot):
                raise TrainingError(
                    f"train.{i}.batch_size is {phase.batch_size}, of which each of {devices} devices has {share}, and "
                    f"that does not suit '{objective.type}': {misfit.message}"
                )


def _data_record(recipe: Recipe) -> dict[str, Any]:
    source = recipe.data.load()
    if not len(source.train):
        raise DataError(f"{source.describe()} has no training example.")
    return {"digest": source.digest, "is": source.describe()}
