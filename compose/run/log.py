"""Metrics: one JSON line each, and the same for TensorBoard."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, TextIO

from compose.run.directory import Run, write_text


class Log:
    """Appends metrics to a run; on resuming, what lies beyond the checkpoint is cut off first.

    Args:
        run: The run.
        active: Whether this process writes.
        at: Where the training stands.
    """

    def __init__(self, run: Run, active: bool, at: dict[str, Any]) -> None:
        self.file: TextIO | None = None
        self.board: Any = None
        if not active:
            return
        here = (at["phase"], at["step"])
        kept = [line for line in run.metrics() if (line["phase"], line["step"]) <= here] if here > (0, 0) else []
        write_text(run.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept))
        self.file = (run.path / "metrics.jsonl").open("a")
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(run.path / "tensorboard"), purge_step=at["step"] or None)

    def write(self, phase: int, step: int, **values: float) -> None:
        """Adds a line."""
        if self.file is None:
            return
        self.file.write(json.dumps({"phase": phase, "step": step, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            self.board.add_scalar(f"phase{phase}/{name}", value, step)

    def __enter__(self) -> Log:
        """The log itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes both files."""
        if self.file is not None:
            self.file.close()
            self.board.close()
