"""Scores: every example, whatever the chunks; what a kind promises, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from compose.core import random
from compose.core.errors import KindError, RunError
from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.data.source import Source, Split
from compose.parts.densities.flow import Flow
from compose.parts.stages.bijection import Bijection
from compose.parts.stages.dequantize import Dequantize
from compose.recipe.check import load_recipe
from compose.run import evaluate as room
from compose.run.directory import Run
from compose.run.evaluate import evaluate, score
from compose.run.ledger import render

SIZES = {"validation": 350, "test": 447}


@pytest.fixture(scope="module")
def model(trained: Run) -> ModelDensity:
    return trained.model()


@pytest.fixture(scope="module")
def source(trained: Run) -> Source:
    return trained.recipe.data.load()


@pytest.mark.parametrize("name", SIZES)
def test_scores_do_not_depend_on_chunks(model, source, name):
    split = source.split(name)
    wanted = score(model, split, 7, rows=100)
    for rows in (1, 130, 350, 447, 10**6):
        found = score(model, split, 7, rows=rows)
        assert wanted.nll is not None and found.nll is not None
        torch.testing.assert_close(found.elbo, wanted.elbo, rtol=1e-6, atol=0)
        torch.testing.assert_close(found.nll, wanted.nll, rtol=1e-6, atol=0)
        assert found.terms == pytest.approx(wanted.terms, rel=1e-6)


def test_an_example_keeps_its_score_when_others_follow(model, source):
    """Blocks are drawn by where they start: a longer set scores its beginning alike."""
    split = source.validation
    whole, half = (score(model, Split(split.x[:count]), 3) for count in (350, 200))
    torch.testing.assert_close(whole.elbo[:200], half.elbo, rtol=1e-6, atol=0)


def test_scores_belong_to_their_seed(model, source):
    first, same, other = (score(model, source.validation, 2, seed=seed).elbo for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert (first != other).all()


def test_scores_are_what_their_names_say(model, source):
    """Against the plain formulas on the same draws."""
    split, k = source.test, 5
    found = score(model, split, k, seed=4)
    weights = torch.empty(k, len(split), dtype=torch.float64)
    with torch.no_grad():
        for start in range(0, len(split), room.BLOCK):
            x = split.x[start : start + room.BLOCK]
            for draw in range(k):
                with random.blocks([(random.generator(4, "evaluation", start, draw), len(x))]):
                    weights[draw, start : start + len(x)] = model.log_prob(x, mode="path").double()
    torch.testing.assert_close(found.elbo, weights.mean(0), rtol=1e-6, atol=0)
    assert found.nll is not None
    torch.testing.assert_close(found.nll, -(weights.exp().mean(0).log()), rtol=1e-6, atol=0)
    assert sum(found.terms.values()) == pytest.approx(float(found.elbo.mean()), rel=1e-6)


def test_more_draws_never_cost(model, source):
    """On the same draws NLL(K) is at most -ELBO, example by example; over sets of draws it falls with K."""
    split = source.test
    found = {k: score(model, split, k, seed=k) for k in (1, 5, 50)}
    for each in found.values():
        assert each.nll is not None
        assert (each.nll <= -each.elbo + 1e-9).all()
    for few, many in ((1, 5), (5, 50)):
        gain = found[few].nll - found[many].nll  # type: ignore[operator]
        assert gain.mean() > -2 * gain.std() / math.sqrt(len(gain))
    assert (found[1].nll - found[50].nll).mean() > 0.1  # type: ignore[operator]
    paired = found[50].elbo - found[1].elbo
    assert abs(paired.mean()) < 4 * paired.std() / math.sqrt(len(paired))


def test_every_example_is_counted(trained, source):
    """350 and 447, the last block of each not a full one, every score in the file and their mean in the ledger."""
    scores = evaluate(trained, samples=3)
    each = load_file(trained.path / "scores.safetensors")
    assert json.loads((trained.path / "scores.json").read_text()) == scores
    for name, size in SIZES.items():
        told = scores["splits"][name]
        assert size % room.BLOCK
        assert told["examples"] == told["protocol"]["examples"] == size
        for column, error in (("-ELBO", "standard_error"), ("NLL", "NLL_standard_error")):
            values = each[f"{name}/{column}"]
            assert values.shape == (size,) and values.isfinite().all()
            assert told[column] == pytest.approx(float(values.mean()), rel=1e-12)
            by_hand = math.sqrt(float((values - values.mean()).square().sum()) / (size - 1) / size)
            assert told[error] == pytest.approx(by_hand, rel=1e-9)
        assert told["K"] == told["protocol"]["K"] == 3
        dim = source.space.dim
        assert told["bits_per_dim"] == pytest.approx(told["-ELBO"] / dim / math.log(2))
        assert told["NLL_bits_per_dim"] == pytest.approx(told["NLL"] / dim / math.log(2))
        assert sum(told["views"].values()) == pytest.approx(told["-ELBO"], rel=1e-6)
        assert told["floor"] is None and told["reducible"] is None


def test_standard_errors_cover(model, source):
    """Of 200 random subsets of 60, about 95 % lie within two standard errors of the whole."""
    values = -score(model, source.test).elbo
    chosen = torch.stack([values[torch.randperm(len(values), generator=g)[:60]] for g in map(_generator, range(200))])
    error = chosen.std(1) / math.sqrt(60) * math.sqrt(1 - 60 / len(values))
    within = ((chosen.mean(1) - values.mean()).abs() < 2 * error).float().mean()
    assert 0.9 < within < 0.99


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_training_selects_on_is_the_score_of_one_draw(trained, source):
    looks = [line["validation -ELBO"] for line in trained.metrics() if "validation -ELBO" in line]
    scores = evaluate(trained, samples=1)
    assert scores["splits"]["validation"]["-ELBO"] == pytest.approx(min(looks), rel=1e-12)
    # One draw is a bound, and calling it NLL would say more than that.
    for told in scores["splits"].values():
        assert told["NLL"] is None and told["NLL_standard_error"] is None and told["NLL_bits_per_dim"] is None


def test_a_bound_refuses_importance_weights(recipe, go, tmp_path, plugin):
    run = go(recipe(prior="bounded", steps=5, samples=50), tmp_path / "run")
    assert run.scores()["kind"] == "bound"
    for told in run.scores()["splits"].values():
        assert told["NLL"] is None and told["-ELBO"] > 0
        assert told["K"] == 10
    assert not [name for name in load_file(run.path / "scores.safetensors") if "NLL" in name]
    with pytest.raises(KindError, match=r"NLL\(K = 50\).*only a bound \(E L <= log p\)"):
        evaluate(run, samples=50)
    assert evaluate(run, samples=1)["splits"]["test"]["K"] == 1


@pytest.mark.parametrize("samples", [0, -1])
def test_no_draws_are_refused(trained, samples):
    with pytest.raises(RunError, match=f"{samples} draws"):
        evaluate(trained, samples=samples)


def test_binarised_data_have_a_floor_and_a_protocol(recipe, go, tmp_path):
    run = go(recipe(data={"binarize": True}, steps=100, samples=3), tmp_path / "run")
    source = run.recipe.data.load()
    for name, told in run.scores()["splits"].items():
        assert told["floor"] == source.floor[name] > 0
        assert told["-ELBO"] > told["NLL"] > told["floor"]
        assert told["reducible"] == pytest.approx(told["NLL"] - told["floor"])
        protocol = told["protocol"]
        assert protocol == {
            "data": "digits",
            "split": name,
            "digest": source.split(name).digest,
            "data digest": source.digest,
            "examples": SIZES[name],
            "binarisation": "p = k/16, validation then test drawn once",
            "seed": 777,
            "conditioning": "none",
            "kind": "weight",
            "mode": "path",
            "K": 3,
            "evaluation seed": 0,
        }


def test_a_model_without_a_latent_is_scored_with_one_draw_of_its_noise(recipe, go, tmp_path):
    """A flow on dequantised images: a weight with a rate for its noise, and a distortion of nothing."""
    stages = [Dequantize(), Bijection(transform="affine_coupling", layers=2, hidden=16)]
    run = go(recipe(stages=stages, steps=30, samples=4), tmp_path / "run")
    told = run.scores()["splits"]["test"]
    assert run.scores()["kind"] == str(Kind.WEIGHT)
    assert told["views"].keys() == {"rate z1"}
    assert told["NLL"] <= told["-ELBO"]


@pytest.mark.long
def test_health_counts_units_and_warns_of_collapse(recipe, go, tmp_path):
    """An unbearable rate switches every unit off; the warning names a line of the recipe."""
    run = go(recipe(steps=300, objective={"type": "elbo", "beta": 500.0}, optimizer={"lr": 1e-2}), tmp_path / "run")
    (record,) = run.scores()["health"]
    assert (record["edge"], record["units"], record["active"]) == ("z1", 4, 0)
    assert sum(record["kl"]) < 0.1
    assert "posterior collapse at z1: 0 of 4 units" in record["warning"]
    assert "slowly: train.0.objective.warmup (see " in record["warning"]
    line = int(record["warning"].partition("recipe.yaml:")[2].partition(":")[0])
    assert "objective" in "".join((run.path / "recipe.yaml").read_text().splitlines()[line - 3 : line + 2])


@pytest.mark.long
def test_health_sees_units_that_are_off_where_a_posterior_has_no_closed_form(recipe, go, tmp_path):
    """A mean of draws varies though nothing of x is in it; two of them do not vary alike."""
    stage = recipe().model.stages[0].model_copy(update={"posterior": Flow(transform="affine_coupling", layers=2)})
    terms = [{"objective": {"type": "elbo", "beta": 500.0}}]
    players = [
        {"trains": ["model.stages.0"], "objectives": terms, "optimizer": {"lr": 1e-2}},
        {"trains": ["model.prior"], "objectives": terms},
    ]
    phase = {"steps": 300, "batch_size": 50, "players": players}
    off = go(recipe(stages=[stage], prior="mixture", train=[phase]), tmp_path / "off")
    (record,) = off.scores()["health"]
    assert record["active"] == 0 and record["kl"] is None
    assert "train.0.players.0.objectives.0.objective.warmup" in record["warning"]
    (record,) = go(recipe(stages=[stage], steps=200, optimizer={"lr": 1e-2}), tmp_path / "on").scores()["health"]
    assert record["active"] > 1 and max(record["variance"]) > 0.5 and "warning" not in record


def test_health_of_a_sound_run_is_silent(trained):
    (record,) = trained.scores()["health"]
    assert record["active"] == sum(value > 0.01 for value in record["variance"]) > 0
    assert "warning" not in record
    assert len(record["kl"]) == 4
    assert min(record["kl"]) >= 0
    rate = trained.scores()["splits"]["validation"]["views"]["rate z1"]
    assert sum(record["kl"]) == pytest.approx(rate, rel=0.1)


def test_binarised_training_images_have_no_score(recipe, go, tmp_path, trained):
    """They are grey levels, drawn afresh at each step; those of other data are scored like any."""
    run = go(recipe(data={"binarize": True}, steps=2), tmp_path / "run")
    with pytest.raises(RunError, match="drawn afresh"):
        evaluate(run, splits=("train",))
    assert evaluate(trained, splits=("train",))["splits"]["train"]["examples"] == 1000


def test_of_a_single_example_there_is_no_standard_error(go, tmp_path: Path):
    """A share of few rows may be one; NaN would be no JSON."""
    np.save(tmp_path / "x.npy", np.random.RandomState(0).randint(3, size=(12, 4)))
    changes = [f"data={{type: arrays, file: {tmp_path / 'x.npy'}}}", "train.0.steps=2", "model.stages.0.dim=2"]
    run = go(load_recipe("vae", changes), tmp_path / "run")
    assert run.scores()["health"] == []  # nor can a unit be told to be off
    splits = run.scores()["splits"]
    for split in splits.values():
        assert split["examples"] == 1 and split["standard_error"] is None and split["NLL_standard_error"] is None
    assert "NaN" not in json.dumps(splits)
    console = Console(width=200)
    with console.capture() as printed:
        console.print(render(run.scores()))
    assert "-ELBO" in printed.get() and "standard error" not in printed.get()
