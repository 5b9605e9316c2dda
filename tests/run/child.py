"""Trains or goes on with a run, and kills itself where it is told to; run in a process of its own.

``TASK`` holds ``recipe`` and ``path``, and may hold ``file``, ``count`` and ``moment``: the process dies inside the
``count``-th write of that file, ``half`` written, or whole and ``unnamed``.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from compose.run.train import resume, train


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arrange_death(folder: Path, file: str, count: int, moment: str) -> None:
    partial = folder / f".{file}.partial"
    fsync, replace = os.fsync, Path.replace
    left = [count]

    def dying_fsync(fd: int) -> None:
        if moment == "half" and partial.exists() and os.path.samestat(os.fstat(fd), partial.stat()):
            left[0] -= 1
            if not left[0]:
                os.ftruncate(fd, partial.stat().st_size // 2)
                die()
        fsync(fd)

    def dying_replace(self: Path, target: Path) -> Path:
        if moment == "unnamed" and self == partial:
            left[0] -= 1
            if not left[0]:
                die()
        return replace(self, target)

    os.fsync, Path.replace = dying_fsync, dying_replace  # type: ignore[method-assign]


def main(recipe: str, path: str, **death: Any) -> None:
    run = Path(path)
    if death:
        arrange_death(run, **death)
    if (run / "recipe.yaml").exists():
        resume(run, progress=False)
    else:
        train(recipe, run, accelerator="cpu", threads=1, progress=False)


main(**globals()["TASK"])
