"""A player at work: parameters, objectives, an optimizer, an average of the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compose.core.declare import Slot
from compose.core.errors import TrainingError
from compose.core.model import ModelDensity
from compose.core.objective import Loss, Objective
from compose.recipe.recipe import Optimizer, Player, Recipe
from compose.run.skips import Skips

if TYPE_CHECKING:
    from torch.optim.swa_utils import AveragedModel


class Actor:
    """Trains the parts that a player names.

    Args:
        player: Its declaration.
        recipe: The recipe it stands in, for the objectives' slots.
        model: The bare model.
        skipped: How many of its steps were skipped before.
    """

    def __init__(self, player: Player, recipe: Recipe, model: ModelDensity, skipped: int = 0) -> None:
        space, labels = recipe.spaces()
        slot = Slot("objective", space, labels=labels, model=recipe.model)
        self.player = player
        self.terms = [(term, _objective(term.objective.build(slot))) for term in player.objectives]
        self.parameters = trained_parameters(model, player.trains)
        if not self.parameters:
            raise TrainingError(f"the player that trains {', '.join(player.trains)} has no parameter to train.")
        self.optimizer = make_optimizer(self.parameters, player.optimizer)
        self.average = _average(model, player.ema) if player.ema else None
        self.skips = Skips(skipped)

    def restart_average(self, model: ModelDensity) -> None:
        """Starts the average of the weights at those of ``model``, once these are set."""
        if self.average is not None:
            self.average = _average(model, self.player.ema or 0.0)

    def loss(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """The weighted sum of its objectives that have set in."""
        losses = [(term.weight, act(model, x, c, step)) for term, act in self.terms if step >= term.start]
        if not losses:
            raise TrainingError(f"no objective of the player has set in at step {step}; let one start at 0.")
        (weight, first), *rest = losses
        value = first.value if weight == 1 else weight * first.value
        for weight, loss in rest:
            value = value + weight * loss.value
        return Loss(value, first.ledger)

    def set_rate(self, step: int, done: float) -> float:
        """Sets the learning rate: ``done`` is the share of the budget that is spent."""
        options = self.player.optimizer
        rise = min(1.0, (step + 1) / options.warmup) if options.warmup else 1.0
        fall = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * min(1.0, done)))}
        rate = options.lr * rise * fall[options.schedule]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def step(self, step: int, loss: Tensor) -> None:
        """Descends where loss and gradient are finite; else leaves everything as it is, and counts that.

        Args:
            step: Steps taken in this phase.
            loss: The loss on the whole batch, over all devices, so that all of them decide alike.
        """
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        skipped = (~torch.isfinite(loss + norm)).float()
        self.skips.add(step, skipped)
        if self.player.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.player.clip, norm)
        if self.optimizer.defaults.get("fused"):
            # torch's fused optimizers skip a step on the device where this is 1, so nothing is read back here.
            self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not skipped.item():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def trained_parameters(model: ModelDensity, paths: list[str]) -> list[nn.Parameter]:
    """The parameters of the parts at some key paths, each once."""
    found: dict[int, nn.Parameter] = {}
    for path in paths:
        found.update({id(parameter): parameter for parameter in part(model, path).parameters()})
    return list(found.values())


def part(model: nn.Module, path: str) -> nn.Module:
    """The module of the part at a key path."""
    return model.get_submodule(path.removeprefix("model").removeprefix("."))


def make_optimizer(parameters: list[nn.Parameter], options: Optimizer) -> torch.optim.Optimizer:
    """torch's optimizer of that name, fused where there is a fused one."""
    first, second = options.betas
    shared: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.type == "sgd":
        # The fused one starts its momentum at random memory where the first step is skipped.
        return torch.optim.SGD(parameters, momentum=first, **shared)
    if options.type == "adamax":
        return torch.optim.Adamax(parameters, betas=(first, second), **shared)
    kind = torch.optim.AdamW if options.type == "adamw" else torch.optim.Adam
    return kind(parameters, betas=(first, second), fused=True, **shared)


def _average(model: nn.Module, decay: float) -> AveragedModel:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def _objective(module: nn.Module) -> Objective:
    assert isinstance(module, Objective)
    return module
