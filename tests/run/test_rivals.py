"""Critics at work: who moves whom, what is kept, and what an implicit model is measured by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compose.core.errors import KindError, TrainingError
from compose.data.planar import PLANAR, Gaussians
from compose.recipe.check import check_declared, load_recipe
from compose.recipe.recipe import Recipe
from compose.run import stretch
from compose.run.collapse import _adversarial
from compose.run.directory import Run
from compose.run.evaluate import evaluate
from compose.run.measures import modes
from compose.run.player import Descent
from compose.run.sample import sample
from compose.run.stretch import Stretch
from compose.run.train import resume

pytestmark = pytest.mark.long

CRITIC = {"type": "adversarial", "critic": {"type": "mlp", "hidden": [16]}}
GENERATOR = {"type": "generator", "dim": 4, "decoder": {"type": "mlp", "hidden": [16]}}
PLANE = {"type": "toy", "shape": "grid25", "train": 500, "validation": 100, "test": 100}


def gan(objective: dict[str, Any] | None = None, data: Any = PLANE, **phase: Any) -> Recipe:
    """A GAN of the plane, 10 steps long."""
    how = {"objective": {**CRITIC, **(objective or {})}, "steps": 10, "batch_size": 20, **phase}
    return Recipe.model_validate({"data": data, "model": {"stages": [GENERATOR]}, "train": [how]})


def vae_gan(recipe: Callable[..., Recipe], **options: Any) -> Recipe:
    """The VAE of the digits with a critic at its samples, which sets in at step 4."""
    terms = [{"objective": "elbo"}, {"objective": {**CRITIC, **options}, "weight": 0.1, "start": 4}]
    return recipe(train=[{"steps": 12, "batch_size": 50, "players": [{"objectives": terms}]}])


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretch, "LOG_STEPS", 1)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[bool, bool, bool]]]:
    """For each descent: whether it was a rival's, and whether model and critics moved in it."""
    seen: list[tuple[bool, bool, bool]] = []
    at: list[Stretch] = []
    step, begin = Descent.step, Stretch._begin

    def beginning(self: Stretch) -> None:
        at[:] = [self]
        begin(self)

    def values(modules: list[Any]) -> list[Tensor]:
        return [value.detach().clone() for module in modules for value in module.parameters()]

    def stepping(self: Descent, number: int, loss: Tensor) -> None:
        critics = [rival.objective for actor in at[0].actors for rival in actor.rivals]
        before = values([at[0].model]), values(critics)
        step(self, number, loss)
        after = values([at[0].model]), values(critics)
        model, critic = (not all(map(torch.equal, one, other)) for one, other in zip(before, after, strict=True))
        owner = any(self is rival.descent for actor in at[0].actors for rival in actor.rivals)
        seen.append((owner, model, critic))

    monkeypatch.setattr(Stretch, "_begin", beginning)
    monkeypatch.setattr(Descent, "step", stepping)
    yield seen


def test_each_step_moves_its_own_weights_alone(go, tmp_path, watched):
    go(gan({"steps": 2, "r1": 0.1, "r2": 0.1}), tmp_path / "run")
    assert watched == [(True, False, True), (True, False, True), (False, True, False)] * 10


def test_a_critic_sets_in_with_its_term(recipe, go, tmp_path, watched, every_step):
    run = go(vae_gan(recipe), tmp_path / "run")
    assert watched == [(False, True, False)] * 4 + [(True, False, True), (False, True, False)] * 8
    steps = [line["step"] for line in run.metrics() if "x.critic accuracy" in line]
    assert steps == list(range(5, 13))


