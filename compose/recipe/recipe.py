"""What a recipe says: data, model, phases of training, evaluation, seed."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BeforeValidator, model_validator
from pydantic_core import PydanticCustomError

from compose.core.declare import MAPPING, DataPart, Declared, part_field
from compose.core.optimizer import Optimizer
from compose.core.samplers import Samplers
from compose.core.spaces import Codes, Space
from compose.parts.densities.model import Model


def _without_type(value: Any) -> Any:
    """The model of a recipe needs no ``type: model``, and may have it."""
    if isinstance(value, dict) and value.get("type") == "model":
        return {key: option for key, option in value.items() if key != "type"}
    return value


class Term(Declared):
    """One objective of a player, with its weight and start."""

    objective: part_field("objective")  # type: ignore[valid-type]
    """What is minimised."""
    weight: Annotated[float, Ge(0)] = 1.0
    """Factor of the loss."""
    start: Annotated[int, Ge(0)] = 0
    """Step of the phase at which it sets in."""


class Player(Declared):
    """Trains some parts towards some objectives with one optimizer."""

    trains: Annotated[list[str], MinLen(1)] = ["model"]
    """Key paths of the parts it trains; all others are frozen for it."""
    objectives: Annotated[list[Annotated[Term, MAPPING]], MinLen(1)]
    """What it minimises, summed."""
    optimizer: Annotated[Optimizer, MAPPING] = Optimizer()
    """How."""
    clip: Annotated[float, Gt(0)] | None = None
    """Largest norm of the gradient; none to leave it."""
    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    """Decay of an average of the weights, which evaluation and sampling then use."""


class Phase(Declared):
    """A stretch of training: players, batch size and a budget.

    One player is the rule, so its keys (``objective``, ``optimizer``, ``clip``, ``ema``, ``trains``) may stand in the
    phase itself; several stand in ``players``.
    """

    shorthand: ClassVar[tuple[str, ...]] = ("objective", "optimizer", "clip", "ema", "trains")

    players: Annotated[list[Annotated[Player, MAPPING]], MinLen(1)]
    """Who trains what; they step in turn."""
    batch_size: Annotated[int, Ge(1), Le(1_000_000)] = 128
    """Examples a step, over all devices together."""
    steps: Annotated[int, Ge(1)] | None = None
    """Budget in steps."""
    epochs: Annotated[float, Gt(0)] | None = None
    """Budget in passes over the training set."""
    seconds: Annotated[float, Gt(0)] | None = None
    """Budget in seconds of training, evaluation left out."""
    validate_every: Annotated[int, Ge(1)] | None = None
    """Steps between looks at the validation set, 2,000 of it at most; a tenth of the budget where left out."""

    @model_validator(mode="before")
    @classmethod
    def _one_player(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "players" in value:
            return value
        own = {key: value[key] for key in cls.shorthand if key in value and key != "objective"}
        rest = {key: value[key] for key in value if key not in cls.shorthand}
        return {**rest, "players": [{"objectives": [{"objective": value.get("objective", "elbo")}], **own}]}

    @model_validator(mode="after")
    def _one_budget(self) -> Phase:
        given = [key for key in ("steps", "epochs", "seconds") if getattr(self, key) is not None]
        if len(given) != 1:
            came = f"{' and '.join(given)} are given; null takes one away" if given else "none is given"
            raise PydanticCustomError(
                "budget",
                "a phase has one budget, steps, epochs or seconds, and {came}",
                {"came": came, "keys": "steps epochs seconds"},
            )
        return self


class Evaluation(Declared):
    """How a trained model is scored."""

    samples: Annotated[int, Ge(1), Le(1_000_000)] = 100
    """K of NLL(K); where the model's kind refuses K > 1 the column stays blank."""
    seed: int = 0
    """Seed of the evaluation's own noise."""
    sampler: Samplers | None = None
    """Of a diffusion: how the samples are drawn that are set beside data; by default link by link."""
    steps: Annotated[int, Ge(1), Le(10_000)] | None = None
    """Of a diffusion: in how many steps these are drawn; by default in its own."""


class Recipe(Declared):
    """A model, its data and its training, as data."""

    data: part_field("data")  # type: ignore[valid-type]
    """What is modelled."""
    model: Annotated[Model, MAPPING, BeforeValidator(_without_type)]
    """The stages and the prior."""
    train: Annotated[list[Annotated[Phase, MAPPING]], MinLen(1)]
    """Phases, one after the other."""
    evaluate: Annotated[Evaluation, MAPPING] = Evaluation()
    """How the result is scored."""
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    """Seed of everything random in training."""

    def spaces(self) -> tuple[Space, Codes | None]:
        """The space of one datum and of its label.

        Raises:
            DataError: the data's files are missing or broken.
        """
        assert isinstance(self.data, DataPart)
        return self.data.spaces()
