"""Budgets, schedules, averages, frozen parts, players and phases."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compose.core.errors import TrainingError
from compose.core.model import ModelDensity
from compose.data.digits import Digits
from compose.data.source import Source, Split
from compose.parts.densities.diffusion import DiffusionDensity
from compose.parts.stages.latent import Latent
from compose.parts.stages.standardize import Standardize
from compose.recipe.build import build
from compose.recipe.check import load_recipe
from compose.run import budget, evaluate, stretch
from compose.run.batches import Batches
from compose.run.directory import Run
from compose.run.sample import sample
from compose.run.train import train

LR = 1e-2


def lines(run: Run, key: str = "loss") -> list[dict[str, Any]]:
    return [line for line in run.metrics() if key in line]


def weights(run: Run, name: str = "model") -> dict[str, Tensor]:
    return load_file(run.path / f"{name}.safetensors")


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in after if not torch.equal(before[name], after[name])}


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs every step."""
    monkeypatch.setattr(stretch, "LOG_STEPS", 1)


def test_it_learns_and_each_line_of_the_log_sums_up(trained: Run):
    assert lines(trained)[-1]["loss"] < lines(trained)[0]["loss"] - 40
    for line in lines(trained):
        assert line["loss"] == pytest.approx(line["distortion"] + line["rate z1"], rel=1e-5)


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("constant", [1.0] * 10),
        ("linear", [1 - step / 10 for step in range(10)]),
        ("cosine", [0.5 + 0.5 * math.cos(math.pi * step / 10) for step in range(10)]),
    ],
)
def test_schedules(recipe, go, tmp_path, every_step, schedule, expected):
    run = go(recipe(steps=10, validate_every=10, optimizer={"lr": LR, "schedule": schedule}), tmp_path / "run")
    assert [line["lr"] / LR for line in lines(run)] == pytest.approx(expected)


@pytest.mark.long
def test_the_cosine_ends_near_zero(recipe, go, tmp_path, every_step):
    run = go(recipe(steps=200, validate_every=200, optimizer={"lr": LR, "schedule": "cosine"}), tmp_path / "run")
    assert lines(run)[-1]["lr"] < 1e-3 * LR


def test_warm_up_rises_linearly_and_multiplies_the_schedule(recipe, go, tmp_path, every_step):
    options = {"lr": LR, "warmup": 4, "schedule": "linear"}
    run = go(recipe(steps=8, validate_every=8, optimizer=options), tmp_path / "run")
    expected = [min(1.0, (step + 1) / 4) * (1 - step / 8) for step in range(8)]
    assert [line["lr"] / LR for line in lines(run)] == pytest.approx(expected)


@pytest.mark.parametrize("given, steps", [({"steps": 13}, 13), ({"epochs": 1.5}, 30), ({"epochs": 0.01}, 1)])
def test_budgets_by_steps_and_epochs(recipe, go, tmp_path, given, steps):
    run = go(recipe(**given), tmp_path / "run")
    assert run.metrics()[-1]["step"] == steps


