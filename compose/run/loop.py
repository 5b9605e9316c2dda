"""The loop of one process: every phase that is left, then the best weights."""

from __future__ import annotations

from typing import Any

from compose.recipe.build import build
from compose.run import state
from compose.run.batches import Batches
from compose.run.begun import begun
from compose.run.directory import Run
from compose.run.log import Log
from compose.run.progress import display
from compose.run.stretch import Stretch, fit


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
        if fabric.strategy.precision.precision == "bf16-mixed":
            # Nets round where they may; data keep their digits, and so does what is drawn and weighed with them.
            fabric.strategy.precision.convert_input = lambda data: data
        # In the precision of the training from the start: what is averaged or restored is made of these weights.
        self.model = self.place(build(self.recipe))
        precision = next((value.dtype for value in self.model.parameters()), None)
        self.source = self.recipe.data.load().to(fabric.device, precision)
        self.last = run.path / "last.safetensors"
        self.begun = begun(run.path)
        self.at: dict[str, Any] = state.counters(self.last) if self.last.is_file() else self._start()

    def place(self, module: Any) -> Any:
        """A module where, and in the precision in which, the training computes."""
        return self.fabric.strategy.precision.convert_module(module).to(self.fabric.device)

    def _start(self) -> dict[str, Any]:
        """The counters at the start of a training; what it takes over from another run is put in place."""
        if self.begun is None:
            return {"lines": 0, **beginning(0)}
        phase = self.begun.phase
        if phase:
            # As the first phase would have left it: what is fitted was fitted before anything was trained.
            seed = self.recipe.seed
            fit(self.model, Batches(self.source, self.recipe.train[0].batch_size, seed, 0), seed, 0)
        # Before anything of this phase is fitted: what stands above is fitted to what these weights make of the data.
        self.begun.put_into(self.model)
        lines = sum(line["phase"] < phase for line in self.run.metrics())
        return {"lines": lines, **beginning(phase)}

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
