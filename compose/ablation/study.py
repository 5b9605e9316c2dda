"""An ablation from its file to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compose.ablation.execute import check_finished, folder_for, in_processes, retry_failed, work
from compose.ablation.folder import Folder, plan_in
from compose.ablation.grid import Grid, expand
from compose.ablation.plan import plan_of
from compose.ablation.question import read_ablation
from compose.ablation.report import write_report
from compose.ablation.results import Study, results_of
from compose.ablation.view import watching
from compose.core.errors import Fault, RecipeError
from compose.run.progress import note
from compose.run.train import thread_count


def ablate(
    ablation: str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    workers: int = 1,
    ray: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    skip_faulty: bool = False,
    retry: bool = False,
    threads: int | None = None,
    accelerator: str = "auto",
    compile: bool = False,
    progress: bool = True,
    tell: Callable[[str], None] = note,
) -> Study:
    """Trains every cell of an ablation that is not done, and writes its report.

    What is finished is never trained again, and a training that was stopped goes on where it was.

    Args:
        ablation: A file, or the name of a shipped ablation.
        out: Its folder; ``runs/ablations/NAME`` by default.
        overrides: Changes ``PATH=VALUE`` to the file: ``seeds=1``, ``budget.steps=100``.
        workers: How many processes share the cells; 1 works in this one.
        ray: The address of a Ray cluster to work on in their place, or ``local``.
        cpus: Cores that a cell takes of the cluster.
        gpus: GPUs that a cell takes of the cluster; a fraction shares one.
        skip_faulty: Whether to leave out what is refused; else that is an error, before anything runs.
        retry: Whether cells that failed are tried again.
        threads: torch threads of each process; see ``thread_count``, and 1 with several workers.
        accelerator: ``cpu``, ``gpu`` or ``auto``.
        compile: Whether to compile the models.
        progress: Whether to show where every cell stands.
        tell: Told in a sentence what is done anew, and why; by default it goes to stderr.

    Returns:
        What came of it.

    Raises:
        RecipeError: the file, its base or a cell has a fault.
        AblationError: the folder holds another ablation or cannot be written, or the disk is full.
    """
    grid = expand(read_ablation(ablation, overrides))
    refuse_faulty(grid, skip_faulty)
    path = folder_for(out, grid.asked.name)
    folder = Folder.create(path, plan_of(grid, _command(str(ablation), overrides), plan_in(path)))
    check_finished(folder, tell)
    if retry:
        retry_failed(folder)
    how: dict[str, Any] = {"accelerator": accelerator, "compile": compile}
    how["threads"] = thread_count(threads if threads is not None or (workers == 1 and ray is None) else 1)
    with watching(folder, progress):
        if ray is not None:
            from compose.ablation.on_ray import on_cluster

            on_cluster(folder, ray, tell, how, cpus, gpus)
        elif workers > 1:
            in_processes(folder, workers, tell, how)
        else:
            work(folder, tell, how)
    results = results_of(folder)
    write_report(results, folder.path)
    return results


def refuse_faulty(grid: Grid, skip: bool) -> None:
    """Refuses cells that do not type-check, all in one go, unless they are to be skipped.

    Raises:
        RecipeError: with the faults of each.
    """
    if not grid.faulty or skip:
        return
    faults = [
        Fault(fault.path, f"{label} is refused: {fault.message}", fault.hint, fault.where)
        for label, found in grid.faulty.items()
        for fault in found
    ]
    hint = f"{len(grid.faulty)} of {len(grid.faulty) + len(grid.variants)} variants; --skip-faulty leaves them out."
    raise RecipeError([*faults, Fault("", hint)])


def report(path: str | Path, *, tell: Callable[[str], None] = note) -> Study:
    """Writes the report of an ablation's folder anew, of what is finished there and is as it was written.

    Args:
        path: The folder.
        tell: Told in a sentence which cell is left out, and why; by default it goes to stderr.

    Raises:
        AblationError: it holds no ablation.
    """
    folder = Folder(path)
    changed = set()
    for address, label, seed in folder.plan.cells:
        if name := folder.corrupted(address):
            tell(
                f"{label}, seed {seed}, is left out: {name} is not as it was written. 'compose ablate' trains it anew."
            )
            changed.add(address)
    results = results_of(folder, changed)
    write_report(results, Path(path))
    return results


def _command(ablation: str, overrides: Sequence[str]) -> str:
    return " ".join(["compose", "ablate", ablation, *overrides])
