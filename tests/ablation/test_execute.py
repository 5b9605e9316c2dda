"""Cells are trained once, by one process at a time, whatever happens meanwhile."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compose.ablation import execute, grid
from compose.ablation import folder as room
from compose.ablation.folder import Folder, planned_cells
from compose.ablation.plan import plan_of
from compose.ablation.question import read_ablation
from compose.ablation.results import Study
from compose.core.errors import AblationError, RecipeError, TrainingError
from compose.recipe.check import Checked
from compose.recipe.cost import Costs, cost
from tests.ablation.small import go

pytestmark = pytest.mark.long

Write = Callable[..., Path]


@pytest.fixture
def finished(done: Study, tmp_path: Path) -> Folder:
    """A copy of a finished ablation."""
    shutil.copytree(done.folder.path, tmp_path / "out")
    return Folder(tmp_path / "out")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The run directories of all trainings begun or gone on with from here on."""
    seen: list[str] = []

    def watched(name: str) -> None:
        call = getattr(execute, name)

        def spy(*args: Any, **how: Any) -> Any:
            seen.append(Path(args[-1] if name == "train" else args[0]).name)
            return call(*args, **how)

        monkeypatch.setattr(execute, name, spy)

    watched("train")
    watched("resume")
    return seen


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Checked]:
    """What is counted from here on."""
    seen: list[Checked] = []

    def spy(checked: Checked) -> Costs:
        seen.append(checked)
        return cost(checked)

    monkeypatch.setattr(grid, "cost", spy)
    return seen


def numbers(folder: Folder) -> dict[str, Any]:
    """What every cell came to, less what a clock says."""
    found = {}
    for address, _, _ in folder.plan.cells:
        scores = folder.run(address).scores()
        scores["measures"].pop("sampling")
        found[address] = (scores["splits"], scores["measures"])
    return found


def test_every_cell_has_a_run_and_a_record(done: Study):
    assert len(done.plan.cells) == 4
    for address, _, seed in done.plan.cells:
        record = done.folder.record(address)
        assert record is not None
        assert record["state"] == "done"
        assert set(record["files"]) == {
            "recipe.yaml",
            "run.json",
            "model.safetensors",
            "scores.json",
            "scores.safetensors",
        }
        assert done.folder.run(address).recipe.seed == seed
    assert not list(done.folder.cells.glob("*.beat"))


def test_a_finished_ablation_trains_nothing(done: Study, finished: Folder, write: Write, trained: list[str]):
    again = go(write(), finished.path)
    assert trained == []
    assert [outcome.mean("-ELBO") for outcome in again.outcomes] == [outcome.mean("-ELBO") for outcome in done.outcomes]


def test_what_was_counted_is_not_counted_again(done: Study, finished: Folder, write: Write, counted: list[Checked]):
    assert go(write(), finished.path).plan.variants == done.plan.variants
    assert counted == []
    go(write(axes="[{at: model.prior, values: [normal, {type: mixture, components: 3}]}]"), finished.path)
    assert [each.recipe.model.prior.type for each in counted] == ["mixture"]
    (finished.path / "plan.json").write_text("{")
    assert go(write(), finished.path).plan.variants == done.plan.variants


def test_more_seeds_and_values_train_only_what_is_new(finished: Folder, write: Write, trained: list[str]):
    go(write(axes="[{at: model.prior, values: [normal, mixture, vamp]}]", seeds="1"), finished.path)
    new = [address for address, label, _ in Folder(finished.path).plan.cells if label == "prior=vamp"]
    assert trained == new


def test_a_changed_file_of_a_cell_is_found_and_the_cell_trained_anew(
    finished: Folder, write: Write, trained: list[str]
):
    before = numbers(finished)
    address = finished.plan.cells[1][0]
    (finished.cell(address) / "scores.safetensors").write_bytes(b"rotten")
    said: list[str] = []
    go(write(), finished.path, tell=said.append)
    assert trained == [address]
    assert len(said) == 1
    assert "prior=mixture, seed 0: scores.safetensors is not as it was written" in said[0]
    assert (finished.cells / f"{address}.broken-1" / "scores.safetensors").read_bytes() == b"rotten"
    assert numbers(finished) == before


def test_a_run_directory_that_is_gone_is_trained_anew(finished: Folder, write: Write, trained: list[str]):
    address = finished.plan.cells[2][0]
    shutil.rmtree(finished.cell(address))
    go(write(), finished.path)
    assert trained == [address]


def test_a_stopped_cell_goes_on_where_it_was(done: Study, finished: Folder, write: Write, trained: list[str]):
    address = finished.plan.cells[0][0]
    finished.forget(address)
    for name in ("scores.json", "scores.safetensors", "model.safetensors"):
        (finished.cell(address) / name).unlink()
    kept = (finished.cell(address) / "last.safetensors").stat().st_mtime_ns
    go(write(), finished.path)
    assert trained == [address]
    assert (finished.cell(address) / "last.safetensors").stat().st_mtime_ns >= kept
    assert not list(finished.cells.glob("*.broken-*"))
    assert numbers(finished) == numbers(done.folder)