def test_an_adaptive_weight_is_the_ratio_of_gradients(recipe, go, tmp_path, every_step, monkeypatch):
    """At the last matrix of the decoder both objectives pull alike."""
    from compose.run import player

    pulls: list[tuple[float, float]] = []
    ratio = player.Actor._ratio

    def watched(self: player.Actor, others: Tensor, own: Tensor, at: Tensor) -> Tensor:
        found = ratio(self, others, own, at)
        assert at.shape[0] == 17 * 64  # the logits of all levels of all pixels
        one, other = (float(torch.autograd.grad(v, at, retain_graph=True)[0].norm()) for v in (others, found * own))
        pulls.append((one, other))
        return found

    monkeypatch.setattr(player.Actor, "_ratio", watched)
    run = go(vae_gan(recipe, adaptive=True), tmp_path / "run")
    assert len(pulls) == 8 and all(one == pytest.approx(other, rel=0.03) for one, other in pulls)
    assert all(
        line["weight of adversarial"] > 0 for line in run.metrics() if line.get("step", 0) > 4 and "loss" in line
    )


def test_an_adaptive_weight_in_mixed_precision(recipe, go, tmp_path, every_step):
    found = []
    for precision in ("32-true", "bf16-mixed"):
        run = go(vae_gan(recipe, adaptive=True), tmp_path / precision, precision=precision)
        found.append(next(line["weight of adversarial"] for line in run.metrics() if "weight of adversarial" in line))
    assert found[0] > 0 and found[1] == pytest.approx(found[0], rel=0.1)


def test_a_rival_steps_while_its_players_parts_are_those_that_train(recipe, go, tmp_path, monkeypatch):
    """Also at the first step, and after that of another player."""
    rival_step, modes = Stretch._rival_step, []

    def watched(self: Stretch, *given: Any) -> Any:
        modes.append([part.training for part in (self.model.stages[0], self.model.prior)])
        return rival_step(self, *given)

    monkeypatch.setattr(Stretch, "_rival_step", watched)
    players = [
        {"trains": ["model.stages.0"], "objectives": [{"objective": "elbo"}, {"objective": CRITIC}]},
        {"trains": ["model.prior"], "objectives": [{"objective": "elbo"}]},
    ]
    go(recipe(prior="mixture", train=[{"steps": 3, "batch_size": 50, "players": players}]), tmp_path / "run")
    assert modes == [[True, False]] * 3


def test_a_vae_gan_still_reports_a_bound(recipe, go, tmp_path):
    run = go(vae_gan(recipe), tmp_path / "run")
    scores = run.scores()
    test = scores["splits"]["test"]
    assert scores["kind"] == "weight" and test["NLL"] <= test["-ELBO"]
    assert -sum(test["terms"].values()) == pytest.approx(test["-ELBO"], rel=1e-6)
    assert "adversarial" not in " ".join(test["terms"])


def test_beside_a_critic_the_last_weights_are_kept(recipe, go, tmp_path, monkeypatch):
    """The bound rises from look to look; a training that selects by it would keep the first."""
    rising = iter(range(100))
    monkeypatch.setattr(stretch, "cost_of", lambda *_: float(next(rising)))
    run = go(vae_gan(recipe), tmp_path / "run")
    last, kept = load_file(run.path / "last.safetensors"), load_file(run.path / "model.safetensors")
    assert all(torch.equal(last[f"model/{name}"], value) for name, value in kept.items())


def test_the_critic_is_no_part_of_the_model(go, tmp_path):
    run = go(gan(), tmp_path / "run")
    assert all(
        name.startswith("stages.0.decoder") for name in load_file(run.path / "model.safetensors") if "like" not in name
    )
    assert any("critic" in name for name in load_file(run.path / "last.safetensors"))


