"""Metrics: one JSON line each, and the same for TensorBoard."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from compose.run.directory import Run, write_text


class Log:
    """Appends metrics to a run; on resuming, what lies beyond the checkpoint is cut off first.

    Args:
        run: The run.
        active: Whether this process writes.
        at: The counters of the training; ``lines`` of them are kept, and counted on.
    """

    def __init__(self, run: Run, active: bool, at: dict[str, Any]) -> None:
        self.at = at
        self.file: TextIO | None = None
        self.board: Any = None
        if not active:
            return
        kept = run.metrics(at["lines"])
        write_text(run.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        self.file = (run.path / "metrics.jsonl").open("a")
        self._open_board(run.path / "tensorboard", kept)

    def write(self, phase: int, step: int, **values: float) -> None:
        """Adds a line; JSON has no word for what is not finite, so that is null."""
        if self.file is None:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"phase": phase, "step": step, **finite}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        self.at["lines"] += 1
        self._show(line)

    def _open_board(self, folder: Path, kept: list[dict[str, Any]]) -> None:
        """Starts TensorBoard's file anew from the lines kept: it cannot be cut."""
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self.board = SummaryWriter(str(folder))
        for line in kept:
            self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        where = f"phase{line['phase']}" + (f"/player{line['player']}" if "player" in line else "")
        for name, value in line.items():
            if name not in ("phase", "step", "player") and value is not None:
                self.board.add_scalar(f"{where}/{name}", value, line["step"])

    def __enter__(self) -> Log:
        """The log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes both files."""
        if self.file is not None:
            self.file.close()
            self.board.close()
