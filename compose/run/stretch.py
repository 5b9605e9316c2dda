"""One phase at work: steps, looks at the validation set, checkpoints."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compose.core import random
from compose.core.errors import TrainingError
from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.objective import Loss
from compose.core.quantizer import Quantizer
from compose.core.roles import Density
from compose.core.solvers import stepwise
from compose.core.terms import rates_and_distortion
from compose.recipe.recipe import Phase
from compose.run import state
from compose.run.batches import Batches
from compose.run.budget import Budget
from compose.run.compiled import compiled, explained
from compose.run.diagnosis import diagnosis
from compose.run.evaluate import cost_of
from compose.run.frozen import Frozen, encoded, frozen_stages
from compose.run.log import Log
from compose.run.player import Actor, Rival, part
from compose.run.progress import Display
from compose.run.skips import IN_A_ROW
from compose.run.snapshots import keep_snapshot
from compose.run.weights import load_model

if TYPE_CHECKING:
    from compose.run.loop import Loop

CHECKPOINT_SECONDS = 60.0
LOG_STEPS = 50
#: Examples of a look at the validation set, at most: a look at tens of thousands costs more than the steps between.
LOOKED_AT = 2000


@torch.no_grad()
def fit(model: ModelDensity, batches: Batches, seed: int, phase: int) -> None:
    """Fits what is fitted as a phase starts; every process fits the same numbers: the whole set, the same noise."""
    with random.region(seed, "fit noise", phase):
        model.fit_parts(batches.all)


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
        self.at, self.fabric, self.seed = loop.at, loop.fabric, loop.recipe.seed
        self.model: ModelDensity = loop.model
        self.phase: Phase = loop.recipe.train[index]
        self.shard = (self.fabric.global_rank, self.fabric.world_size)
        self.batches = Batches(loop.source, self.phase.batch_size, self.seed, index, self.shard)
        # One file a phase: a training killed early in the next one still finds the best weights of this one.
        self.best = loop.run.path / f"best-{index}.safetensors"
        skipped = self.at["skipped"] or [()] * len(self.phase.players)
        players = zip(self.phase.players, skipped, strict=True)
        with random.region(self.seed, "critics", index):
            self.actors = [
                Actor(player, loop.recipe, self.model, counts, loop.place, self._shared) for player, counts in players
            ]
        self.quantizers = [module for module in self.model.modules() if isinstance(module, Quantizer)]
        self.selects = self.model.kind is not Kind.NONE and all(actor.selects for actor in self.actors)
        self.frozen: Frozen | None = None
        self.budget = Budget(self.phase, len(loop.source.train), self.at)
        self.log_every = min(LOG_STEPS, self.budget.every or LOG_STEPS)

    def go(self) -> None:
        """Trains to the end of the budget and leaves the best weights in the model."""
        self._begin()
        self._pass_what_is_frozen()
        whole = compiled(self.model) if self.loop.compiled else self.model
        wrapped = self._over(self.fabric.setup_module(whole, move_to_device=False))
        saved = time.monotonic()
        with random.shard(*self.shard), self._compilation():
            while self.budget.done() < 1:
                began = time.monotonic()
                self._step(wrapped)
                self._tick(time.monotonic() - began)
                due = self.budget.due()
                if due:
                    self._validate()
                if due or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self._save()
                    saved = time.monotonic()
        self._finish()

    def _begin(self) -> None:
        """Restores a checkpoint of this phase, or fits what is fitted and starts afresh."""
        if self.at["step"]:
            state.restore(self.loop.last, self._modules(), self._optimizers())
        else:
            self._fit()
            for actor in self.actors:
                actor.restart_average(self.model)
        self._freeze(self.actors)
        of = f" {self.index + 1} of {len(self.loop.recipe.train)}" if len(self.loop.recipe.train) > 1 else ""
        self.view.phase(f"training{of}")

    def _pass_what_is_frozen(self) -> None:
        """Encodes the data once, where the lowest stages hold still and nothing but their terms is asked for."""
        stages = frozen_stages(self.model, self.loop.source)
        if not stages or not all(objective.of_terms for actor in self.actors for _, objective in actor.terms):
            return
        found = self.frozen = encoded(self.model, self.loop.source, self.batches, stages)
        self.batches = Batches(found.source, self.phase.batch_size, self.seed, self.index, self.shard)
        if self.loop.first:
            before = self.loop.run.record.get("encoded", {})
            self.loop.run.change_record(encoded={**before, str(self.index): found.digest})

    def _over(self, model: Any) -> Any:
        """The model, wrapped or bare, from where this phase begins."""
        return model if self.frozen is None else self.frozen.over(model)

    def _fit(self) -> None:
        """Fits what is fitted; of what an earlier phase trained, or another run, nothing is set anew."""
        kept = [(value, value.detach().clone()) for value in self._trained()]
        self.model.eval()
        fit(self.model, self.batches, self.seed, self.index)
        with torch.no_grad():
            for value, before in kept:
                value.copy_(before)
            if self.loop.begun is not None and self.index == self.loop.begun.phase:
                self.loop.begun.put_into(self.model)

    def _trained(self) -> list[Tensor]:
        """The parameters that earlier phases trained; all, where some were taken over from another run."""
        if self.loop.begun is not None and self.index > self.loop.begun.phase:
            return list(self.model.parameters())
        players = [player for phase in self.loop.recipe.train[: self.index] for player in phase.players]
        return [value for player in players for path in player.trains for value in part(self.model, path).parameters()]

    def _freeze(self, actors: list[Actor]) -> None:
        """Leaves gradients and training mode to what these players train."""
        trained = {id(value) for actor in actors for value in actor.descent.parameters}
        for value in self.model.parameters():
            value.requires_grad_(id(value) in trained)
        self.model.eval()
        for actor in actors:
            for path in actor.player.trains:
                self._in_training(part(self.model, path))

    def _in_training(self, trained: torch.nn.Module) -> None:
        """A part, and densities that enclose it: a diffusion spreads the times that its network sees in training."""
        trained.train()
        name = next(name for name, module in self.model.named_modules() if module is trained)
        while "." in name:
            name = name.rpartition(".")[0]
            enclosing = self.model.get_submodule(name)
            enclosing.training = enclosing.training or isinstance(enclosing, Density)

    def _compilation(self) -> AbstractContextManager[None]:
        """Where the model is compiled: says what to do where that fails, which it does at a first step."""
        if not self.loop.compiled:
            return nullcontext()
        return explained(f"go on without: compose train --resume {self.loop.run.path} --no-compile")

    def _step(self, wrapped: Any) -> None:
        step = self.at["step"]
        x, c = self.batches.at(step)
        for j, actor in enumerate(self.actors):
            self._turn(j)
            rivals = [self._rival_step(j, k, x, c, step) for k in range(len(actor.rivals))]
            self._reseed(j, step)
            rate = actor.descent.set_rate(step, self.budget.done())
            loss = actor.loss(wrapped, x, c, step)
            self.fabric.backward(loss.value)
            kept = actor.descent.step(step, self._shared(loss.value.detach()))
            for quantizer in self.quantizers:
                if quantizer.training:
                    quantizer.settle(kept)
            if actor.average is not None:
                actor.average.update_parameters(self.model)
            if (step + 1) % self.log_every == 0 or step == 0:
                self._report(j, loss, rate, rivals)
        self._stop_if_hopeless()

    def _rival_step(self, player: int, index: int, x: Tensor, c: Tensor | None, step: int) -> Loss | None:
        """The steps of a rival before one of its player; its loss in the last of them, once it has set in."""
        rival, loss = self.actors[player].rivals[index], None
        if step < rival.term.start:
            return None
        rival.awake(True)
        rival.descent.set_rate(step, self.budget.done())
        for again in range(rival.objective.rival_steps):
            random.reseed(self.seed, "critic noise", self.index, player, index, step, again)
            # The bare model: nothing is to be synchronised that gets no gradient.
            loss = rival.objective.rival_loss(self.model, x, c, step)
            self.fabric.backward(loss.value)
            for value in rival.descent.parameters:
                if value.grad is not None:
                    value.grad = self._shared(value.grad)
            rival.descent.step(step, self._shared(loss.value.detach()))
        rival.awake(False)
        return loss

    def _turn(self, player: int) -> None:
        """Makes it a player's turn, and its rivals': only its parts train, where there are others."""
        if len(self.actors) > 1:
            self._freeze([self.actors[player]])

    def _reseed(self, player: int, step: int) -> None:
        random.reseed(self.seed, "model noise", self.index, player, step)

    def _shared(self, value: Tensor) -> Tensor:
        """The mean of a number over all devices."""
        return self.fabric.all_reduce(value.clone(), reduce_op="mean") if self.shard[1] > 1 else value

    def _tick(self, seconds: float) -> None:
        self.at["step"] += 1
        if self.phase.seconds is not None and self.shard[1] > 1:
            # Clocks differ; a budget that ended for one device alone would leave the others waiting for it.
            seconds = float(self._shared(torch.tensor(seconds, device=self.fabric.device)))
        self.at["seconds"] += seconds

    def _report(self, player: int, loss: Loss, rate: float, rivals: list[Loss | None]) -> None:
        """Reads the device once: the loss, its views, what else was written down, and how many steps were skipped."""
        parts = rates_and_distortion(loss.ledger.terms) | loss.ledger.penalties | loss.ledger.diagnostics
        actor = self.actors[player]
        parts["gradient norm"] = actor.descent.norm
        for rival, fought in zip(actor.rivals, rivals, strict=True):
            if fought is not None:
                parts |= fought.ledger.diagnostics | {f"{rival.objective.rival_name} gradient norm": rival.descent.norm}
        means = {name: value.detach().float().mean() for name, value in parts.items()}
        read = self._shared(torch.stack([loss.value.detach(), *means.values()])).tolist()
        values = dict(zip(["loss", *means], read, strict=True))
        for descent in actor.descents:
            descent.skips.read()
        others = {"player": player} if len(self.actors) > 1 else {}
        skipped = sum(descent.skips.total for descent in actor.descents)
        others |= {"lr": rate, "skipped": skipped, "seconds": self.at["seconds"]}
        self.log.write(self.index, self.at["step"] + 1, **others, **values)
        self.view.update(self.budget.done(), {k: value for k, value in values.items() if not k.endswith("norm")})

    def _stop_if_hopeless(self) -> None:
        """Ends the training where ten steps in a row were not finite."""
        for j, actor in enumerate(self.actors):
            for k, descent in enumerate(actor.descents):
                if descent.skips.fatal is not None:
                    raise TrainingError(self._last_words(j, k, descent.skips.fatal))

    def _last_words(self, player: int, descent: int, step: int) -> str:
        """Why the training stops at a step that was the tenth in a row to be skipped, by a player or a rival of it."""

        def again() -> Loss:
            self._turn(player)
            self._reseed(player, step)
            return self.actors[player].loss(self._over(self.model), *self.batches.at(step), step)

        last, mend = self.loop.last, f"Try a lower train.{self.index}.optimizer.lr, or train.{self.index}.clip=1.0."
        if descent:
            of = self.actors[player].rivals[descent - 1].term.objective.type
            cause, mend = f"what the rival in '{of}' minimises, or its gradient", "Try a lower lr in its 'optimizer'."
        else:
            cause = diagnosis(self.loop.recipe, self.model, again)
        at = f"of step {state.counters(last)['step']} is {last}" if last.is_file() else "was never written"
        return (
            f"{IN_A_ROW} steps in a row, up to step {step + 1} of phase {self.index}, were not finite: {cause}. "
            f"The last good checkpoint {at}. {mend}"
        )

    def _validate(self) -> None:
        """Scores the validation set; keeps the weights if they are the best so far, or the last where none is told."""
        scored = self._scored_model()
        modes = {module: module.training for module in scored.modules()}
        scored.eval()
        cost, judged = 0.0, self._judged_by()
        implicit = scored.kind is Kind.NONE
        if not implicit:
            split = self.loop.source.validation.thinned(LOOKED_AT)
            cost = cost_of(scored, split, judged, self.loop.recipe.evaluate.seed)
        for module, mode in modes.items():
            module.training = mode
        best = self.at["best"]
        if math.isfinite(cost) and (best is None or not self.selects or cost < best["cost"]):
            self.at["best"] = {"cost": cost, "step": self.at["step"]}
            if self.loop.first:
                state.save_model(self.best, scored)
        self.at["seen"] = self.at["step"]
        if not self.selects and self.loop.first:
            keep_snapshot(self.loop.run, self.index, self.at["step"], scored)
        if not implicit:
            # Of slow steps the last that was logged may lie long before the end, and with it the seconds spent.
            self.log.write(self.index, self.at["step"], **{f"validation {judged}": cost, "seconds": self.at["seconds"]})
            about = "~" if judged == "-ELBO" and stepwise(scored) else scored.kind.tilde
            self.view.note(f"step {self.at['step']:>6}   validation {judged} {about}{cost:.2f} nats")

    def _judged_by(self) -> str:
        """Which cost tells the best weights: the bound, unless no objective minds more than the distortion."""
        found = {objective.judged_by for actor in self.actors for _, objective in actor.terms}
        return found.pop() if len(found) == 1 else "-ELBO"

    def _scored_model(self) -> ModelDensity:
        """Of each player's parts the average of the weights, where it keeps one, else the trained ones."""
        averages = [self.model if actor.average is None else actor.average.module for actor in self.actors]
        scored = next((average for average in averages if average is not self.model), self.model)
        assert isinstance(scored, ModelDensity)
        for actor, own in zip(self.actors, averages, strict=True):
            # An average is one of the whole model; of what others train it is not looked at.
            for path in actor.player.trains if own is not scored else ():
                part(scored, path).load_state_dict(part(own, path).state_dict())
        return scored

    def _finish(self) -> None:
        """Ends the phase on its best weights."""
        if self.at["seen"] != self.at["step"]:
            self._validate()
        self._save()
        self.fabric.barrier()
        if self.at["best"] is None:
            raise TrainingError(f"no validation of phase {self.index} was finite, so there are no weights to keep.")
        load_model(self.best, self.model)
        self.view.update(1.0, {})

    def _save(self) -> None:
        """Writes a checkpoint, unless the last step was not finite."""
        descents = [descent for actor in self.actors for descent in actor.descents]
        for descent in descents:
            descent.skips.read()
        self._stop_if_hopeless()
        self.at["skipped"] = [[descent.skips.total for descent in actor.descents] for actor in self.actors]
        if self.loop.first and not any(descent.skips.streak for descent in descents):
            state.save(self.loop.last, self._modules(), self._optimizers(), self.at)

    def _modules(self) -> dict[str, Any]:
        averages = {f"average{j}": actor.average for j, actor in enumerate(self.actors) if actor.average is not None}
        rivals = {name: rival.objective for name, rival in self._rivals().items()}
        return {"model": self.model, **averages, **rivals}

    def _optimizers(self) -> dict[str, Any]:
        players = {f"optimizer{j}": actor.descent.optimizer for j, actor in enumerate(self.actors)}
        return {**players, **{f"descent of {name}": rival.descent.optimizer for name, rival in self._rivals().items()}}

    def _rivals(self) -> dict[str, Rival]:
        return {f"rival{j}.{k}": rival for j, actor in enumerate(self.actors) for k, rival in enumerate(actor.rivals)}
