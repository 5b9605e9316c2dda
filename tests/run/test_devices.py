"""Two devices (processes of the CPU, by gloo) do what one does, within the rounding of a sum."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compose.core.errors import TrainingError
from compose.parts.stages.standardize import Standardize
from compose.recipe.check import load_recipe
from compose.recipe.recipe import Recipe
from compose.run.directory import Run
from compose.run.train import resume, train

pytestmark = pytest.mark.long

FASHION = Path("/usr/share/datasets/fashion-mnist")
TOLERANCE = 1e-5
#: Logging every second step, over 20 steps, scored with two draws.
SHORT = ["train.0.steps=20", "train.0.validate_every=10", "evaluate.samples=2"]


def both(recipe: Recipe, path: Path, **how: Any) -> tuple[Run, Run]:
    quiet = {"accelerator": "cpu", "threads": 1, "progress": False, **how}
    return train(recipe, path / "one", **quiet), train(recipe, path / "two", devices=2, **quiet)


def check_equal(one: Run, two: Run) -> None:
    """Weights, every number of the log, and the scores."""
    assert two.record["how"]["devices"] == 2
    for name in ("model", "last", "scores"):
        first, second = (load_file(run.path / f"{name}.safetensors") for run in (one, two))
        assert first.keys() == second.keys()
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=TOLERANCE, atol=TOLERANCE, msg=key)
    first, second = ([{**line, "seconds": 0} for line in run.metrics()] for run in (one, two))
    assert len(first) == len(second) > 0
    for before, after in zip(first, second, strict=True):
        assert after == pytest.approx(before, rel=TOLERANCE, abs=TOLERANCE)
    for split, scored in one.scores()["splits"].items():
        # Of a mere bound there is no NLL.
        for key in [key for key in ("-ELBO", "NLL", "standard_error") if scored[key] is not None]:
            assert two.scores()["splits"][split][key] == pytest.approx(scored[key], rel=TOLERANCE)


def test_a_flow_prior_on_two_devices(tmp_path):
    check_equal(*both(load_recipe("vae_flow_prior", SHORT), tmp_path))


def test_batches_that_do_not_divide_are_refused(recipe, tmp_path):
    with pytest.raises(
        TrainingError, match=r"train\.0\.batch_size is 50, which 4 devices cannot share evenly; take 48"
    ):
        train(recipe(), tmp_path / "run", devices=4, accelerator="cpu", progress=False)
    with pytest.raises(TrainingError, match=r"batch_size is 1, which 2 devices cannot share evenly; take 2"):
        train(recipe(batch_size=1), tmp_path / "run", devices=2, accelerator="cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_share_of_the_batch_that_a_critic_cannot_join_is_refused(tmp_path):
    made = load_recipe("gan_stacked", ["train.0.batch_size=64", "train.0.objective.pac=64"])
    said = r"train\.0\.batch_size is 64, of which each of 2 devices has 32, .* to see 64 items at once"
    with pytest.raises(TrainingError, match=said):
        train(made, tmp_path / "run", devices=2, accelerator="cpu", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_vamp_prior_on_two_devices(tmp_path):
    check_equal(*both(load_recipe("vae_vamp", SHORT), tmp_path))


@pytest.mark.slow
def test_binarised_data_on_two_devices(tmp_path):
    """Each device binarises its share of the batch as one device would.

    In doubles: Adam divides a gradient by its own size, so of a million weights a few whose gradient all but cancels
    (an encoder's, of a pixel that is hardly ever lit) carry the rounding of a sum of floats on to 1.7e-5.
    """
    name = "fashion/vae" if FASHION.is_dir() else "vae"
    rest = [] if FASHION.is_dir() else ["data.binarize=true", "model.stages.0.likelihood=bernoulli"]
    check_equal(*both(load_recipe(name, [*SHORT, *rest]), tmp_path, precision="64-true"))


def phases(recipe: Callable[..., Recipe]) -> Recipe:
    """Two players, clipping and an average; then a second phase on frozen, standardised latents, with K draws."""
    players = [
        {"trains": ["model.stages.0"], "objectives": [{"objective": "elbo"}], "clip": 5.0, "ema": 0.9},
        {"trains": ["model.prior"], "objectives": [{"objective": "elbo"}], "optimizer": {"type": "adamax"}},
    ]
    return recipe(
        stages=[recipe().model.stages[0], Standardize()],
        prior="mixture",
        train=[
            {"players": players, "steps": 10, "batch_size": 50},
            {"objective": {"type": "iwae", "samples": 3}, "trains": ["model.prior"], "steps": 10, "batch_size": 40},
        ],
    )


@pytest.mark.slow
def test_players_and_phases_on_two_devices(recipe, tmp_path):
    check_equal(*both(phases(recipe), tmp_path))


@pytest.mark.slow
def test_a_critic_on_two_devices(tmp_path):
    """Of a GAN: nothing is scored, so the weights of both sides and the log are compared."""
    check_equal(*both(load_recipe("gan_digits", SHORT), tmp_path, precision="64-true"))


@pytest.mark.slow
def test_several_objectives_on_two_devices(tmp_path):
    """A bound, and a critic that sets in later: the model is called three times before each descent."""
    critic = "train.0.players.0.objectives.1"
    options = [f"{critic}.start=5", f"{critic}.objective.features=0.1", f"{critic}.objective.steps=2"]
    check_equal(*both(load_recipe("vae_gan", [*SHORT, *options]), tmp_path, precision="64-true"))


@pytest.mark.slow
def test_an_adaptive_weight_on_two_devices(tmp_path):
    """The ratio is of the gradients of the whole batch, and not of each device's share of it."""
    critic = "train.0.players.0.objectives.1"
    options = [f"{critic}.start=5", f"{critic}.objective.adaptive=true"]
    check_equal(*both(load_recipe("vae_gan", [*SHORT, *options]), tmp_path, precision="64-true"))


@pytest.mark.slow
def test_free_bits_on_two_devices(recipe, tmp_path):
    """A rate that costs nothing on one device alone: what counts is the mean of both."""
    free = recipe(batch_size=8, players=[{"objectives": [{"objective": {"type": "elbo", "free_bits": 0.065}}]}])
    check_equal(*both(free, tmp_path, precision="64-true"))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"timesteps": "importance"}, {"schedule": "learned", "steps": None}])
