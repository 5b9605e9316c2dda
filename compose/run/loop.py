"""The loop of one process: every phase that is left, then the best weights."""

from __future__ import annotations

from typing import Any

from compose.recipe.build import build
from compose.run import state
from compose.run.directory import Run
from compose.run.log import Log
from compose.run.progress import display
from compose.run.stretch import Stretch


class Loop:
    """Trains a run from where it stands to its end.

    Args:
        run: The run directory.
        fabric: lightning-fabric, launched.
        shown: Whether this process draws progress.
        compiled: Whether the model is compiled for training.
    """

    def __init__(self, run: Run, fabric: Any, shown: bool, compiled: bool = False) -> None:
        self.run, self.fabric, self.shown, self.compiled = run, fabric, shown, compiled
        self.recipe = run.recipe
        self.first = bool(fabric.is_global_zero)
        # In the precision of the training from the start: what is averaged or restored is made of these weights.
        self.model = self.place(build(self.recipe))
        precision = next((value.dtype for value in self.model.parameters()), None)
        self.source = self.recipe.data.load().to(fabric.device, precision)
        self.last = run.path / "last.safetensors"
        self.at: dict[str, Any] = state.counters(self.last) if self.last.is_file() else {"lines": 0, **beginning(0)}

    def place(self, module: Any) -> Any:
        """A module where, and in the precision in which, the training computes."""
        return self.fabric.strategy.precision.convert_module(module).to(self.fabric.device)

    def run_phases(self) -> None:
        """All phases that are left, then the best weights as ``model.safetensors``."""
        with display(self.shown) as view, Log(self.run, self.first, self.at) as log:
            for index in range(self.at["phase"], len(self.recipe.train)):
                Stretch(self, index, view, log).go()
                self.at.update(beginning(index + 1))
        self.fabric.barrier()
        if self.first:
            state.save_model(self.run.path / "model.safetensors", self.model)


def beginning(phase: int) -> dict[str, Any]:
    """The counters at the beginning of a phase.

    ``step`` and ``seconds`` trained; ``looks`` at the validation set that a budget in seconds has had; ``seen``, the
    step of the last look; ``best``, the bound and step of the best one; ``skipped`` steps by player.
    """
    return {"phase": phase, "step": 0, "seconds": 0.0, "looks": 0, "seen": -1, "best": None, "skipped": []}
