"""Steps that are not finite: skipped and counted, and ten in a row stop the training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from compose.core.errors import TrainingError
from compose.recipe.build import build
from compose.recipe.recipe import Optimizer
from compose.run import state
from compose.run.directory import Run
from compose.run.player import Actor, make_optimizer
from compose.run.skips import IN_A_ROW, Skips
from compose.run.stretch import Stretch
from compose.run.train import resume

OPTIMIZERS = ("adamw", "adam", "sgd", "adamax")


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("broken", ["loss", "gradient"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_skipped_step_leaves_no_trace(recipe, kind, broken, clip):
    """Weights after good, bad, good steps are those after the good steps alone; a bad first step included."""
    made = recipe(optimizer={"type": kind, "lr": 1e-2, "weight_decay": 0.1}, clip=clip)

    def after(steps: list[bool]) -> tuple[list[torch.Tensor], Actor]:
        model = build(made)
        actor = Actor(made.train[0].players[0], made, model)
        for i, good in enumerate(steps):
            for value in actor.descent.parameters:
                value.grad = torch.full_like(value, 0.1)
            loss = torch.tensor(1.0)
            if not good and broken == "loss":
                loss = torch.tensor(torch.inf)
            elif not good:
                actor.descent.parameters[-1].grad = torch.full_like(actor.descent.parameters[-1], torch.nan)
            actor.descent.step(i, loss)
            assert all(value.grad is None for value in actor.descent.parameters)
        actor.descent.skips.read()
        return [value.detach().clone() for value in model.parameters()], actor

    expected, _ = after([True, True])
    found, actor = after([False, True, False, False, True])
    assert actor.descent.skips.total == 3
    for value, wanted in zip(found, expected, strict=True):
        assert torch.equal(value, wanted)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_is_torchs_own(kind):
    optimizer = make_optimizer([nn.Parameter(torch.ones(2))], Optimizer(type=kind, lr=0.5, weight_decay=0.25))
    assert type(optimizer).__name__.lower() == kind
    assert type(optimizer).__module__.startswith("torch.optim")
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.5, 0.25)


def test_streaks_are_found_wherever_they_lie():
    for start in range(25):
        skips = Skips()
        for step in range(50):
            skips.add(step, torch.tensor(float(start <= step < start + IN_A_ROW)))
        skips.read()
        assert (skips.total, skips.streak, skips.fatal) == (IN_A_ROW, 0, start + IN_A_ROW - 1)


def test_nine_in_a_row_do_not_stop_it(recipe, go, tmp_path, plugin):
    run = go(recipe(prior={"type": "failing", "first": 3, "count": 9}, steps=20, validate_every=20), tmp_path / "run")
    assert run.metrics()[-2]["skipped"] == 9


def test_the_log_counts_skips_and_says_null_where_nothing_is_finite(recipe, go, tmp_path, plugin):
    run = go(recipe(prior={"type": "failing", "first": 2, "count": 3}, validate_every=1), tmp_path / "run")
    lines = [line for line in run.metrics() if "skipped" in line]
    assert [line["skipped"] for line in lines] == [0, 0, 1, 2, *[3] * 16]
    assert [line["loss"] is None for line in lines] == [2 <= i < 5 for i in range(20)]
    looks = [line["validation -ELBO"] for line in run.metrics() if "validation -ELBO" in line]
    # The weights stood still, so the bound did, and went on after.
    assert looks[1] == looks[2] == looks[3] == looks[4] != looks[5]
    assert "NaN" not in (run.path / "metrics.jsonl").read_text()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that a training begins."""
    begun: list[int] = []
    real = Stretch._step

    def step(self: Stretch, wrapped: Any) -> None:
        begun.append(self.at["step"])
        real(self, wrapped)

    monkeypatch.setattr(Stretch, "_step", step)
    return begun


