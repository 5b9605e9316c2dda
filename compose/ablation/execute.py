"""Trains the cells of an ablation: here, in several processes, or on a Ray cluster.

Every engine does the same thing, in any number of processes at once: take the next cell that nobody holds, finish it,
go on. What there is to do lies in the folder, so a second ``compose ablate`` on it, or one on another machine that sees
it, takes its share.
"""

from __future__ import annotations

import errno
import gc
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from compose.ablation.folder import Folder, planned_cells
from compose.ablation.grid import Cell
from compose.core import registry
from compose.core.errors import AblationError, ComposeError, RunError
from compose.run.begun import ended_first_phase, first_phase
from compose.run.directory import Run
from compose.run.train import resume, train

#: How often the process of a cell is lost before the cell counts as failed.
TRIES = 2
PAUSE = 0.2

Came = Literal["done", "failed", "taken"]
Tell = Callable[[str], None]


def work(folder: Folder, tell: Tell = lambda text: None, how: dict[str, Any] | None = None) -> None:
    """Finishes every cell that is not done and that nobody else holds.

    Args:
        folder: Of the ablation.
        tell: Told in a sentence what had to be done anew, and why.
        how: Arguments of ``compose.train``: ``threads``, ``accelerator``, ``compile``.

    Raises:
        AblationError: the disk is full.
    """
    cells = planned_cells(folder)
    phases = phases_of(cells)
    while left := [cell for cell in cells if folder.record(cell.id) is None]:
        waiting = False
        for cell in left:
            first = first_with(folder, cells, phases, cell)
            if first is not None and not ready(folder, first):
                waiting = True
            elif folder.record(cell.id) is None:
                finish(folder, cell, tell, how, first)
        if not waiting:
            return
        time.sleep(PAUSE)


def phases_of(cells: Sequence[Cell]) -> dict[str, str]:
    """What the first phase of each cell depends on, where others may share it; else empty."""
    found = {cell.id: first_phase(cell.recipe) for cell in cells}
    return {address: "" if said is None else json.dumps(said, sort_keys=True) for address, said in found.items()}


def first_with(folder: Folder, cells: Sequence[Cell], phases: dict[str, str], cell: Cell) -> Cell | None:
    """The cell that trains the first phase of this one; none where it trains that itself."""
    if not phases[cell.id]:
        return None
    sharing = (each for each in cells if phases[each.id] == phases[cell.id])
    first = next((each for each in sharing if (folder.record(each.id) or {}).get("state") != "failed"), cell)
    return None if first.id == cell.id else first


def ready(folder: Folder, cell: Cell) -> bool:
    """Whether a cell has its first phase behind it."""
    path = folder.cell(cell.id)
    return folder.done(cell.id) or ((path / "recipe.yaml").is_file() and ended_first_phase(Run(path)))


def finish(
    folder: Folder,
    cell: Cell,
    tell: Tell = lambda text: None,
    how: dict[str, Any] | None = None,
    first: Cell | None = None,
) -> Came:
    """Trains a cell to its end, from where it stands, or from where the first phase of another one ended.

    A cell that fails is noted with its error; what stands in a folder that cannot be gone on with is set aside.

    Raises:
        AblationError: the disk is full; no cell could be finished.
    """
    try:
        return _finished(folder, cell, tell, how or {}, first)
    except Exception as error:
        if not _full_disk(error):
            raise
        raise AblationError(
            f"the disk of {folder.path} is full: {error}. What is finished is kept; make room and run it again."
        ) from error


def _finished(folder: Folder, cell: Cell, tell: Tell, how: dict[str, Any], first: Cell | None) -> Came:
    with folder.claim(cell.id) as held:
        if not held:
            return "taken"
        if (record := folder.record(cell.id)) is not None:  # finished between a look at it and the lock
            return record["state"]
        began = time.monotonic()
        try:
            run = _trained(folder, cell, tell, how, first)
        except Exception as error:
            if _full_disk(error):
                raise
            said = str(error) if isinstance(error, ComposeError) else f"{type(error).__name__}: {error}"
            folder.fail(cell.id, error=said, trace=traceback.format_exc(), wall=time.monotonic() - began)
            return "failed"
        folder.finish(cell.id, trained=run.training_seconds(), wall=time.monotonic() - began)
        # What a model's hooks and caches hold in a circle would else stay until the collector comes by.
        gc.collect()
        return "done"


