"""From a recipe to a module."""

from __future__ import annotations

from compose.core import random
from compose.core.errors import RecipeError
from compose.core.model import ModelDensity
from compose.core.spaces import Codes, Space
from compose.parts.densities.model import Model
from compose.recipe.check import check_declared, model_slot
from compose.recipe.recipe import Recipe


def build(recipe: Recipe) -> ModelDensity:
    """Builds the model of a recipe with freshly initialised weights, by the recipe's seed.

    Returns:
        A ``torch.nn.Module`` that is a density over one datum.

    Raises:
        RecipeError: with every fault.
    """
    checked = check_declared(recipe)
    if checked.faults:
        raise RecipeError(checked.faults)
    return build_model(recipe.model, checked.space, checked.labels, recipe.seed)


def build_model(model: Model, space: Space, labels: Codes | None = None, seed: int = 0) -> ModelDensity:
    """Builds a declared model over ``space``; the caller has checked that it fits."""
    with random.region(seed, "initialisation"):
        built = model.build(model_slot(space, labels))
    assert isinstance(built, ModelDensity)
    return built
