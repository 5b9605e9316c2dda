"""The loop of one process: steps, validation, checkpoints."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from compose.core import random
from compose.core.errors import TrainingError
from compose.core.model import ModelDensity
from compose.core.objective import Loss
from compose.core.terms import views
from compose.recipe.build import build
from compose.recipe.recipe import Phase
from compose.run import state
from compose.run.batches import Batches
from compose.run.directory import Run
from compose.run.evaluate import negative_elbo
from compose.run.log import Log
from compose.run.player import Actor
from compose.run.progress import Display, display

IN_A_ROW = 10
CHECKPOINT_SECONDS = 60.0


class Loop:
    """Trains a run from where it stands to its end.

    Args:
        run: The run directory.
        fabric: lightning-fabric, launched.
        shown: Whether this process draws progress.
    """

    def __init__(self, run: Run, fabric: Any, shown: bool) -> None:
        self.run, self.fabric, self.shown = run, fabric, shown
        self.recipe = run.recipe
        self.first = bool(fabric.is_global_zero)
        self.model = build(self.recipe)
        self.source = self.recipe.data.load().to(fabric.device)
        self.model.to(fabric.device)
        self.at: dict[str, Any] = {"phase": 0, "step": 0, "seconds": 0.0, "looks": 0, "best": None, "skipped": 0}
        self.last = run.path / "last.safetensors"

    def run_phases(self) -> None:
        """All phases that are left, then the best weights as ``model.safetensors``."""
        if self.last.is_file():
            self.at = state.counters(self.last)
        with display(self.shown) as view, Log(self.run, self.first, self.at) as log:
            for i in range(self.at["phase"], len(self.recipe.train)):
                Stretch(self, i, view, log).go()
                self.at.update(phase=i + 1, step=0, seconds=0.0, looks=0, best=None)
        self.fabric.barrier()
        if self.first:
            state.save_model(self.run.path / "model.safetensors", self.model)


class Stretch:
    """One phase at work.

    Args:
        loop: The training it belongs to.
        index: Which phase.
        view: What shows progress.
        log: What keeps metrics.
    """

    def __init__(self, loop: Loop, index: int, view: Display, log: Log) -> None:
        self.loop, self.index, self.view, self.log = loop, index, view, log
        self.at, self.fabric, self.model = loop.at, loop.fabric, loop.model
        self.phase: Phase = loop.recipe.train[index]
        shard = (self.fabric.global_rank, self.fabric.world_size)
        self.batches = Batches(loop.source, self.phase.batch_size, loop.recipe.seed, index, shard)
        self.shard = shard
        # One file a phase: a training killed early in the next one still finds the best weights of this one.
        self.best = loop.run.path / f"best-{index}.safetensors"
        self.actors = [Actor(player, loop.recipe, self.model) for player in self.phase.players]
        self.every = self._validation_interval()
        self.log_every = max(1, min(50, self.every))
        self.broken = torch.zeros((), device=self.fabric.device)
        self.streak = torch.zeros((), device=self.fabric.device)

    def go(self) -> None:
        """Trains to the end of the budget and leaves the best weights in the model."""
        self._begin()
        wrapped = self._wrap()
        saved = time.monotonic()
        with random.shard(*self.shard):
            while self._done() < 1:
                began = time.monotonic()
                self._step(wrapped)
                self._tick(time.monotonic() - began)
                due = self._due()
                if due:
                    self._validate()
                if due or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
        if self.at["best"] is None or self.at["best"]["step"] != self.at["step"]:
            self._validate()
        self._finish()

    def _begin(self) -> None:
        """Restores a checkpoint of this phase, or fits what is fitted and starts afresh."""
        last = self.loop.last
        if last.is_file() and state.counters(last)["phase"] == self.index and self.at["step"]:
            state.restore(last, self._modules(), self._optimizers())
        else:
            # Every process fits the same numbers: the whole set, and the same noise.
            with random.region(self.loop.recipe.seed, "fit noise", self.index):
                self.model.fit_parts(self.batches.all)
            for actor in self.actors:
                actor.restart_average(self.model)
        trained = {id(p) for actor in self.actors for p in actor.parameters}
        for parameter in self.model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        self._set_modes()
        of = f" {self.index + 1} of {len(self.loop.recipe.train)}" if len(self.loop.recipe.train) > 1 else ""
        self.view.phase(f"training{of}")

    def _set_modes(self) -> None:
        """Trained parts in training mode, frozen ones in evaluation mode."""
        self.model.eval()
        for actor in self.actors:
            for path in actor.player.trains:
                self.model.get_submodule(path.removeprefix("model").removeprefix(".")).train()

    def _wrap(self) -> Any:
        return self.fabric.setup_module(self.model, move_to_device=False)

    def _step(self, wrapped: Any) -> None:
        step = self.at["step"]
        x, c = self.batches.at(step)
        for j, actor in enumerate(self.actors):
            random.reseed(self.loop.recipe.seed, "model noise", self.index, j, step)
            rate = actor.set_rate(step, self._done())
            loss = actor.loss(wrapped, x, c, step)
            self.fabric.backward(loss.value)
            broken = actor.step(loss.value)
            self.broken += broken
            self.streak = (self.streak + 1) * broken
            if actor.average is not None:
                actor.average.update_parameters(self.model)
            if (step + 1) % self.log_every == 0 or step == 0:
                self._report(actor, loss, rate, x, c)

    def _tick(self, seconds: float) -> None:
        self.at["step"] += 1
        self.at["seconds"] += seconds

    def _report(self, actor: Actor, loss: Loss, rate: float, x: Any, c: Any) -> None:
        """Reads the device once: the views of the loss, and how many steps were skipped."""
        parts = {view: -sum(loss.ledger.terms[n].mean() for n in names) for view, names in views(loss.ledger.terms).items()}
        read = torch.stack([loss.value.detach(), self.broken, self.streak, *(v.detach() for v in parts.values())]).tolist()
        self.at["skipped"] = int(read[1])
        values = {"loss": read[0], **dict(zip(parts, read[3:], strict=True))}
        if read[2] >= IN_A_ROW:
            raise TrainingError(self._diagnosis(x, c))
        self.log.write(phase=self.index, step=self.at["step"] + 1, lr=rate, skipped=self.at["skipped"], seconds=self.at["seconds"], **values)
        self.view.update(self._done(), values)

    def _diagnosis(self, x: Any, c: Any) -> str:
        """Which term and which part are not finite."""
        with torch.no_grad():
            terms = self.model.evaluate_terms(x, c).terms
        bad_terms = [name for name, value in terms.items() if not torch.isfinite(value).all()]
        bad_parts = [name for name, value in self.model.named_parameters() if not torch.isfinite(value).all()]
        found = [f"the terms {', '.join(bad_terms)}"] if bad_terms else ["no term: the gradient is"]
        found += [f"the parameters of {', '.join(sorted({name.rpartition('.')[0] for name in bad_parts}))}"] if bad_parts else []
        return (
            f"{IN_A_ROW} steps in a row up to step {self.at['step'] + 1} were not finite: {' and '.join(found)} not finite. "
            f"The last good checkpoint is kept in {self.loop.run.path}. A lower train.{self.index}.optimizer.lr, "
            f"or train.{self.index}.clip: 1.0, is the first thing to try."
        )

    def _validate(self) -> None:
        """Scores the validation set; keeps the weights if they are the best so far."""
        scored = self._scored_model()
        was = scored.training
        scored.eval()
        cost = negative_elbo(scored, self.loop.source.validation, self.loop.recipe.evaluate.seed)
        scored.train(was)
        self._set_modes()
        best = self.at["best"]
        if math.isfinite(cost) and (best is None or cost < best["-ELBO"]):
            self.at["best"] = {"-ELBO": cost, "step": self.at["step"]}
            if self.loop.first:
                state.save_model(self.best, scored)
        self.log.write(phase=self.index, step=self.at["step"], **{"validation -ELBO": cost})
        self.view.note(f"step {self.at['step']:>6}   validation -ELBO {cost:.2f} nats")

    def _scored_model(self) -> ModelDensity:
        """The averaged weights where a player keeps them, else the trained ones."""
        for actor in self.actors:
            if actor.average is not None:
                averaged = actor.average.module
                assert isinstance(averaged, ModelDensity)
                return averaged
        return self.model

    def _finish(self) -> None:
        self._save()
        self.fabric.barrier()
        if self.at["best"] is None:
            raise TrainingError(f"no validation of phase {self.index} was finite, so there are no weights to keep.")
        state.load_model(self.best, self.model)
        self.view.update(1.0, {})

    def _save(self) -> None:
        if self.loop.first and not bool(self.streak > 0):
            state.save(self.loop.last, self._modules(), self._optimizers(), self.at)

    def _modules(self) -> dict[str, Any]:
        averages = {f"average{j}": actor.average for j, actor in enumerate(self.actors) if actor.average is not None}
        return {"model": self.model, **averages}

    def _optimizers(self) -> dict[str, Any]:
        return {f"optimizer{j}": actor.optimizer for j, actor in enumerate(self.actors)}

    def _done(self) -> float:
        """The share of the budget that is spent."""
        if self.phase.seconds is not None:
            return self.at["seconds"] / self.phase.seconds
        return self.at["step"] / self._steps()

    def _steps(self) -> int:
        if self.phase.steps is not None:
            return self.phase.steps
        assert self.phase.epochs is not None, "a phase without a budget passed the check"
        return max(1, math.ceil(self.phase.epochs * len(self.loop.source.train) / self.phase.batch_size))

    def _validation_interval(self) -> int:
        if self.phase.validate_every is not None:
            return self.phase.validate_every
        return 1 << 62 if self.phase.seconds is not None else max(1, math.ceil(self._steps() / 10))

    def _due(self) -> bool:
        """Whether a look at the validation set is due: by steps, or ten times over a budget in seconds."""
        if self.phase.seconds is not None and self.phase.validate_every is None:
            looks = self.at["looks"]
            if self._done() * 10 >= looks + 1:
                self.at["looks"] = looks + 1
                return True
            return False
        return self.at["step"] % self.every == 0