def test_a_budget_in_seconds_leaves_evaluation_out(recipe, go, tmp_path, monkeypatch):
    """The clock is a counter here: a step takes 1 second, a look at the validation set 1000."""
    clock = [0.0]
    real_step, real_look = stretch.Stretch._step, stretch.Stretch._validate

    def step(self: Any, wrapped: Any) -> None:
        clock[0] += 1
        real_step(self, wrapped)

    def look(self: Any) -> None:
        clock[0] += 1000
        real_look(self)

    monkeypatch.setattr(stretch.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(stretch.Stretch, "_step", step)
    monkeypatch.setattr(stretch.Stretch, "_validate", look)
    run = go(recipe(seconds=40.0), tmp_path / "run")
    looks = lines(run, "validation -ELBO")
    assert [line["step"] for line in looks] == list(range(4, 41, 4))
    assert run.training_seconds() == 40  # though fewer steps than are logged once


def test_a_budget_in_real_seconds(recipe, go, tmp_path):
    run = go(recipe(seconds=0.3), tmp_path / "run")
    assert len(lines(run, "validation -ELBO")) <= budget.LOOKS
    assert run.metrics()[-1]["step"] >= 1


@pytest.mark.long
def test_the_best_by_validation_is_kept(recipe, go, tmp_path):
    """A rate so high that the bound gets worse again: the weights are those of the best look, not of the last."""
    run = go(recipe(steps=60, validate_every=5, optimizer={"lr": 0.3}), tmp_path / "run")
    looks = lines(run, "validation -ELBO")
    best = min(looks, key=lambda line: line["validation -ELBO"])
    assert best is not looks[-1]
    assert [line["step"] for line in looks] == list(range(5, 61, 5))
    found = evaluate.evaluate(run, samples=1)["splits"]["validation"]["-ELBO"]
    assert found == pytest.approx(best["validation -ELBO"], rel=1e-9)
    assert changed({name: weights(run, "last")[f"model/{name}"] for name in weights(run)}, weights(run))


@pytest.mark.long
def test_a_look_takes_no_more_than_so_many_examples(recipe, go, tmp_path, monkeypatch):
    """Spread over the set, and what is reported is scored on all of it."""
    monkeypatch.setattr(stretch, "LOOKED_AT", 7)
    seen: list[Split] = []
    real = stretch.cost_of
    monkeypatch.setattr(stretch, "cost_of", lambda model, split, *rest: seen.append(split) or real(model, split, *rest))
    run = go(recipe(steps=4, validate_every=2), tmp_path / "run")
    whole = Digits(labels=True).load().validation
    assert [len(split) for split in seen] == [7, 7]
    assert torch.equal(seen[0].x, whole.x[[i * len(whole) // 7 for i in range(7)]])
    assert whole.thinned(7).y is not None and torch.equal(whole.thinned(len(whole)).x, whole.x)
    assert evaluate.evaluate(run, samples=1)["splits"]["validation"]["examples"] == len(whole)


@pytest.mark.long
def test_the_test_split_is_never_looked_at(recipe, go, tmp_path, monkeypatch):
    first = go(recipe(steps=20, validate_every=5), tmp_path / "first")
    real = Digits.load

    def spoiled(self: Digits) -> Source:
        source = real(self)
        return Source(source.name, source.space, None, source.train, source.validation, Split(16 - source.test.x))

    monkeypatch.setattr(Digits, "load", spoiled)
    second = go(recipe(steps=20, validate_every=5), tmp_path / "second")
    assert (first.path / "model.safetensors").read_bytes() == (second.path / "model.safetensors").read_bytes()
    assert first.scores()["splits"]["test"]["-ELBO"] != second.scores()["splits"]["test"]["-ELBO"]


@pytest.mark.long
def test_the_averaged_weights_are_what_is_kept_and_scored(recipe, go, tmp_path):
    """An average with decay d after n steps, recomputed from the weights of every step."""
    kept: list[dict[str, Tensor]] = []
    real = stretch.Stretch._tick

    def keep(self: Any, seconds: float) -> None:
        kept.append({name: value.clone() for name, value in self.model.state_dict().items()})
        real(self, seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretch.Stretch, "_tick", keep)
        run = go(recipe(steps=12, validate_every=12, ema=0.7), tmp_path / "run")
    average = kept[0]
    for step in kept[1:]:
        average = {name: 0.7 * average[name] + 0.3 * step[name] for name in average}
    found = weights(run)
    for name, value in average.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    assert changed(kept[-1], found)
    score = evaluate.evaluate(run, samples=1)["splits"]["validation"]["-ELBO"]
    assert score == pytest.approx(lines(run, "validation -ELBO")[-1]["validation -ELBO"], rel=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("decays", [(0.5, None), (None, 0.7), (0.5, 0.7)])
def test_each_player_is_kept_as_it_is_averaged(recipe, go, tmp_path, decays):
    """And that of a player that keeps no average is what it trained."""
    players = [
        {"trains": ["model.stages.0"], "objectives": [{"objective": "elbo"}], "ema": decays[0]},
        {"trains": ["model.prior"], "objectives": [{"objective": "elbo"}], "ema": decays[1]},
    ]
    made = recipe(prior="mixture", train=[{"steps": 6, "batch_size": 50, "players": players}])
    run = go(made, tmp_path / "run")
    last, kept = weights(run, "last"), weights(run)
    for place, path in enumerate(("stages.0.", "prior.")):
        source = "model/" if decays[place] is None else f"average{place}/module."
        assert all(torch.equal(kept[name], last[source + name]) for name in kept if name.startswith(path))
    assert changed({name: last[f"model/{name}"] for name in kept}, kept)


@pytest.mark.long
def test_clipping_bounds_the_step(recipe, go, tmp_path):
    """With plain gradient descent the first step is as long as rate times clip."""
    start = dict(build(recipe()).named_parameters())
    for clip in (0.5, 1e6):
        options = {"type": "sgd", "lr": 1e-3, "betas": [0.0, 0.999]}
        run = go(recipe(steps=1, optimizer=options, clip=clip), tmp_path / f"run{clip}")
        moved = math.sqrt(sum(float((weights(run)[name] - start[name].detach()).square().sum()) for name in start))
        if clip < 1:
            assert moved == pytest.approx(1e-3 * clip, rel=1e-4)
        else:
            assert moved > 1e-3


def test_frozen_parts_stay_as_they_are(recipe, go, tmp_path, monkeypatch):
    seen: list[tuple[set[str], set[str]]] = []
    real = stretch.Stretch._tick

    def look(self: Any, seconds: float) -> None:
        graded = {name for name, value in self.model.named_parameters() if value.requires_grad}
        training = {name for name, module in self.model.named_modules() if module.training}
        seen.append((graded, training))
        real(self, seconds)

    monkeypatch.setattr(stretch.Stretch, "_tick", look)
    made = recipe(prior="mixture", trains=["model.prior", "model.stages.0.decoder"], validate_every=3)
    run = go(made, tmp_path / "run")
    start = build(made).state_dict()
    moved = changed(start, weights(run))
    assert moved == {name for name in start if name.startswith(("prior.", "stages.0.decoder."))}
    assert len(seen) == 20
    for graded, training in seen:
        assert graded == moved
        assert training
        assert all(name.startswith(("prior", "stages.0.decoder")) for name in training)


@pytest.mark.long
def test_two_players_change_only_their_own(recipe, go, tmp_path):
    """Each with its own optimizer; what one player does is what it does alone, for the first step."""
    players = [
        {"trains": ["model.stages.0"], "objectives": [{"objective": "elbo"}]},
        {"trains": ["model.prior"], "objectives": [{"objective": "elbo"}], "optimizer": {"type": "sgd", "lr": 1e-4}},
    ]
    both = go(recipe(prior="mixture", train=[{"steps": 1, "batch_size": 50, "players": players}]), tmp_path / "both")
    alone = go(
        recipe(prior="mixture", train=[{"steps": 1, "batch_size": 50, "players": players[:1]}]), tmp_path / "one"
    )
    start = build(recipe(prior="mixture")).state_dict()
    stage = {name for name in start if name.startswith("stages")}
    assert changed(start, weights(alone)) == stage
    assert changed(start, weights(both)) == set(start)
    assert not changed(weights(alone), weights(both)) & stage
    assert [line["player"] for line in lines(both)] == [0, 1]


def test_the_second_player_descends_its_own_gradient_alone(recipe, go, tmp_path):
    """Nothing of the first player's gradient is left in the second's: with an objective of weight 0 it stays."""
    players = [
        {"trains": ["model.stages.0"], "objectives": [{"objective": "elbo"}], "optimizer": {"type": "sgd"}},
        {"trains": ["model.prior"], "objectives": [{"objective": "elbo", "weight": 0.0}], "optimizer": {"type": "sgd"}},
    ]
    run = go(recipe(prior="mixture", train=[{"steps": 5, "batch_size": 50, "players": players}]), tmp_path / "run")
    moved = changed(build(recipe(prior="mixture")).state_dict(), weights(run))
    assert moved
    assert not any(name.startswith("prior") for name in moved)


def two_phases(recipe: Any) -> Any:
    """An autoencoder, then a prior over its frozen and standardised latents."""
    net = recipe().model.stages[0].encoder
    stages = [Latent(dim=4, encoder=net, decoder=net), Standardize()]
    phases = [
        {"trains": ["model.stages.0"], "steps": 40, "batch_size": 50},
        {"trains": ["model.prior"], "steps": 30, "batch_size": 50, "optimizer": {"lr": LR}},
    ]
    return recipe(stages=stages, prior="mixture", train=phases)


def test_two_phases(recipe, go, tmp_path):
    """The second phase starts from the best weights of the first, freezes them, and fits the standardisation anew."""
    run = go(two_phases(recipe), tmp_path / "run")
    first, second = weights(run, "best-0"), weights(run)
    moved = changed(first, second)
    assert moved == {name for name in first if name.startswith(("prior.", "stages.1."))}
    assert changed(build(two_phases(recipe)).state_dict(), first) >= {"stages.0.encoder.layers.0.weight"}
    looks = [line["validation -ELBO"] for line in lines(run, "validation -ELBO") if line["phase"] == 1]
    assert looks[-1] < looks[0]
    assert {line["phase"] for line in run.metrics()} == {0, 1}


@pytest.mark.long
def test_standardize_fits_the_whole_training_set(recipe, go, tmp_path, monkeypatch):
    """At the start of the second phase the latents of all training images have mean 0 and deviation 1."""
    monkeypatch.setattr(Batches.all, "__defaults__", (300,))  # in several batches, the last of which is not full
    made = two_phases(recipe)
    run = go(made, tmp_path / "run")
    model = run.model()
    with torch.no_grad():
        draws = torch.cat([model.encode(made.data.load().train.x) for _ in range(30)])
    # One draw of each of 1000 images was fitted: the standard error of its mean is 0.03, of its deviation 0.02.
    assert draws.mean(0).abs().max() < 0.06
    assert (draws.std(0) - 1).abs().max() < 0.05
    assert (model.stack[1].get_buffer("log_scale") != 0).all()


def test_what_is_fitted_sees_a_model_that_does_not_train(recipe, go, tmp_path, monkeypatch):
    """With dropout in an encoder that holds still it would else be fitted to other latents than it ever sees."""
    modes: list[bool] = []
    fit_parts = ModelDensity.fit_parts

    def watched(self: ModelDensity, *given: Any) -> None:
        modes.extend(module.training for module in self.modules())
        fit_parts(self, *given)

    monkeypatch.setattr(ModelDensity, "fit_parts", watched)
    go(two_phases(recipe), tmp_path / "run")
    assert modes and not any(modes)


def test_what_was_trained_is_not_fitted_anew(recipe, go, tmp_path):
    """A VampPrior starts at training images; a later phase that freezes it leaves its pseudo-inputs as trained."""
    phases = [
        {"steps": 20, "batch_size": 50, "optimizer": {"lr": LR}},
        {"steps": 5, "batch_size": 50, "trains": ["model.stages.0.decoder"]},
    ]
    run = go(recipe(prior={"type": "vamp", "components": 5}, train=phases), tmp_path / "run")
    images = Digits().load().train.x[[0, 249, 499, 749, 999]] / 16
    assert not torch.allclose(weights(run, "best-0")["prior.pseudo_inputs"], images, atol=1e-3)
    assert torch.equal(weights(run, "best-0")["prior.pseudo_inputs"], weights(run)["prior.pseudo_inputs"])


def test_what_no_phase_trained_yet_is_fitted_anew(recipe, go, tmp_path):
    """Actnorm in the prior of frozen latents starts at these, not at what the untrained encoder made of the data."""
    net = recipe().model.stages[0].encoder
    steps = {"type": "coupling", "layers": 1, "net": {"type": "conv", "channels": 4}}
    ladder = {"type": "ladder", "levels": [[4, 2, 2]], "encoder": net, "decoder": net}
    phases = [
        {"trains": ["model.stages.0"], "objective": "reconstruction", "steps": 60, "batch_size": 50},
        {"trains": ["model.prior"], "steps": 1, "batch_size": 50, "optimizer": {"lr": 1e-9}},
    ]
    made = recipe(stages=[ladder], prior={"type": "model", "stages": [steps], "prior": "normal"}, train=phases)
    model = go(made, tmp_path / "run").model()
    with torch.no_grad():
        z = model.encode(made.data.load().train.x)
        started = model.prior.stack[0].step[0].actnorm(z)[0]
    assert started.mean((0, 2, 3)).abs().max() < 0.1 and (started.std((0, 2, 3)) - 1).abs().max() < 0.1


def test_objectives_have_weights_and_set_in(recipe, go, tmp_path, every_step):
    """Half of the loss and another half that sets in at step 2 are the whole from there on."""
    terms = [{"objective": "elbo", "weight": 0.5}, {"objective": "elbo", "weight": 0.5, "start": 2}]
    phase = {"steps": 4, "batch_size": 50, "validate_every": 4, "players": [{"objectives": terms}]}
    run = go(recipe(train=[phase]), tmp_path / "run")
    shares = [line["loss"] / (line["distortion"] + line["rate z1"]) for line in lines(run)]
    assert shares[:2] == pytest.approx([0.5, 0.5], rel=1e-5)
    assert shares[2:] == pytest.approx([1, 1], rel=0.02)


def test_an_objective_that_never_set_in_is_an_error(recipe, go, tmp_path):
    terms = [{"objective": "elbo", "start": 2}]
    with pytest.raises(TrainingError, match="no objective"):
        go(recipe(train=[{"steps": 4, "batch_size": 50, "players": [{"objectives": terms}]}]), tmp_path / "run")


@pytest.mark.parametrize("objective", ["iwae", {"type": "elbo", "beta": 0.5, "warmup": 5, "free_bits": 0.5}])
def test_other_objectives_train(recipe, go, tmp_path, objective):
    run = go(recipe(steps=60, objective=objective, optimizer={"lr": LR}), tmp_path / "run")
    assert lines(run)[-1]["loss"] < lines(run)[0]["loss"] - 20


@pytest.mark.long
def test_a_labelled_recipe_trains_scores_and_samples_by_label(recipe, go, tmp_path):
    run = go(recipe(data={"labels": True}, steps=300, optimizer={"lr": 3e-3}), tmp_path / "run")
    protocol = run.scores()["splits"]["test"]["protocol"]
    assert protocol["conditioning"] == "class label of 10"
    model = run.model()
    assert isinstance(model, ModelDensity)
    source = run.recipe.data.load()
    # The label is used: the images are less likely under wrong labels.
    right = evaluate.score(model, source.test).elbo.mean()
    wrong = evaluate.score(model, Split(source.test.x, (source.test.y + 5) % 10)).elbo.mean()
    assert right > wrong + 0.5
    # And the samples of a label look more like the images of that label than like those of others.
    zeros, ones = (sample(run, 50, label=label).float().mean(0) for label in (0, 1))
    images = [source.train.x[source.train.y == label].float().mean(0) for label in (0, 1)]
    assert (zeros - images[0]).norm() < (zeros - images[1]).norm()
    assert (ones - images[1]).norm() < (ones - images[0]).norm()


@pytest.mark.long
def test_other_precisions_train(recipe, go, tmp_path):
    """Double and mixed precision, with an average: everything made of the weights shares their precision."""
    single = go(recipe(ema=0.9), tmp_path / "single")
    double = go(recipe(ema=0.9), tmp_path / "double", precision="64-true")
    mixed = go(recipe(ema=0.9), tmp_path / "mixed", precision="bf16-mixed")
    assert weights(double)["stages.0.encoder.layers.0.weight"].dtype == torch.float64
    # Doubles draw other noise, and mixed precision rounds.
    single_loss, double_loss, mixed_loss = (lines(run)[-1]["loss"] for run in (single, double, mixed))
    assert double_loss == pytest.approx(single_loss, rel=0.02)
    assert mixed_loss == pytest.approx(single_loss, rel=0.005)


def test_a_precision_that_needs_a_scaler_is_refused(recipe, go, tmp_path):
    with pytest.raises(TrainingError, match=r"'16-mixed' needs its losses scaled.* take bf16-mixed"):
        go(recipe(), tmp_path / "run", precision="16-mixed")
    assert not (tmp_path / "run").exists()


MIXED = {
    "vqvae": [],
    "vqvae of residuals": ["model.stages.0.quantizer={type: residual, depth: 2}"],
    "vqvae_fsq": [],
    "latent_diffusion": [],
    "lsgm": [],
    "diffusion": ["model.prior.steps=2"],
    "flow_matching": ["model.prior.steps=2"],
    "flow_toy": [],
    "diffusion_toy": [],
    "vae_vamp": [],
    "vae_flow_posterior": [],
    "ladder": [],
    "mhvae": [],
    "pixelvae": [],
    "ar_pixels": [],
    "aae": [],
    "gan_digits": [],
}


@pytest.mark.long
@pytest.mark.parametrize("name", MIXED)
def test_shipped_recipes_train_in_mixed_precision(go, tmp_path, monkeypatch, every_step, name):
    """What networks give in bfloat16 meets single precision in every part, and in what follows a step."""
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: None)
    short = {"steps": 2, "epochs": None, "seconds": None, "validate_every": 2, "batch_size": 32}
    made = load_recipe(name.split()[0], MIXED[name])
    made = made.model_copy(update={"train": [phase.model_copy(update=short) for phase in made.train]})
    run = go(made, tmp_path / "run", precision="bf16-mixed")
    found = [line["loss"] for line in lines(run)]
    assert len(found) == 2 * len(made.train) and all(map(math.isfinite, found))


def test_in_mixed_precision_reals_and_times_keep_their_digits(go, tmp_path, monkeypatch):
    """With times rounded to 8 bits neighbouring links would be as noisy as one another."""
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: None)
    seen: list[torch.dtype] = []
    gamma = DiffusionDensity.gamma
    monkeypatch.setattr(DiffusionDensity, "gamma", lambda self, t: (seen.append(t.dtype), gamma(self, t))[1])
    made = load_recipe("diffusion_toy", ["train.0.steps=2", "train.0.batch_size=32", "model.stages=[]"])
    go(made, tmp_path / "run", precision="bf16-mixed")
    assert set(seen) == {torch.float32}


def test_a_training_leaves_torch_as_it_was(recipe, go, tmp_path):
    torch.set_num_threads(2)
    try:
        go(recipe(steps=2), tmp_path / "run", threads=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_what_cannot_start_makes_no_directory(recipe, tmp_path: Path):
    for how, message in (
        ({"devices": 0}, "0 devices"),
        ({"devices": 3}, "batch_size is 50, which 3 devices cannot share evenly; take 48"),
        ({"precision": "17-true"}, "17-true"),
    ):
        with pytest.raises(TrainingError, match=message):
            train(recipe(), tmp_path / "run", **{"accelerator": "cpu", "progress": False, **how})
        assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_progress_takes_the_loss_apart(recipe, go, tmp_path, capsys):
    phases = [{"steps": 60, "batch_size": 50}, {"steps": 3, "batch_size": 50}]
    go(recipe(train=phases), tmp_path / "run", progress=True)
    shown = capsys.readouterr().err
    for text in ("training 1 of 2", "training 2 of 2", "validation -ELBO", "nats", "distortion", "rate z1"):
        assert text in shown
    go(recipe(steps=2), tmp_path / "quiet")
    assert not capsys.readouterr().err
