"""Twenty steps of a shipped recipe, in full precision: seed 0, float32, one thread."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning_fabric import Fabric

from compose.recipe.check import load_recipe
from compose.recipe.recipe import Phase, Recipe
from compose.recipe.shipped import recipes_root
from compose.run import features, stretch
from compose.run.directory import Run
from compose.run.loop import Loop

STEPS = 20
FILE = Path(__file__).with_name("curves.json")
COMMAND = "python tests/golden/regenerate.py"

Curve = dict[str, list[float]]


def names() -> list[str]:
    """Every recipe on disk."""
    root = recipes_root()
    files = (file.relative_to(root) for file in root.rglob("*.yaml"))
    return sorted(file.with_suffix("").as_posix() for file in files if file.parts[0] != "ablations")


def golden() -> dict[str, Curve]:
    """The curves that are kept."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


def curve(name: str, folder: Path) -> Curve:
    """Trains each phase of a recipe for twenty steps, in an empty folder.

    Returns:
        ``loss`` of each step, and ``validation -ELBO`` at the end of each phase.

    Raises:
        DataError: the recipe's data are not on this machine.
    """
    recipe = short(load_recipe(name))
    torch.set_num_threads(1)
    run = Run.create(folder, recipe, {"plugins": {}})
    hasty = patch.object(features, "STEPS", STEPS), patch.dict(os.environ, COMPOSE_CACHE=str(folder / "cache"))
    with patch.object(stretch, "LOG_STEPS", 1), hasty[0], hasty[1]:
        Loop(run, Fabric(accelerator="cpu", devices=1), shown=False).run_phases()
    return {key: [line[key] for line in run.metrics() if key in line] for key in ("loss", "validation -ELBO")}


def short(recipe: Recipe) -> Recipe:
    """The recipe with a budget of twenty steps in each phase and one look at the validation set."""
    budget: dict[str, Any] = {"steps": STEPS, "epochs": None, "seconds": None, "validate_every": STEPS}
    phases = [Phase.model_copy(phase, update=budget) for phase in recipe.train]
    return recipe.model_copy(update={"train": phases, "seed": 0})
