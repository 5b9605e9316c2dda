"""A player at work: parameters, objectives and their rivals, optimizers, an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compose.core.declare import Slot
from compose.core.errors import TrainingError
from compose.core.model import ModelDensity
from compose.core.objective import Loss, Objective
from compose.core.optimizer import Optimizer
from compose.core.terms import Ledger
from compose.recipe.recipe import Player, Recipe, Term
from compose.run.features import perceived_by
from compose.run.skips import Skips

if TYPE_CHECKING:
    from torch.optim.swa_utils import AveragedModel


class Descent:
    """Some parameters, the optimizer that moves them, and its count of steps that were not finite.

    Args:
        parameters: What descends.
        options: How.
        clip: Largest norm of the gradient; none to leave it.
        skipped: How many of its steps were skipped before.

    ``norm`` is that of the last gradient, before it was clipped.
    """

    norm: Tensor

    def __init__(
        self, parameters: list[nn.Parameter], options: Optimizer, clip: float | None = None, skipped: int = 0
    ) -> None:
        self.parameters, self.options, self.clip = parameters, options, clip
        self.optimizer = make_optimizer(parameters, options)
        self.skips = Skips(skipped)

    def set_rate(self, step: int, done: float) -> float:
        """Sets the learning rate: ``done`` is the share of the budget that is spent."""
        options = self.options
        rise = min(1.0, (step + 1) / options.warmup) if options.warmup else 1.0
        fall = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * min(1.0, done)))}
        rate = options.lr * rise * fall[options.schedule]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def step(self, step: int, loss: Tensor) -> Tensor:
        """Descends where loss and gradient are finite; else leaves everything as it is, and counts that.

        Args:
            step: Steps taken in this phase.
            loss: The loss on the whole batch, over all devices, so that all of them decide alike.

        Returns:
            Whether the step was taken, on the device.
        """
        norm = self.norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        kept = torch.isfinite(loss + norm)
        skipped = (~kept).float()
        self.skips.add(step, skipped)
        if self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        if self.optimizer.defaults.get("fused"):
            # torch's fused optimizers skip a step on the device where this is 1, so nothing is read back here.
            self.optimizer.found_inf = skipped  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not skipped.item():
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return kept


class Rival:
    """An objective with weights of its own, which descend against its player's.

    Args:
        term: Its declaration.
        objective: Its module.
        skipped: How many of its steps were skipped before.
    """

    def __init__(self, term: Term, objective: Objective, skipped: int = 0) -> None:
        assert objective.rival is not None, "an objective without a rival was taken for one"
        self.term, self.objective = term, objective
        self.descent = Descent(list(objective.parameters()), objective.rival, skipped=skipped)

    def awake(self, awake: bool) -> None:
        """Whether its weights gather a gradient: in its own steps alone."""
        for value in self.descent.parameters:
            value.requires_grad_(awake)


class Actor:
    """Trains the parts that a player names.

    Args:
        player: Its declaration.
        recipe: The recipe it stands in, for the objectives' slots.
        model: The bare model.
        skipped: How many steps were skipped before: its own, then of each rival.
        place: Moves a module to where, and in which precision, the training computes.
        shared: The mean of a number over all devices.
    """

    def __init__(
        self,
        player: Player,
        recipe: Recipe,
        model: ModelDensity,
        skipped: Sequence[int] = (),
        place: Callable[[nn.Module], nn.Module] = lambda module: module,
        shared: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        space, labels = recipe.spaces()
        slot = Slot("objective", space, labels=labels, model=recipe.model)
        self.player, self.model, self.shared = player, model, shared
        self.terms = [(term, _objective(place(term.objective.build(slot)))) for term in player.objectives]
        for term, objective in self.terms:
            if objective.perceives:
                objective.receive(_perception(recipe, term).to(next(model.parameters()).device))
        rivals = [(term, objective) for term, objective in self.terms if objective.rival is not None]
        counts = [*skipped, *[0] * (1 + len(rivals) - len(skipped))]
        parameters = trained_parameters(model, player.trains)
        if not parameters:
            raise TrainingError(f"the player that trains {', '.join(player.trains)} has no parameter to train.")
        self.descent = Descent(parameters, player.optimizer, player.clip, counts[0])
        self.rivals = [Rival(*pair, count) for pair, count in zip(rivals, counts[1:], strict=True)]
        self.average = _average(model, player.ema) if player.ema else None
        for rival in self.rivals:
            rival.awake(False)

    @property
    def descents(self) -> list[Descent]:
        """Its own, then that of each rival."""
        return [self.descent, *(rival.descent for rival in self.rivals)]

    @property
    def selects(self) -> bool:
        """Whether the validation bound says which weights are best: not against a rival, who minds other things."""
        return not self.rivals

    def restart_average(self, model: ModelDensity) -> None:
        """Starts the average of the weights at those of ``model``, once these are set."""
        if self.average is not None:
            self.average = _average(model, self.player.ema or 0.0)

    def loss(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """The weighted sum of its objectives that have set in, with all that they wrote down."""
        acting = [(term, act, act(model, x, c, step)) for term, act in self.terms if step >= term.start]
        if not acting:
            raise TrainingError(f"no objective of the player has set in at step {step}; let one start at 0.")
        # What is balanced comes last: its weight is taken from the sum of all others.
        (term, _, first), *rest = sorted(acting, key=lambda each: each[1].balanced)
        value = first.value if term.weight == 1 else term.weight * first.value
        ledger = first.ledger
        for term, act, loss in rest:
            weight: float | Tensor = term.weight
            notes = ledger.diagnostics | loss.ledger.diagnostics
            if act.balanced:
                ratio = self._ratio(value, loss.value, act.balanced_at(self.model))
                weight, notes = weight * ratio, notes | {f"weight of {term.objective.type}": term.weight * ratio}
            value = value + weight * loss.value
            ledger = Ledger(ledger.terms | loss.ledger.terms, ledger.penalties | loss.ledger.penalties, notes)
        return Loss(value, ledger)

    def _ratio(self, others: Tensor, own: Tensor, at: Tensor) -> Tensor:
        """How much longer the gradient of other losses is than a loss's own, at some weights; at most 10,000 times."""
        with _inside_backward():
            gradients = [torch.autograd.grad(value, at, retain_graph=True)[0] for value in (others, own)]
        longer, own_norm = (self.shared(gradient).norm() for gradient in gradients)
        return (longer / (own_norm + 1e-4)).clamp(max=1e4).detach()


@contextmanager
def _inside_backward() -> Iterator[None]:
    """Lets a gradient pass what fabric hands out in mixed precision, which only its own ``backward`` may else do."""
    from lightning_fabric import wrappers

    before, wrappers._in_fabric_backward = wrappers._in_fabric_backward, True
    try:
        yield
    finally:
        wrappers._in_fabric_backward = before


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


def _perception(recipe: Recipe, term: Term) -> nn.Module:
    network = perceived_by(recipe.data)
    if network is None:
        raise TrainingError(
            f"'{term.objective.type}' compares by a classifier of the data set, and '{recipe.data.type}' gives no "
            f"class labels; hand it another network: network: {{type: wrap, ...}}."
        )
    return network


def _average(model: nn.Module, decay: float) -> AveragedModel:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def _objective(module: nn.Module) -> Objective:
    assert isinstance(module, Objective)
    return module
