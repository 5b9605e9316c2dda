"""SIGKILL at any moment: the resumed run ends bit-equal to one that was never interrupted."""

from __future__ import annotations

import json
import multiprocessing
import random
import runpy
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compose.core.errors import RunError
from compose.parts.stages.standardize import Standardize
from compose.recipe.recipe import Recipe
from compose.recipe.write import to_yaml
from compose.run.train import resume

pytestmark = pytest.mark.long

CHILD = str(Path(__file__).with_name("child.py"))
PRELOADED = ["compose.run.train", "compose.run.loop", "compose.run.figures", "compose.data.digits"]
PRELOADED += ["lightning_fabric", "torch.utils.tensorboard", "matplotlib.figure", "PIL.Image", "sklearn.datasets"]
DEATH = -9
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


@dataclass
class Subject:
    """A recipe as a file, its run without a stop, and how long that took."""

    recipe: Path
    whole: Path
    seconds: float


def start(recipe: Path, path: Path, **death: Any) -> Any:
    """Starts a training, or goes on with one, in a process forked from one that has torch."""
    task = {"recipe": str(recipe), "path": str(path), **death}
    process = CONTEXT.Process(target=runpy.run_path, args=(CHILD, {"TASK": task}), daemon=True)
    process.start()
    return process


def finish(recipe: Path, path: Path, **death: Any) -> int:
    process = start(recipe, path, **death)
    process.join(200)
    assert process.exitcode is not None, "the training hangs"
    return process.exitcode


def plain(recipe: Callable[..., Recipe]) -> Recipe:
    return recipe(steps=300, validate_every=10, optimizer={"lr": 3e-3, "schedule": "cosine"})


def averaged(recipe: Callable[..., Recipe]) -> Recipe:
    """Fresh binarisation and noise in each step, an average of the weights, a fitted and trained prior."""
    prior = {"type": "vamp", "components": 20}
    how = {"steps": 240, "validate_every": 15, "ema": 0.95, "clip": 5.0, "optimizer": {"type": "sgd", "lr": 1e-3}}
    return recipe(prior=prior, data={"binarize": True}, **how)


def rivalled(recipe: Callable[..., Recipe]) -> Recipe:
    """A critic beside the bound, with two steps of its own before each of the model."""
    critic = {"type": "adversarial", "critic": {"type": "mlp", "hidden": [16]}, "paired": True, "r1": 0.1, "steps": 2}
    terms = [{"objective": "elbo"}, {"objective": critic, "weight": 0.1, "start": 40}]
    return recipe(train=[{"steps": 150, "batch_size": 50, "validate_every": 10, "players": [{"objectives": terms}]}])


def phased(recipe: Callable[..., Recipe]) -> Recipe:
    """Two phases, the first of two players, the second on frozen and standardised latents with an average."""
    stages = [recipe().model.stages[0], Standardize()]
    players = [
        {"trains": ["model.stages.0"], "objectives": [{"objective": "elbo"}]},
        {"trains": ["model.prior"], "objectives": [{"objective": "elbo"}], "optimizer": {"type": "adamax"}},
    ]
    phases = [
        {"players": players, "steps": 90, "batch_size": 50, "validate_every": 10},
        {"trains": ["model.prior"], "steps": 110, "batch_size": 70, "validate_every": 7, "ema": 0.9},
    ]
    return recipe(stages=stages, prior="mixture", train=phases)


@pytest.fixture(scope="module")
def prepare(recipe, tmp_path_factory) -> Callable[[Callable[..., Recipe]], Subject]:
    """Runs a recipe without a stop, once."""
    known: dict[str, Subject] = {}

    def prepared(make: Callable[..., Recipe]) -> Subject:
        if make.__name__ not in known:
            folder = tmp_path_factory.mktemp(make.__name__)
            (folder / "recipe.yaml").write_text(to_yaml(make(recipe)))
            if not known:  # the server of processes takes its time to start
                server = CONTEXT.Process(target=int)
                server.start()
                server.join()
            began = time.monotonic()
            assert finish(folder / "recipe.yaml", folder / "whole") == 0
            known[make.__name__] = Subject(folder / "recipe.yaml", folder / "whole", time.monotonic() - began)
        return known[make.__name__]

    return prepared