def test_an_unreadable_checkpoint_is_set_aside(done: Study, finished: Folder, write: Write):
    address = finished.plan.cells[0][0]
    finished.forget(address)
    for name in ("scores.json", "model.safetensors"):
        (finished.cell(address) / name).unlink()
    (finished.cell(address) / "last.safetensors").write_bytes(b"half a check")
    said: list[str] = []
    go(write(), finished.path, tell=said.append)
    assert len(said) == 1
    assert "cannot be read as a checkpoint" in said[0]
    assert (finished.cells / f"{address}.broken-1").is_dir()
    assert numbers(finished) == numbers(done.folder)


def test_a_cell_that_fails_is_noted_and_the_rest_goes_on(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
):
    train = execute.train

    def failing(recipe: Any, *args: Any, **how: Any) -> Any:
        if recipe.model.prior.type == "mixture" and recipe.seed == 1:
            raise TrainingError("ten steps were not finite")
        return train(recipe, *args, **how)

    monkeypatch.setattr(execute, "train", failing)
    found = go(write(), tmp_path / "out")
    assert [len(outcome.scored) for outcome in found.outcomes] == [2, 1]
    assert found.outcomes[1].failed == {1: "ten steps were not finite"}
    assert "failing" in (found.folder.record(found.plan.cells[3][0]) or {})["trace"]
    assert "ten steps were not finite" in (tmp_path / "out" / "report.html").read_text()
    # The seed that both have is what is set against each other.
    assert list(found.outcomes[1].effects["-ELBO"].per_seed) == [0]

    trained.clear()
    monkeypatch.setattr(execute, "train", train)
    assert go(write(), tmp_path / "out").outcomes[1].failed  # as it was: what failed is not tried again unasked
    assert trained == []
    assert not go(write(), tmp_path / "out", retry=True).outcomes[1].failed


