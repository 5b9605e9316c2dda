"""The cells of an ablation on a Ray cluster whose machines all see its folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from compose.ablation.execute import TRIES, Tell, finish, first_with, phases_of, ready
from compose.ablation.folder import Folder, planned_cells
from compose.ablation.grid import Cell
from compose.core import registry
from compose.core.errors import AblationError, ComposeError

#: Seconds between two looks at what has come back.
LOOK = 1.0


def on_cluster(
    folder: Folder, address: str, tell: Tell, how: dict[str, Any], cpus: float = 1.0, gpus: float = 0.0
) -> None:
    """Finishes every cell on a cluster, each as a task; where a machine is lost, another one goes on with its cells.

    Args:
        folder: Of the ablation, on a disk that all machines share.
        address: Of the cluster, as Ray has it: ``auto``, ``ray://host:10001``; ``local`` starts one on this machine.
        tell: Told in a sentence what had to be done anew, and why.
        how: Arguments of ``compose.train``.
        cpus: Cores that a cell takes.
        gpus: GPUs that a cell takes; a fraction shares one.

    Raises:
        AblationError: Ray is not installed, there is no such cluster, none of its machines has what a cell takes, or a
            cell says that none can go on.
    """
    ray = _started(address)
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(each.get("CPU", 0) >= cpus and each.get("GPU", 0) >= gpus for each in machines):
        raise AblationError(f"no machine of the cluster has {cpus:g} cores and {gpus:g} GPUs for a cell.")
    # Ray tries again by itself where a machine was lost before the task began; we, where it was lost in the middle.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_cell)
    cells = planned_cells(folder)
    phases = phases_of(cells)
    tries: dict[str, int] = {}
    working: dict[Any, Cell] = {}
    while True:
        busy = {cell.id for cell in working.values()}
        for cell in cells:
            first = first_with(folder, cells, phases, cell)
            if cell.id not in busy and folder.record(cell.id) is None and (first is None or ready(folder, first)):
                of = None if first is None else first.id
                working[task.remote(str(folder.path.resolve()), cell.id, of, how, list(registry.plugins()))] = cell
        if not working:
            return
        came, _ = ray.wait(list(working), timeout=LOOK)
        for reference in came:
            _take(ray, reference, working.pop(reference), folder, tries, tell)


def _take(ray: Any, reference: Any, cell: Cell, folder: Folder, tries: dict[str, int], tell: Tell) -> None:
    """Takes what a task came back with."""
    try:
        came, said = ray.get(reference)
    except ray.exceptions.RayError as error:
        tries[cell.id] = tries.get(cell.id, 0) + 1
        reason = type(error).__name__
        if tries[cell.id] >= TRIES:
            folder.fail(cell.id, error=f"its process was lost {tries[cell.id]} times ({reason})", trace="", wall=0.0)
        else:
            tell(f"{cell.label}, seed {cell.seed}: its process was lost ({reason}); another one goes on with it.")
        return
    for text in said:
        tell(text)
    if came == "stop":
        raise AblationError(said[-1])
    if came == "taken":
        # By another ``compose ablate``, or by a machine that is gone and not yet taken for dead.
        time.sleep(LOOK)


def _cell(
    path: str, address: str, first: str | None, how: dict[str, Any], plugins: Sequence[str]
) -> tuple[str, list[str]]:
    """One cell on some machine of the cluster: how it came out, and what is to be told."""
    said: list[str] = []
    try:
        for plugin in plugins:
            registry.load_plugin(plugin)
        folder = Folder(path)
        cells = {cell.id: cell for cell in planned_cells(folder)}
        return finish(folder, cells[address], said.append, how, None if first is None else cells[first]), said
    except ComposeError as error:
        return "stop", [*said, str(error)]


def _started(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise AblationError("Ray is not installed: pip install 'compose-models[ray]'.") from error
    if not ray.is_initialized():
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": None}
        try:
            ray.init(address=None if address == "local" else address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise AblationError(f"there is no Ray cluster at {address}: {error}") from error
    return ray