def untimed(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def scores(path: Path) -> dict[str, Any]:
    """All but how long a sample took; warnings name the run's own files."""
    found = json.loads((path / "scores.json").read_text().replace(str(path), "RUN"))
    del found["measures"]["sampling"]["seconds a sample"]
    return found


def check_equal(path: Path, whole: Path) -> None:
    for name in ("model.safetensors", "scores.safetensors", "recipe.yaml"):
        assert (path / name).read_bytes() == (whole / name).read_bytes(), name
    assert scores(path) == scores(whole)
    assert untimed(path) == untimed(whole)
    assert {file.name for file in path.rglob("*.png")} == {file.name for file in whole.rglob("*.png")}


def go_on(subject: Subject, path: Path) -> None:
    """Resumes to the end; a run stopped before it had a recipe says so, and is begun once more."""
    if not (path / "recipe.yaml").exists():
        with pytest.raises(RunError, match="--out"):
            resume(path)
    elif (path / "model.safetensors").exists() and (path / "scores.json").exists():
        with pytest.raises(RunError, match="has finished"):
            resume(path)
        return
    assert finish(subject.recipe, path) == 0


def test_killed_in_a_checkpoint_and_at_a_random_moment(prepare, tmp_path):
    """The checkpoint half written; then, gone on with, killed once some lines are in the log."""
    subject, moment = prepare(phased), random.Random(1)
    path = tmp_path / "run"
    assert finish(subject.recipe, path, file="last.safetensors", count=7, moment="half") == DEATH
    assert (path / ".last.safetensors.partial").stat().st_size < (path / "last.safetensors").stat().st_size
    process, lines = start(subject.recipe, path), moment.randint(30, 45)
    while len(logged(path)) < lines and process.is_alive():
        time.sleep(0.002)
    time.sleep(0.02 * moment.random())
    process.kill()
    process.join(60)
    assert process.exitcode == DEATH
    go_on(subject, path)
    check_equal(path, subject.whole)
    assert not list(path.glob(".*"))


def logged(path: Path) -> list[str]:
    file = path / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


FILES = [
    ("recipe.yaml", 1),
    ("run.json", 1),
    ("metrics.jsonl", 1),
    ("best-0.safetensors", 1),
    ("best-0.safetensors", 4),
    ("last.safetensors", 1),
    ("last.safetensors", 5),
    ("last.safetensors", 10),
    ("last.safetensors", 11),
    ("best-1.safetensors", 1),
    ("last.safetensors", 26),
    ("model.safetensors", 1),
    ("scores.safetensors", 1),
    ("scores.json", 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["half", "unnamed"])
@pytest.mark.parametrize("file, count", FILES)
def test_killed_inside_the_write_of_any_file(prepare, tmp_path, file, count, moment):
    subject, path = prepare(phased), tmp_path / "run"
    assert finish(subject.recipe, path, file=file, count=count, moment=moment) == DEATH
    go_on(subject, path)
    check_equal(path, subject.whole)


@pytest.mark.slow
@pytest.mark.parametrize("make", [plain, averaged, phased, rivalled])
def test_killed_at_ten_random_moments(prepare, tmp_path, make):
    """One run for each of nine moments, spread over the whole run by a fixed seed, and one inside a checkpoint."""
    subject, moments = prepare(make), random.Random(7)
    seconds, killed = subject.seconds, 0
    for i in range(40):
        path = tmp_path / f"run-{i}"
        process, moment = start(subject.recipe, path), moments.uniform(0, seconds)
        process.join(moment)
        if not process.is_alive():  # quicker than the one that was timed
            assert process.exitcode == 0
            seconds = moment
            continue
        process.kill()
        process.join(60)
        killed += process.exitcode == DEATH
        go_on(subject, path)
        check_equal(path, subject.whole)
        shutil.rmtree(path)
        if killed == 9:
            break
    assert killed == 9
    path = tmp_path / "last"
    assert finish(subject.recipe, path, file="last.safetensors", count=moments.randint(2, 12), moment="half") == DEATH
    go_on(subject, path)
    check_equal(path, subject.whole)


@pytest.mark.slow
@pytest.mark.parametrize("make", [plain, averaged, phased, rivalled])
def test_killed_again_and_again(prepare, tmp_path, make):
    """One run, killed ten times on its way."""
    subject, moments, path = prepare(make), random.Random(11), tmp_path / "run"
    killed = 0
    for _ in range(10):
        process = start(subject.recipe, path)
        wanted = len(logged(path)) + moments.randint(1, 3)
        while len(logged(path)) < wanted and process.is_alive():
            time.sleep(0.002)
        process.kill()
        process.join(60)
        killed += process.exitcode == DEATH
    assert killed >= 8
    go_on(subject, path)
    check_equal(path, subject.whole)
