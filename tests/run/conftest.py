"""Small recipes on the digits, and trainings that need no progress bar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compose.core import registry
from compose.data.digits import Digits
from compose.nets.mlp import MLP
from compose.parts.densities.model import Model
from compose.parts.stages.latent import Latent
from compose.recipe.recipe import Evaluation, Recipe
from compose.run.directory import Run
from compose.run.train import train

Make = Callable[..., Recipe]
Go = Callable[..., Run]


def _recipe(
    prior: Any = "normal",
    data: dict[str, Any] | None = None,
    train: list[dict[str, Any]] | None = None,
    stages: list[Any] | None = None,
    seed: int = 0,
    samples: int = 2,
    **phase: Any,
) -> Recipe:
    """A VAE of the digits with 4 latent numbers; one phase of 20 steps unless said otherwise."""
    digits = Digits.model_validate(data or {})
    net = MLP(hidden=[32])
    latent = Latent(dim=4, encoder=net, decoder=net, likelihood="bernoulli" if digits.binarize else "categorical")  # type: ignore[arg-type]
    if not train:
        budget = {} if phase.keys() & {"steps", "epochs", "seconds"} else {"steps": 20}
        train = [{"batch_size": 50, **budget, **phase}]
    return Recipe.model_validate(
        {
            "data": digits,
            "model": Model(stages=stages or [latent], prior=prior),
            "train": train,
            "evaluate": Evaluation(samples=samples),
            "seed": seed,
        }
    )


@pytest.fixture(scope="session")
def recipe() -> Make:
    """Makes a small recipe."""
    return _recipe


def _go(recipe: Recipe, out: Path, **how: Any) -> Run:
    return train(recipe, out, **{"accelerator": "cpu", "threads": 1, "progress": False, **how})


@pytest.fixture(scope="session")
def go() -> Go:
    """Trains a recipe quietly on one thread."""
    return _go


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 120 steps with the best weights somewhere on the way; not to be changed, but for its scores."""
    return _go(_recipe(steps=120, validate_every=20), tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def plugin() -> Path:
    """Parts that misbehave, loaded for one test."""
    file = Path(__file__).with_name("parts.py")
    registry.load_plugin(file)
    return file