@pytest.mark.parametrize("make", [lambda recipe: gan({"steps": 2, "noise": 0.1, "paired": True}), vae_gan])
def test_a_resumed_run_ends_as_if_it_had_not_been_stopped(recipe, go, tmp_path, monkeypatch, make):
    whole = go(make(recipe), tmp_path / "whole")
    validate = Stretch._validate

    def stopped(self: Stretch) -> None:
        if self.at["step"] > 5:
            raise KeyboardInterrupt
        validate(self)

    with monkeypatch.context() as patch:
        patch.setattr(Stretch, "_validate", stopped)
        with pytest.raises(KeyboardInterrupt):
            go(make(recipe), tmp_path / "half")
    resume(tmp_path / "half", progress=False)
    for name in ("model.safetensors", "last.safetensors"):
        one, other = load_file(whole.path / name), load_file(tmp_path / "half" / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_an_implicit_model_is_measured_and_not_scored(go, tmp_path):
    run = go(gan(), tmp_path / "run")
    scores = run.scores()
    assert scores["splits"] == {} and scores["kind"] == "none"
    assert scores["measures"]["modes"]["of"] == 25
    assert scores["measures"]["sampling"]["network evaluations"] == 1
    with pytest.raises(KindError, match="implicit"):
        evaluate(run, samples=10)


def test_images_of_a_gan(go, tmp_path):
    run = go(gan(data="digits"), tmp_path / "run")
    assert sorted(picture.name for picture in run.figures.iterdir()) == ["curve.png", "samples.png", "training.png"]


def test_samples_over_a_training_are_kept(go, tmp_path):
    run = go(gan(steps=8, validate_every=2), tmp_path / "run")
    kept = {file.name: load_file(file)["x"] for file in (run.path / "snapshots").iterdir()}
    assert sorted(kept) == [f"0-{step}.safetensors" for step in (2, 4, 6, 8)]
    assert torch.equal(kept["0-8.safetensors"], sample(run, len(kept["0-8.safetensors"])))
    assert not torch.equal(kept["0-8.safetensors"], kept["0-6.safetensors"])


def test_norms_of_gradients_are_logged(go, tmp_path, every_step):
    run = go(gan(steps=3), tmp_path / "run")
    assert all(line["gradient norm"] > 0 and line["x.critic gradient norm"] > 0 for line in run.metrics())


def test_a_critic_that_diverges_stops_the_run(go, tmp_path, monkeypatch):
    from compose.parts.objectives.adversarial import AdversarialObjective

    loss = AdversarialObjective.rival_loss

    def broken(self: AdversarialObjective, *given: Any) -> Any:
        found = loss(self, *given)
        return found._replace(value=found.value * math.nan)

    monkeypatch.setattr(AdversarialObjective, "rival_loss", broken)
    with pytest.raises(TrainingError, match="were not finite: what the rival in 'adversarial' minimises") as error:
        go(gan(steps=30, validate_every=30), tmp_path / "run")
    assert str(error.value).endswith("was never written. Try a lower lr in its 'optimizer'.")


def found(recipe: Recipe) -> dict[str, str]:
    return {fault.path: fault.message for fault in check_declared(recipe).faults}


@pytest.mark.parametrize(
    "options, path, message",
    [
        ({"at": "z7"}, "at", "there is no edge 'z7'; there is: x, z1."),
        ({"at": "z1"}, "at", "no way leads up through stage 1, 'generator'; at x it would do."),
        ({"critic": {"type": "conv"}}, "critic", "'conv' works on images, but here it would map Real(2) to Real(1)."),
        ({"pac": 3}, "pac", "the critic is to see 3 items at once, and a batch of 20 is no multiple of that."),
    ],
)
def test_faults_are_told_where_they_stand(options, path, message):
    (at, said), *rest = found(gan(options)).items()
    assert at == f"train.0.players.0.objectives.0.objective.{path}" or at == f"train.0.objective.{path}"
    assert message in said and not rest


def test_an_elbo_of_an_implicit_model_is_a_fault():
    recipe = gan()
    phase = recipe.train[0].model_dump() | {"players": [{"objectives": [{"objective": "elbo"}]}]}
    (said,) = found(Recipe.model_validate({**recipe.model_dump(), "train": [phase]})).values()
    assert said == "'elbo' needs a likelihood, and this model has none."


GRID = PLANAR["grid25"]()


def test_modes_of_the_truth_itself():
    assert isinstance(GRID, Gaussians)
    x = torch.from_numpy(GRID.sample(20_000, np.random.RandomState(0)))
    scored = modes(x, GRID)
    within_3_sigma = 1 - math.exp(-4.5)  # of a round Gaussian in the plane
    assert scored["found"] == 25
    assert scored["high quality"] == pytest.approx(within_3_sigma, abs=0.003)
    assert scored["reverse KL"] < 0.002


def test_modes_of_a_collapsed_model():
    assert isinstance(GRID, Gaussians)
    one = torch.from_numpy(GRID.centres[:1]).repeat(100, 1)
    assert modes(one, GRID) == {"found": 1, "of": 25, "high quality": 1.0, "reverse KL": pytest.approx(math.log(25))}
    between = torch.full((100, 2), 1.0)
    assert modes(between, GRID) == {"found": 0, "of": 25, "high quality": 0.0, "reverse KL": None}


def test_noise_finds_most_modes_too():
    """So their number says little without the share of samples near them."""
    assert isinstance(GRID, Gaussians)
    even = 9 * torch.rand(2500, 2, generator=torch.Generator().manual_seed(0)) - 4.5
    scored = modes(even, GRID)
    assert 22 <= scored["found"] <= 24
    assert scored["high quality"] == pytest.approx(0.02, abs=0.005)


def test_a_run_s_modes_are_printed(go, tmp_path: Path):
    from rich.console import Console

    from compose.run.ledger import render

    run = Run(go(gan(), tmp_path / "run").path)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(run.scores()))
    text = console.export_text()
    assert "implicit" in text and "of 25 found" in text and "1 network evaluation" in text