def test_what_is_learned_of_the_times_on_two_devices(recipe, tmp_path, options):
    """Which of them are drawn more often, or how the noise rises, follows the batch of both."""
    prior = {"type": "diffusion", "net": {"type": "resmlp", "width": 16, "blocks": 1}, "steps": 8, **options}
    check_equal(*both(recipe(prior=prior), tmp_path, precision="64-true"))


@pytest.mark.slow
def test_a_resumed_run_on_two_devices(recipe, tmp_path):
    one, two = both(recipe(steps=30, validate_every=10), tmp_path)
    for name in ("model.safetensors", "scores.json"):
        (two.path / name).unlink()
    resume(two.path, progress=False)
    check_equal(one, two)


@pytest.mark.slow
def test_a_budget_in_seconds_ends_on_all_devices_at_once(recipe, tmp_path):
    run = train(recipe(seconds=0.5), tmp_path / "run", devices=2, accelerator="cpu", threads=1, progress=False)
    assert run.scored


@pytest.mark.slow
def test_an_error_of_another_process_keeps_its_type(recipe, tmp_path):
    terms = [{"objective": "elbo", "start": 5}]
    made = recipe(train=[{"steps": 10, "batch_size": 50, "players": [{"objectives": terms}]}])
    with pytest.raises(TrainingError, match="no objective of the player has set in at step 0"):
        train(made, tmp_path / "run", devices=2, accelerator="cpu", threads=1, progress=False)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_device_is_skipped_on_all(recipe, tmp_path, plugin):
    """Its gradient is finite, so nothing but the loss tells the other device."""
    made = recipe(prior={"type": "failing", "first": 4, "count": 3, "on_second_device": True}, validate_every=1)
    run = train(made, tmp_path / "run", devices=2, accelerator="cpu", threads=1, progress=False)
    skipped = [line["skipped"] for line in run.metrics() if "skipped" in line]
    assert skipped == [0, 0, 0, 0, 1, 2, *[3] * 14]


@pytest.mark.slow
def test_a_script_needs_only_the_usual_guard(tmp_path):
    """The same from a file of one's own, in a process of its own."""
    script = tmp_path / "mine.py"
    script.write_text(
        "from compose.run.train import train\n"
        "if __name__ == '__main__':\n"
        f"    run = train('vae', {str(tmp_path / 'run')!r}, devices=2, accelerator='cpu', threads=1, progress=False,\n"
        f"                overrides={SHORT!r})\n"
        "    print(len(run.metrics()))\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == len(Run(tmp_path / "run").metrics()) == 5