def test_ten_in_a_row_stop_it_within_ten_more(recipe, go, tmp_path, plugin, steps):
    """Long before the next look at the validation set."""
    made = recipe(prior={"type": "failing", "first": 12, "count": 10}, steps=100, validate_every=100)
    with pytest.raises(TrainingError, match="up to step 22"):
        go(made, tmp_path / "run")
    assert len(steps) <= 31


def test_ten_in_a_row_stop_it_and_keep_the_last_good_checkpoint(recipe, go, tmp_path, plugin):
    made = recipe(prior={"type": "failing", "first": 12, "count": 10}, steps=60, validate_every=6)
    with pytest.raises(TrainingError) as told:
        go(made, tmp_path / "run")
    said = str(told.value)
    assert "10 steps in a row, up to step 22 of phase 0" in said
    # This part fails no more when the step is looked into.
    assert "though not when it was computed once more" in said
    assert "of step 12 is" in said
    assert "train.0.optimizer.lr" in said
    assert "train.0.clip=1.0" in said
    last = tmp_path / "run" / "last.safetensors"
    assert state.counters(last)["step"] == 12
    assert not Run(last.parent).finished


def test_the_term_is_named_with_its_part(recipe, go, tmp_path, plugin):
    made = recipe(prior={"type": "failing", "first": 3, "count": 10**6}, steps=60, validate_every=3)
    with pytest.raises(TrainingError, match=r"the term z1\.log_prior of model\.prior\. The last good"):
        go(made, tmp_path / "run")


def test_a_streak_at_the_very_end_is_found(recipe, go, tmp_path, plugin):
    made = recipe(prior={"type": "failing", "first": 5, "count": 10}, steps=15, validate_every=15)
    with pytest.raises(TrainingError, match="up to step 15"):
        go(made, tmp_path / "run")


def test_a_gradient_alone_is_named_too(recipe, go, tmp_path, plugin):
    prior = {"type": "failing", "first": 0, "count": 10**6, "gradient_only": True}
    with pytest.raises(
        TrainingError, match=r"the gradient of model\.prior\. The last good checkpoint was never written"
    ):
        go(recipe(prior=prior, steps=60, validate_every=60), tmp_path / "run")


def test_a_rate_out_of_all_bounds_stops_with_the_last_good_checkpoint(recipe, go, tmp_path):
    """Weights that a finite step threw out of all bounds: the checkpoint from before is still there, and loads."""
    phases: list[dict[str, Any]] = [
        {"steps": 5, "batch_size": 50},
        {
            "steps": 40,
            "batch_size": 50,
            "validate_every": 20,
            "optimizer": {"type": "sgd", "lr": 10.0, "betas": [0.99, 0.9]},
        },
    ]
    with pytest.raises(TrainingError, match="10 steps in a row") as told:
        go(recipe(prior="mixture", train=phases), tmp_path / "run")
    assert "model." in str(told.value)
    counters = state.counters(tmp_path / "run" / "last.safetensors")
    assert (counters["phase"], counters["step"]) == (0, 5)


def test_a_stopped_training_goes_on_from_its_last_good_checkpoint(recipe, go, tmp_path, plugin):
    """This part counts its own steps, so after a resume it fails from the fifth on once more."""
    made = recipe(prior={"type": "failing", "first": 4, "count": 10**6}, steps=60, validate_every=2)
    for good in (4, 8):
        with pytest.raises(TrainingError, match=f"up to step {good + IN_A_ROW} of phase 0"):
            go(made, tmp_path / "run") if good == 4 else resume(tmp_path / "run", progress=False)
        assert state.counters(tmp_path / "run" / "last.safetensors")["step"] == good


@pytest.mark.long
def test_the_count_of_skips_survives_a_resume(recipe, go, tmp_path, plugin):
    made = recipe(prior={"type": "failing", "first": 1, "count": 2}, steps=10, validate_every=5)
    run = go(made, tmp_path / "run")
    for name in ("model.safetensors", "scores.json"):
        (run.path / name).unlink()
    counters = state.counters(run.path / "last.safetensors")
    assert counters["skipped"] == [[2]]
    assert resume(run.path, progress=False).metrics()[-2]["skipped"] == 2