def test_a_collapse_is_told_with_what_to_change(go, tmp_path: Path):
    run = go(gan(), tmp_path / "run")
    missing, *_ = run.scores()["warnings"]
    assert missing.startswith("mode collapse: samples are found at ")
    assert f"slope: train.0.objective (see {run.path / 'recipe.yaml'}:" in missing
    assert "paired: true" in missing


@pytest.mark.parametrize("several", [False, True])
def test_what_is_advised_may_be_set_in_the_run_s_recipe(recipe, go, tmp_path: Path, several: bool):
    """Whether its phase is written with players or, of one with one objective, without."""
    run = go(vae_gan(recipe) if several else gan(), tmp_path / "run")
    ((_, at),) = _adversarial(run)
    path, where = at.split(" ", 1)
    assert where.startswith(f"(see {run.path / 'recipe.yaml'}:")
    changed = load_recipe(run.path / "recipe.yaml", [f"{path}.pac=2"])
    assert changed.train[0].players[0].objectives[-1].objective.pac == 2


@pytest.mark.parametrize(
    "options, mend",
    [({"paired": True, "r1": 1.0, "r2": 1.0}, "pac: 2"), ({"paired": True, "r1": 1.0, "r2": 1.0, "pac": 2}, "wider")],
)
def test_nothing_is_advised_that_is_done_already(go, tmp_path, options, mend):
    missing, *_ = go(gan(options), tmp_path / "run").scores()["warnings"]
    assert mend in missing and "paired" not in missing


def test_a_critic_that_tells_all_apart_is_told(go, tmp_path: Path, every_step):
    """A generator that hardly moves, and a critic that learns where it is."""
    options = {"optimizer": {"lr": 0.05}}
    run = go(gan(options, steps=150, validate_every=150, optimizer={"lr": 1e-8}), tmp_path / "run")
    assert any(
        warning.startswith("the critic has won: ") and "noise: 0.1" in warning for warning in run.scores()["warnings"]
    )


def test_without_a_critic_nothing_is_told(trained: Run):
    assert trained.scores()["warnings"] == []


def test_two_runs_are_set_side_by_side_by_their_samples(go, tmp_path: Path):
    from compose.cli.compare import _measures

    one, other = (go(gan(seed), tmp_path / f"run{i}").scores()["measures"] for i, seed in enumerate(({}, {"pac": 2})))
    rows = {key: values for key, *values in _measures(one, other)}
    assert rows["found"] == [str(each["modes"]["found"]) for each in (one, other)]
    assert rows["precision"] == [f"{each['coverage']['precision']:.4f}" for each in (one, other)]
    assert list(_measures(one, {**other, "modes": {**other["modes"], "samples": 7}}))[-1][0] == "coverage"