def test_a_full_disk_stops_it_and_keeps_what_is_finished(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train, calls = execute.train, []

    def full(recipe: Any, path: Path, **how: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return train(recipe, path, **how)

    monkeypatch.setattr(execute, "train", full)
    with pytest.raises(AblationError, match=r"is full.*make room and run it again"):
        go(write(), tmp_path / "out")
    folder = Folder(tmp_path / "out")
    assert [address for address, _, _ in folder.plan.cells if folder.done(address)] == [calls[0].name]
    found = go(write(), tmp_path / "out")
    assert not found.missing
    assert len(calls) == 5


@pytest.mark.parametrize("file", [".beat", ".json"])
def test_a_disk_that_is_full_when_a_cell_is_noted_is_said_too(file, finished: Folder, monkeypatch: pytest.MonkeyPatch):
    address = finished.plan.cells[1][0]
    finished.forget(address)
    write_text = room.write_text

    def full(path: Path, text: str) -> None:
        if path.name == f"{address}{file}":
            raise OSError(errno.ENOSPC, "No space left on device")
        write_text(path, text)

    monkeypatch.setattr(room, "write_text", full)
    with pytest.raises(AblationError, match=r"is full.*make room and run it again"):
        execute.work(finished)
    assert finished.record(address) is None


def test_what_does_not_type_check_is_named_before_anything_runs(write: Write, tmp_path: Path, trained: list[str]):
    file = write(axes="[{at: model.prior, values: [normal, categorical, mixture]}]", seeds="1")
    with pytest.raises(RecipeError, match="prior=categorical is refused") as error:
        go(file, tmp_path / "out")
    assert "--skip-faulty leaves them out" in str(error.value)
    assert trained == []
    assert not (tmp_path / "out").exists()
    found = go(file, tmp_path / "out", skip_faulty=True)
    assert [outcome.label for outcome in found.outcomes] == ["prior=normal", "prior=mixture"]
    assert "prior=categorical" in (tmp_path / "out" / "report.html").read_text()


def test_two_ablations_do_not_share_a_folder(finished: Folder, write: Write):
    before = (finished.path / "plan.json").read_text()
    with pytest.raises(AblationError, match="holds another ablation, 'small' of vae: How simple"):
        go(write(question="What does depth buy?"), finished.path)
    assert (finished.path / "plan.json").read_text() == before


def test_a_folder_with_something_else_in_it_is_left_alone(write: Write, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(AblationError, match="is not empty and holds no ablation"):
        go(write(), tmp_path / "mine")


def test_a_folder_that_cannot_be_written_is_said_at_once(write: Write, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AblationError, match="cannot be written"):
        go(write(), tmp_path / "file" / "out")


def test_no_ablation_is_no_ablation(tmp_path: Path):
    with pytest.raises(AblationError, match="compose ablate FILE"):
        Folder(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "small", "variants": [{"new": 1}], "cells": []}'])
def test_a_plan_that_cannot_be_read_is_written_anew(text: str, finished: Folder, write: Write, trained: list[str]):
    (finished.path / "plan.json").write_text(text)
    with pytest.raises(AblationError, match="writes it anew"):
        Folder(finished.path)
    go(write(), finished.path)
    assert trained == []
    assert len(Folder(finished.path).plan.cells) == 4


def test_a_claimed_cell_is_left_to_who_holds_it(finished: Folder):
    address = finished.plan.cells[0][0]
    with finished.claim(address) as held, Folder(finished.path).claim(address) as too:
        assert held
        assert not too
        beat = finished.beat(address)
        assert beat is not None
        assert beat["seconds"] < 5
    with finished.claim(address) as held:
        assert held
    assert finished.beat(address) is None


def test_a_beat_of_another_machine_holds_a_cell_until_it_is_old(finished: Folder):
    address = finished.plan.cells[0][0]
    file = finished.cells / f"{address}.beat"
    file.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with finished.claim(address) as held:
        assert not held
    old = time.time() - 120
    os.utime(file, (old, old))
    with finished.claim(address) as held:
        assert held


def _hold(path: str, address: str, ready: Any) -> None:
    with Folder(path).claim(address):
        ready.set()
        time.sleep(60)


def test_a_killed_process_holds_nothing(finished: Folder):
    context = multiprocessing.get_context("spawn")
    address, ready = finished.plan.cells[0][0], context.Event()
    process = context.Process(target=_hold, args=(str(finished.path), address, ready))
    process.start()
    assert ready.wait(60)
    with finished.claim(address) as held:
        assert not held
    process.kill()
    process.join()
    with finished.claim(address) as held:
        assert held


def test_a_first_phase_that_cells_share_is_trained_once(tmp_path: Path):
    file = tmp_path / "frozen.yaml"
    file.write_text(
        "question: Which prior of frozen latents?\nbase: latent_diffusion\nseeds: 1\n"
        "changes: {train.0.steps: 6, train.1.steps: 6, evaluate.samples: 1}\n"
        "axes: [{at: model.prior, values: [mixture, flow]}]\n"
    )
    found = go(file, tmp_path / "out")
    begun = [found.folder.run(address).record.get("begun") for address, _, _ in found.plan.cells]
    first = str(found.folder.cell(found.plan.cells[0][0]))
    assert begun == [None, {"of": first, "phase": 1}, {"of": first, "phase": 1}]
    assert all("best-0.safetensors" in (found.folder.record(cell[0]) or {})["files"] for cell in found.plan.cells[:1])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "2 trainings took over a first phase" in page
    assert "A frozen comparison" in page


def test_a_cell_whose_process_is_killed_twice_has_failed(finished: Folder):
    address = finished.plan.cells[1][0]
    finished.forget(address)
    tries: dict[str, int] = {}
    said: list[str] = []
    for pid in (4242, 4243):
        (finished.cells / f"{address}.beat").write_text(json.dumps({"host": "here", "pid": pid}))
        execute._was_killed(finished, 1, -9, tries, said.append)  # it held nothing
        execute._was_killed(finished, pid, -9, tries, said.append)
    assert said == ["prior=mixture, seed 0: its process ended by signal 9; another one goes on with it."]
    assert "by signal 9, 2 times; often the memory was full" in (finished.record(address) or {})["error"]


def test_of_each_seed_the_longest_training_comes_first(write: Write, tmp_path: Path):
    steps = "{short: {train.0.steps: 30}, long: {train.0.steps: 60}, dear: {train.0.steps: 60, model.prior: flow}}"
    asked = read_ablation(write(axes=f"[{{name: size, values: {steps}}}]", seeds="[4, 1]", budget="null"))
    folder = Folder.create(tmp_path / "turns", plan_of(grid.expand(asked), "compose ablate"))
    turns = planned_cells(folder)
    wanted = ["vae", "size=dear", "size=long", "size=short"]  # the base has the 1,200 steps of its recipe
    assert [(cell.seed, cell.label) for cell in turns] == [(seed, label) for seed in (4, 1) for label in wanted]


def test_a_budget_in_seconds_leaves_the_turns_as_they_are(write: Write, tmp_path: Path):
    axes = "[{at: model.prior, values: [normal, flow, mixture]}]"
    asked = read_ablation(write(axes=axes, seeds="1", budget="{seconds: 3}"))
    folder = Folder.create(tmp_path / "turns", plan_of(grid.expand(asked), "compose ablate"))
    assert [(cell.id, cell.label, cell.seed) for cell in planned_cells(folder)] == list(folder.plan.cells)


def test_workers_share_the_cells(done: Study, write: Write, tmp_path: Path):
    found = go(write(), tmp_path / "out", workers=2)
    assert not found.missing
    assert numbers(found.folder) == numbers(done.folder)
