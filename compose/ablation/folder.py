"""The folder of an ablation: what was planned, and a run directory for each cell.

plan.json        the question, every variant with its recipe, every cell
cells/ID/        the run directory of a cell
cells/ID.json    written last: how it ended, with the digest of each file that its numbers are in
cells/ID.lock    held while a process trains it; cells/ID.beat says who, and is touched every few seconds
report.html, table.csv, table.md, table.tex, cells.parquet
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compose.ablation.grid import Cell
from compose.ablation.plan import Plan, Planned
from compose.core.errors import AblationError
from compose.run.directory import Run, write_text

#: Seconds between two beats, and how old the last one is of a process on another machine that is taken for dead.
BEAT, DEAD = 5.0, 60.0
#: The files of a run that its numbers are in.
KEPT = ("recipe.yaml", "run.json", "model.safetensors", "scores.json", "scores.safetensors")
#: The weights of a first phase, which other cells may take over.
FIRST = "best-0.safetensors"


class Folder:
    """The folder of an ablation that exists.

    Args:
        path: The folder.

    Raises:
        AblationError: it holds no ablation.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.cells = self.path / "cells"
        if not (self.path / "plan.json").is_file():
            raise AblationError(
                f"{path} holds no ablation (no plan.json); 'compose ablate FILE --out {path}' makes one."
            )
        try:
            said = json.loads((self.path / "plan.json").read_text())
            variants = [Planned(**each) for each in said.pop("variants")]
            cells = [(address, label, seed) for address, label, seed in said.pop("cells")]
            self.plan = Plan(**said, variants=variants, cells=cells)
        except (ValueError, TypeError, KeyError) as error:
            message = f"{self.path / 'plan.json'} cannot be read, or was written by another version ({error})"
            raise AblationError(f"{message}; 'compose ablate' with its file writes it anew, cells stay.") from error

    @classmethod
    def create(cls, path: str | Path, plan: Plan) -> Folder:
        """Makes the folder, or goes on in that of the same ablation.

        Raises:
            AblationError: it holds another ablation or something else, or cannot be written.
        """
        folder = Path(path)
        said = {**vars(plan), "variants": [vars(variant) for variant in plan.variants]}
        try:
            if (folder / "plan.json").is_file():
                there = _said(folder / "plan.json")
                if there and (there["name"], there["question"], there["of"]) != (plan.name, plan.question, plan.of):
                    raise AblationError(
                        f"{folder} holds another ablation, '{there['name']}' of {there['of']}: {there['question']} "
                        "Choose another --out."
                    )
            elif folder.is_dir() and any(each.name != "cells" for each in folder.iterdir()):
                raise AblationError(f"{folder} is not empty and holds no ablation; choose another --out.")
            (folder / "cells").mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "cells" / "plan.lock"):  # two that start at once would write one file
                write_text(folder / "plan.json", json.dumps(said, indent=2) + "\n")
        except OSError as error:
            raise AblationError(f"{folder} cannot be written: {error.strerror}.") from error
        return cls(folder)

    def cell(self, address: str) -> Path:
        """The run directory of a cell, whether it exists or not."""
        return self.cells / address

    def record(self, address: str) -> dict[str, Any] | None:
        """How a cell ended; none while it has not."""
        try:
            return json.loads((self.cells / f"{address}.json").read_text())
        except (OSError, ValueError):
            return None

    def done(self, address: str) -> bool:
        """Whether a cell came to its end, well."""
        return (self.record(address) or {}).get("state") == "done"

    def run(self, address: str) -> Run:
        """The run of a cell."""
        return Run(self.cell(address))

    def finish(self, address: str, **said: Any) -> None:
        """Notes that a cell is done, with the digests of its files."""
        names = KEPT if len(self.run(address).recipe.train) == 1 else (*KEPT, FIRST)
        files = {name: _digest(self.cell(address) / name) for name in names if (self.cell(address) / name).is_file()}
        self._write(address, {"state": "done", "files": files, **said})

    def fail(self, address: str, **said: Any) -> None:
        """Notes why a cell failed."""
        self._write(address, {"state": "failed", **said})

    def forget(self, address: str) -> None:
        """Forgets how a cell ended."""
        (self.cells / f"{address}.json").unlink(missing_ok=True)

    def corrupted(self, address: str) -> str:
        """The first file of a finished cell that is not as it was written; empty where all are."""
        for name, digest in (self.record(address) or {}).get("files", {}).items():
            if _digest(self.cell(address) / name) != digest:
                return name
        return ""

    def set_aside(self, address: str) -> Path:
        """Moves the run directory of a cell out of the way; nothing is deleted."""
        number = 1
        while (aside := self.cells / f"{address}.broken-{number}").exists():
            number += 1
        self.cell(address).rename(aside)
        self.forget(address)
        return aside

    def beat(self, address: str) -> dict[str, Any] | None:
        """Who holds a cell and how long ago it last said so, ``seconds``; none where nobody ever did."""
        file = self.cells / f"{address}.beat"
        try:
            return {**json.loads(file.read_text()), "seconds": time.time() - file.stat().st_mtime}
        except (OSError, ValueError):
            return None

    @contextmanager
    def claim(self, address: str) -> Iterator[bool]:
        """Holds a cell while the block runs, if nobody else does; gives whether it is held.

        The lock is the operating system's: it ends with the process, however that ends. Where a file system does not
        share locks between machines, the beat of another one tells.
        """
        lock = FileLock(self.cells / f"{address}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise AblationError(f"{lock.lock_file} cannot be locked: {error}.") from error
        try:
            other = self.beat(address)
            if other is not None and other["host"] != socket.gethostname() and other["seconds"] < DEAD:
                yield False
                return
            with self._beating(address):
                yield True
        finally:
            lock.release()

    @contextmanager
    def _beating(self, address: str) -> Iterator[None]:
        file, over = self.cells / f"{address}.beat", threading.Event()
        write_text(file, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}) + "\n")

        def go_on() -> None:
            while not over.wait(BEAT):
                os.utime(file)

        beating = threading.Thread(target=go_on, daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join()
            file.unlink(missing_ok=True)

    def _write(self, address: str, record: dict[str, Any]) -> None:
        write_text(self.cells / f"{address}.json", json.dumps(record, indent=2) + "\n")


def planned_cells(folder: Folder) -> list[Cell]:
    """The cells of a folder, with their recipes, in the order in which they are begun.

    Seed by seed, and of each seed those first that take the longest, so that no long one begins last.
    """
    recipes = {variant.label: variant.with_seed(0) for variant in folder.plan.variants}
    flops = {variant.label: variant.flops for variant in folder.plan.variants}
    cells = [
        Cell(address, label, seed, recipes[label].model_copy(update={"seed": seed}))
        for address, label, seed in folder.plan.cells
    ]
    seeds = list(dict.fromkeys(cell.seed for cell in cells))

    def work(cell: Cell) -> float:
        # What is the same for all, such as seconds or how many examples an epoch has, changes nothing of their order.
        seen = sum((phase.steps or 0) * phase.batch_size or (phase.epochs or 0) for phase in cell.recipe.train)
        return seen * flops[cell.label]

    return sorted(cells, key=lambda cell: (seeds.index(cell.seed), -work(cell)))


def plan_in(path: Path) -> Plan | None:
    """What was planned in a folder; none where it holds no plan that can be read."""
    try:
        return Folder(path).plan
    except AblationError:
        return None


def _said(plan: Path) -> dict[str, str]:
    """What a plan says of its ablation; nothing where it cannot be read."""
    try:
        found = json.loads(plan.read_text())
        return {key: found[key] for key in ("name", "question", "of")}
    except (ValueError, KeyError, TypeError):
        return {}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
