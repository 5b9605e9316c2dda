"""What a run leaves behind, and what it says where it cannot go on."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from compose.core import registry
from compose.core.errors import RunError, TrainingError
from compose.data.digits import Digits
from compose.run import directory, state
from compose.run.directory import Run, free_path, load
from compose.run.evaluate import evaluate
from compose.run.train import resume, thread_count

WANTED = {
    "recipe.yaml",
    "run.json",
    "metrics.jsonl",
    "model.safetensors",
    "last.safetensors",
    "best-0.safetensors",
    "scores.json",
    "scores.safetensors",
    "figures",
    "tensorboard",
}


@pytest.fixture
def copy(trained: Run, tmp_path: Path) -> Path:
    """A copy of the trained run, to be spoiled."""
    return Path(shutil.copytree(trained.path, tmp_path / "copy"))


def test_a_run_holds_what_it_says(trained):
    assert {file.name for file in trained.path.iterdir()} == WANTED
    text = directory.__doc__ or ""
    assert all(name.replace("best-0", "best") in text.replace("best-0", "best") for name in WANTED)
    assert {file.name for file in (trained.path / "figures").iterdir()} == {
        "samples.png",
        "reconstructions.png",
        "curve.png",
    }
    assert [file.name.startswith("events.out.tfevents") for file in (trained.path / "tensorboard").iterdir()] == [True]


def test_nothing_is_pickled(trained, monkeypatch):
    kinds = {file.suffix for file in trained.path.rglob("*") if file.is_file() and file.parent.name != "tensorboard"}
    assert kinds == {".yaml", ".json", ".jsonl", ".safetensors", ".png"}

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    model = load(trained.path)
    assert not model.training
    assert not any(module.training for module in model.modules())


def test_the_record(trained):
    record = trained.record
    source = trained.recipe.data.load()
    assert record["data"] == {"digest": source.digest, "is": source.describe()}
    assert record["seed"] == 0
    how = {"devices": 1, "accelerator": "cpu", "precision": "32-true", "threads": 1, "compile": False}
    assert record["how"] == how
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"].keys() >= {"python", "torch", "numpy", "nflows", "pydantic", "lightning-fabric"}
    assert record["plugins"] == {}


def test_the_recipe_is_resolved_and_reads_back(recipe, trained):
    assert trained.recipe == recipe(steps=120, validate_every=20)
    assert "weight_decay: 0.0" in (trained.path / "recipe.yaml").read_text()


def test_the_best_weights_are_what_loads(trained):
    best = (trained.path / "best-0.safetensors").read_bytes()
    assert (trained.path / "model.safetensors").read_bytes() == best


@pytest.mark.long
def test_tensorboard_shows_the_log_once_even_after_a_resume(recipe, go, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    phases = [{"steps": 6, "batch_size": 50, "validate_every": 2}, {"steps": 4, "batch_size": 50, "validate_every": 2}]
    run = go(recipe(train=phases), tmp_path / "run")
    for name in ("model.safetensors", "scores.json"):
        (run.path / name).unlink()
    resume(run.path, progress=False)
    board = EventAccumulator(str(run.path / "tensorboard"))
    board.Reload()
    for phase in (0, 1):
        shown = [(event.step, event.value) for event in board.Scalars(f"phase{phase}/loss")]
        told = [(line["step"], line["loss"]) for line in run.metrics() if line["phase"] == phase and "loss" in line]
        assert shown == [(step, pytest.approx(loss)) for step, loss in told]


def test_a_directory_that_holds_something_is_refused(recipe, go, tmp_path, trained):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("precious")
    for path in (tmp_path / "taken", trained.path):
        with pytest.raises(RunError, match="is not empty; choose another --out, or go on with it by --resume"):
            go(recipe(steps=1), path)
    assert (tmp_path / "taken" / "thesis.tex").read_text() == "precious"
    assert [file.name for file in (tmp_path / "taken").iterdir()] == ["thesis.tex"]


def test_an_empty_directory_is_taken(recipe, go, tmp_path):
    assert go(recipe(steps=1), tmp_path).finished


def test_a_directory_that_cannot_be_written_is_an_error(recipe, go, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        go(recipe(steps=1), tmp_path / "file" / "run")
    with (
        patch.object(Path, "iterdir", side_effect=PermissionError(13, "Permission denied")),
        pytest.raises(RunError, match=r"run cannot be written: Permission denied\."),
    ):
        go(recipe(steps=1), tmp_path / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_directory_without_leave_to_write_is_an_error(recipe, go, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written"):
        go(recipe(steps=1), tmp_path / "run")


def test_no_run_is_an_error_that_says_how_to_make_one(tmp_path):
    for call in (load, evaluate, resume):
        with pytest.raises(RunError, match=r"is no run: it holds no recipe\.yaml\. 'compose train RECIPE --out DIR'"):
            call(tmp_path / "nothing")


def test_an_unfinished_run_says_how_to_go_on(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(RunError, match=f"go on with it by 'compose train --resume {copy}'"):
        load(copy)


def test_a_run_that_was_not_scored_says_so(copy):
    (copy / "scores.json").unlink()
    with pytest.raises(RunError, match="compose evaluate"):
        Run(copy).scores()


def test_a_finished_run_does_not_go_on(trained):
    with pytest.raises(RunError, match="has finished"):
        resume(trained.path)


def test_a_run_that_stopped_before_its_scores_is_scored(copy):
    """The weights stay as they are: only what is missing is done."""
    before = (copy / "model.safetensors").stat().st_mtime_ns
    scores = json.loads((copy / "scores.json").read_text())
    (copy / "scores.json").unlink()
    shutil.rmtree(copy / "figures")
    run = resume(copy, progress=False)
    assert (copy / "model.safetensors").stat().st_mtime_ns == before
    assert {file.name for file in run.figures.iterdir()} == {"samples.png", "reconstructions.png", "curve.png"}
    assert run.scores().keys() == scores.keys()


def test_a_run_goes_on_where_there_is_no_such_device(copy):
    """Begun on an accelerator, and gone on with on a machine without one."""
    (copy / "scores.json").unlink()
    run = Run(copy)
    run.change_record(how={**run.record["how"], "accelerator": "tpu"})
    with pytest.raises(TrainingError, match="of 'tpu' cannot be had"):
        resume(copy, progress=False)
    how = resume(copy, accelerator="cpu", progress=False).record["how"]
    assert (how["accelerator"], how["threads"]) == ("cpu", 1)


def test_devices_that_do_not_share_the_batch_are_refused_on_going_on_too(copy):
    (copy / "scores.json").unlink()
    with pytest.raises(TrainingError, match="3 devices cannot share evenly"):
        resume(copy, devices=3, progress=False)


def test_a_damaged_checkpoint_is_an_error(copy):
    (copy / "model.safetensors").unlink()
    last = copy / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"last\.safetensors cannot be read as a checkpoint"):
        resume(copy, progress=False)


def test_other_data_are_refused(copy, monkeypatch):
    (copy / "model.safetensors").unlink()
    real = Digits.load

    def shortened(self: Digits):
        source = real(self)
        return type(source)("digits", source.space, None, source.train, source.test, source.validation)

    monkeypatch.setattr(Digits, "load", shortened)
    with pytest.raises(RunError, match=r"had digest [0-9a-f]{16} and now have [0-9a-f]{16}"):
        resume(copy, progress=False)


@pytest.mark.parametrize("held", [["run.json"], [".run.json.partial"], ["run.json", ".recipe.yaml.partial"]])
def test_a_run_stopped_before_its_recipe_was_written_says_how_to_begin(recipe, go, tmp_path, held):
    """And what it says works: nothing in such a directory is worth keeping."""
    for name in held:
        (tmp_path / name).write_text('{"half')
    with pytest.raises(
        RunError, match=f"stopped before its recipe was written; 'compose train RECIPE --out {tmp_path}'"
    ):
        resume(tmp_path)
    run = go(recipe(steps=1), tmp_path)
    assert run.finished
    assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_a_run_stopped_before_its_first_checkpoint_begins_anew(recipe, go, tmp_path):
    made = recipe(steps=5)
    whole = go(made, tmp_path / "whole")
    for name in ("recipe.yaml", "run.json"):
        (tmp_path / "half").mkdir(exist_ok=True)
        shutil.copy(whole.path / name, tmp_path / "half" / name)
    (tmp_path / "half" / "metrics.jsonl").write_text('{"phase": 0, "step": 1, "loss": 3.0}\n{"phase": 0, "st')
    half = resume(tmp_path / "half", progress=False)
    assert (half.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert len(half.metrics()) == len(whole.metrics())


def test_a_line_cut_short_is_left_out(copy):
    whole = Run(copy).metrics()
    file = copy / "metrics.jsonl"
    file.write_text(file.read_text() + '{"phase": 0, "step"')
    assert Run(copy).metrics() == whole
    assert Run(copy).metrics(2) == whole[:2]


def test_a_plugin_is_recorded_and_asked_for(recipe, go, tmp_path, plugin, monkeypatch):
    run = go(recipe(prior="failing", steps=2, validate_every=1), tmp_path / "run")
    digest = registry.plugins()[str(plugin)]
    assert run.record["plugins"] == {str(plugin): digest}
    assert load(run.path).space == run.model().space
    (run.path / "scores.json").unlink()
    monkeypatch.setattr(registry, "_plugged", {role: {} for role in registry.ROLES})
    monkeypatch.setattr(registry, "_plugins", {})
    for call in (load, evaluate, resume):
        with pytest.raises(RunError, match=r"parts\.py; load it by --plugin FILE"):
            call(run.path)
    # Another content under the same name is another plugin.
    changed = tmp_path / "parts.py"
    changed.write_text(plugin.read_text() + "\n# changed\n")
    registry.load_plugin(changed)
    with pytest.raises(RunError, match="same content"):
        load(run.path)


def test_a_recipe_that_no_file_can_hold_is_refused_before_training(recipe, go, tmp_path):
    from compose.nets.wrap import Wrap

    net = torch.nn.Sequential(torch.nn.Linear(4, 64 * 17), torch.nn.Unflatten(1, (17, 1, 8, 8)))
    latent = recipe().model.stages[0].model_copy(update={"decoder": Wrap(module=net)})
    with pytest.raises(RunError, match=r"does not read back from a file.*decoder.*register it with compose\.module"):
        go(recipe(stages=[latent], steps=1), tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_free_paths_count_up(tmp_path):
    assert free_path("vae", tmp_path) == tmp_path / "vae"
    (tmp_path / "vae").mkdir()
    assert free_path("vae", tmp_path) == tmp_path / "vae-2"
    (tmp_path / "vae-2").mkdir()
    assert free_path("vae", tmp_path) == tmp_path / "vae-3"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "text"
    directory.write_text(file, "old")
    with patch("os.fsync", side_effect=OSError("disk full")), pytest.raises(OSError):
        directory.write_text(file, "new, and much longer")
    assert file.read_text() == "old"


def test_checkpoints_hold_tied_and_scalar_tensors(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model.register_buffer("count", torch.tensor(3))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state.save(tmp_path / "a", {"model": model}, {"optimizer": optimizer}, {"step": 7})
    other = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    other[1].weight = other[0].weight
    other.register_buffer("count", torch.tensor(0))
    fresh = torch.optim.AdamW(other.parameters(), fused=True)
    state.restore(tmp_path / "a", {"model": other}, {"optimizer": fresh})
    assert state.counters(tmp_path / "a") == {"step": 7}
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    before, after = (each.state_dict()["state"] for each in (optimizer, fresh))
    assert all(torch.equal(before[i][key], after[i][key]) for i in before for key in before[i])
    assert after[0]["step"].dtype == torch.float32


def test_threads_are_what_was_asked_or_what_the_environment_says(monkeypatch):
    assert thread_count(3) == 3
    assert thread_count(0) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert thread_count() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert thread_count() == 4
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert thread_count() == 1