def _trained(folder: Folder, cell: Cell, tell: Tell, how: dict[str, Any], first: Cell | None) -> Run:
    """The run of a cell, begun or gone on with."""
    path = folder.cell(cell.id)
    if (path / "recipe.yaml").is_file():
        try:
            run = Run(path)
            return run if run.scored else resume(path, progress=False)
        except Exception as error:
            if _full_disk(error) or not _is_broken(error):
                raise
            aside = folder.set_aside(cell.id)
            tell(f"{cell.label}, seed {cell.seed}: {_first_line(error)} It begins anew; the old is in {aside}.")
    after = None if first is None else folder.run(first.id)
    return train(cell.recipe, path, progress=False, after=after, **how)


def _is_broken(error: Exception) -> bool:
    """Whether an error says that what lies in a run directory cannot be read, which training anew mends."""
    from safetensors import SafetensorError

    return isinstance(error, (RunError, SafetensorError, ValueError, KeyError, OSError))


def _full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that there is no room left."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".") + "."


def check_finished(folder: Folder, tell: Tell) -> None:
    """Sees to it that every finished cell is as it was written; one that is not is set aside, to be trained anew."""
    for address, label, seed in folder.plan.cells:
        if folder.done(address) and (name := folder.corrupted(address)):
            with folder.claim(address) as held:
                if held:
                    where = folder.set_aside(address) if folder.cell(address).exists() else folder.forget(address)
                    at = f"; the old is in {where}" if where else ""
                    tell(f"{label}, seed {seed}: {name} is not as it was written, so it is trained anew{at}.")


def in_processes(folder: Folder, count: int, tell: Tell, how: dict[str, Any]) -> None:
    """Works in so many processes, this one among them, until every cell has ended; one that is killed is replaced.

    Args:
        folder: Of the ablation.
        count: How many.
        tell: Told in a sentence what had to be done anew, and why.
        how: Arguments of ``compose.train``.

    Raises:
        AblationError: a process says that it cannot go on, such as for a full disk.
    """
    context = multiprocessing.get_context("spawn")
    tries: dict[str, int] = {}
    arguments = (str(folder.path), how, list(registry.plugins()))
    while _left(folder):
        said = context.SimpleQueue()
        others = [context.Process(target=_worker, args=(*arguments, said)) for _ in range(count - 1)]
        for process in others:
            process.start()
        try:
            work(folder, tell, how)
            for process in others:
                process.join()
        finally:
            for process in others:
                process.terminate()
        while not said.empty():
            final, text = said.get()
            if final:
                raise AblationError(text)
            tell(text)
        lost = [process for process in others if process.exitcode]
        for process in lost:
            _was_killed(folder, process.pid or 0, process.exitcode or 0, tries, tell)
        if not lost:
            # What is left is held by others, who see to it.
            return


def _worker(path: str, how: dict[str, Any], plugins: Sequence[str], said: Any) -> None:
    """One process of several; it ends with the one that started it, and at once where that is interrupted."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for plugin in plugins:
            registry.load_plugin(plugin)
        work(Folder(path), lambda text: said.put((False, text)), how)
    except ComposeError as error:
        said.put((True, str(error)))
    # To take torch down lasts a second, for which the others would wait; all that counts is written by now.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _left(folder: Folder) -> list[str]:
    return [address for address, _, _ in folder.plan.cells if folder.record(address) is None]


def _was_killed(folder: Folder, pid: int, code: int, tries: dict[str, int], tell: Tell) -> None:
    """Notes that a process died while it held a cell; after the second time the cell has failed."""
    # Who ends well takes the beat away.
    beats = {address: folder.beat(address) for address in _left(folder)}
    address = next((address for address, beat in beats.items() if beat is not None and beat["pid"] == pid), None)
    if address is None:
        return
    tries[address] = tries.get(address, 0) + 1
    ended = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    label, seed = next((label, seed) for each, label, seed in folder.plan.cells if each == address)
    if tries[address] >= TRIES:
        error = f"its process ended {ended}, {TRIES} times; often the memory was full"
        folder.fail(address, error=error, trace="", wall=0.0)
    else:
        tell(f"{label}, seed {seed}: its process ended {ended}; another one goes on with it.")


def retry_failed(folder: Folder) -> None:
    """Forgets that cells failed, so that they are tried again, from where they stand."""
    for address, _, _ in folder.plan.cells:
        if (folder.record(address) or {}).get("state") == "failed":
            folder.forget(address)


def folder_for(out: str | Path | None, name: str) -> Path:
    """Where an ablation goes: ``runs/ablations/NAME`` by default."""
    return Path(out) if out is not None else Path("runs") / "ablations" / name
