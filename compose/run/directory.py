"""The run directory: what was trained, on what, with what, and what came out.

recipe.yaml        the resolved recipe, every default written out
run.json           versions, seeds, digests, plugins, how it was run
metrics.jsonl      one line each logging interval and each validation
model.safetensors  the best weights by validation
last.safetensors   everything to go on from; best-0.safetensors the best weights of phase 0 so far
figures/, tensorboard/
scores.safetensors, scores.json   the scores of every example, and the ledger; written last
"""

from __future__ import annotations

import json
import os
import platform
import sys
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compose.core import registry
from compose.core.errors import RecipeError, RunError
from compose.recipe.build import build
from compose.recipe.check import load_recipe
from compose.recipe.recipe import Recipe
from compose.run.weights import load_model

if TYPE_CHECKING:
    from compose.core.model import ModelDensity

_RECORDED = ("torch", "numpy", "nflows", "pydantic", "lightning-fabric", "safetensors")


class Run:
    """A run directory that exists.

    Args:
        path: The directory.

    Raises:
        RunError: it is no run directory.
    """

    def __init__(self, path: str | Path | Run) -> None:
        self.path = path.path if isinstance(path, Run) else Path(path)
        if (self.path / "recipe.yaml").is_file():
            return
        if _never_begun(self.path):
            raise RunError(
                f"{path} was stopped before its recipe was written; 'compose train RECIPE --out {path}' begins."
            )
        raise RunError(f"{path} is no run: it holds no recipe.yaml. 'compose train RECIPE --out DIR' makes one.")

    @classmethod
    def create(cls, path: str | Path, recipe: Recipe, record: dict[str, Any]) -> Run:
        """Makes the directory and writes what is known before training.

        Raises:
            RunError: it already holds something, cannot be written, or the recipe cannot be kept in a file.
        """
        from compose.recipe.write import to_yaml

        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()) and not _never_begun(folder):
                raise RunError(f"{folder} is not empty; choose another --out, or go on with it by --resume {folder}.")
            write_text(folder / "run.json", json.dumps({**record, **_versions()}, indent=2) + "\n")
            write_text(folder / "recipe.yaml", to_yaml(recipe, full=True))
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error.strerror}.") from error
        run = cls(folder)
        run._reads_back()
        return run

    def _reads_back(self) -> None:
        """Takes back what ``create`` wrote, where no run could be loaded from it."""
        try:
            _ = self.recipe
        except RecipeError as error:
            for name in ("recipe.yaml", "run.json"):
                (self.path / name).unlink()
            raise RunError(
                f"this recipe does not read back from a file, so its run could not be loaded: {error} "
                "A module of your own needs a name: register it with compose.module, in a plugin."
            ) from error

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe, read once.

        Raises:
            RunError: it was made with a plugin that is not loaded.
        """
        known = registry.plugins().values()
        missing = [file for file, digest in self.record["plugins"].items() if digest not in known]
        if missing:
            raise RunError(f"{self.path} was made with {', '.join(missing)}; load it by --plugin FILE (same content).")
        return load_recipe(self.path / "recipe.yaml")

    @property
    def record(self) -> dict[str, Any]:
        """Versions, seeds and digests."""
        return self._json("run.json")

    def change_record(self, **entries: Any) -> None:
        """Puts entries in place of those in ``run.json``."""
        write_text(self.path / "run.json", json.dumps({**self.record, **entries}, indent=2) + "\n")

    @property
    def figures(self) -> Path:
        """The directory of pictures; made when first asked for."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def finished(self) -> bool:
        """Whether its training came to its end."""
        return (self.path / "model.safetensors").is_file()

    @property
    def scored(self) -> bool:
        """Whether it was scored after that, the last there is to do."""
        return self.finished and (self.path / "scores.json").is_file()

    def scores(self) -> dict[str, Any]:
        """What evaluation wrote.

        Raises:
            RunError: nothing was evaluated yet.
        """
        return self._json("scores.json")

    def metrics(self, count: int | None = None) -> list[dict[str, Any]]:
        """The training's log: its first ``count`` lines, or all."""
        file = self.path / "metrics.jsonl"
        # What follows the last newline is a line that was being written when the training was stopped.
        lines = file.read_text().split("\n")[:-1] if file.is_file() else []
        return [json.loads(line) for line in lines[:count]]

    def training_seconds(self, since: int = 0) -> float:
        """Seconds of training from phase ``since`` on, evaluation left out, as far as they were logged."""
        spent: dict[int, float] = {}
        for line in self.metrics():
            spent[line["phase"]] = line.get("seconds") or spent.get(line["phase"], 0.0)
        return sum(seconds for phase, seconds in spent.items() if phase >= since)

    def model(self) -> ModelDensity:
        """The trained model, in evaluation mode.

        Raises:
            RunError: the training has not finished, was made with a plugin that is not loaded, or the weights are not
                of its recipe.
        """
        file = self.path / "model.safetensors"
        if not file.is_file():
            raise RunError(f"{self.path} has no {file.name}: go on with it by 'compose train --resume {self.path}'.")
        model = build(self.recipe)
        load_model(file, model)
        return model.eval()

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        if not file.is_file():
            raise RunError(f"{self.path} holds no {name}; 'compose evaluate {self.path}' writes scores.json.")
        return json.loads(file.read_text())


def load(path: str | Path) -> ModelDensity:
    """The trained model of a run, in evaluation mode; needs no pickle.

    Raises:
        RunError: no run, not finished, or a plugin is missing.
    """
    return Run(path).model()


def _never_begun(folder: Path) -> bool:
    """Whether a directory holds nothing but what comes before the recipe."""
    names = {"run.json", *(_partial(folder / name).name for name in ("run.json", "recipe.yaml"))}
    found = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    return bool(found) and found <= names


def free_path(name: str, root: str | Path = "runs") -> Path:
    """``runs/NAME``, or with the first number that makes it new."""
    path, number = Path(root) / name, 2
    while path.exists():
        path, number = Path(root) / f"{name}-{number}", number + 1
    return path


def write_text(path: Path, text: str) -> None:
    """Writes a file in one step: whoever reads finds the old text or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file in one step, down to the disk."""
    partial = _partial(path)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _versions() -> dict[str, Any]:
    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in _RECORDED}},
        "plugins": registry.plugins(),
        "installed parts": registry.installed(),
        "command": " ".join(sys.argv),
    }
