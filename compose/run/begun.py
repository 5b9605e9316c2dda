"""Where a training begins: with weights of another run in place of fresh ones.

``begun.safetensors`` in a run directory holds them, and says from which phase on is left to train.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from compose.core.declare import ObjectivePart
from compose.core.errors import RunError
from compose.recipe.recipe import Recipe
from compose.recipe.write import plain
from compose.run.directory import Run, write_bytes, write_text
from compose.run.weights import read_tensors

if TYPE_CHECKING:
    from torch import nn

FILE = "begun.safetensors"


@dataclass(frozen=True)
class Begun:
    """What a training takes over.

    Args:
        weights: By name in the model's state; all others stay fresh.
        phase: The first phase that is left to train.
        of: The run they come from.
    """

    weights: Mapping[str, Tensor]
    phase: int
    of: str

    def keep(self, run: Run, lines: list[dict[str, Any]] | None = None) -> None:
        """Writes them into a run that was just made, with the log of the phases that are not trained again."""
        from safetensors.torch import save

        weights = {name: value.contiguous().clone() for name, value in self.weights.items()}
        write_text(run.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines or []))
        run.change_record(begun={"of": self.of, "phase": self.phase})
        write_bytes(run.path / FILE, save(weights, {"phase": str(self.phase), "of": self.of}))

    def put_into(self, model: nn.Module) -> None:
        """Puts the weights into a model that has all of them."""
        # In place, so that an optimizer that knows them already still does.
        state = model.state_dict()
        for name, value in self.weights.items():
            state[name].copy_(value)


def begun(path: Path) -> Begun | None:
    """What the run at ``path`` takes over; none where it begins afresh."""
    from safetensors import safe_open

    if not (path / FILE).is_file():
        return None
    with safe_open(path / FILE, "pt") as file:
        said = file.metadata()
        return Begun({name: file.get_tensor(name) for name in file.keys()}, int(said["phase"]), said["of"])  # noqa: SIM118


def first_phase(recipe: Recipe) -> dict[str, Any] | None:
    """All that the outcome of a first phase depends on, where its prior has no part in it; none where it has.

    Recipes in which it is equal come to the same weights, bit for bit, so one training of it serves them all.
    """
    phase, *rest = recipe.train
    trained = [path for player in phase.players for path in player.trains]
    objectives = [term.objective for player in phase.players for term in player.objectives]
    if not rest or not all(path.startswith("model.stages.") for path in trained):
        return None
    if any(not isinstance(each, ObjectivePart) or "prior" in each.reaches for each in objectives):
        return None
    said = plain(recipe, full=True)
    model = {key: value for key, value in said["model"].items() if key != "prior"}
    seeds = {"seed": recipe.seed, "evaluation": recipe.evaluate.seed}
    return {"data": said["data"], "model": model, "train": said["train"][0], **seeds}


def ended_first_phase(run: Run) -> bool:
    """Whether a run has its first phase behind it."""
    took = begun(run.path)
    return run.finished or (took is not None and took.phase > 0) or any(line["phase"] > 0 for line in run.metrics())


def after_first_phase(run: Run, recipe: Recipe) -> Begun:
    """What a training of a recipe takes over from a run with the same first phase.

    Raises:
        RunError: the first phases differ, the run has not ended its own, or its weights cannot be read.
    """
    mine, its = first_phase(recipe), first_phase(run.recipe)
    if mine is None:
        raise RunError("the first phase of this recipe trains more than stages, or minds its prior, so it is its own.")
    if mine != its:
        differ = [key for key in mine if its is None or mine[key] != its[key]]
        raise RunError(f"the first phase of {run.path} is another one: its {', '.join(differ)} differ.")
    if not ended_first_phase(run):
        raise RunError(f"{run.path} has not ended its first phase.")
    trained = [path.removeprefix("model.") + "." for player in recipe.train[0].players for path in player.trains]
    took = begun(run.path)
    weights = took.weights if took is not None and took.phase else read_tensors(run.path / "best-0.safetensors")
    kept = {name: value for name, value in weights.items() if name.startswith(tuple(trained))}
    return Begun(kept, 1, str(run.path))
