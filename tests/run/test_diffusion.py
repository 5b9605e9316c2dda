"""Runs of diffusion: any number of links, an autoencoder whose prior comes later, and what a prior could gain."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from compose.core.drawing import Drawing
from compose.core.errors import KindError, RecipeError, RunError, SpaceError
from compose.core.timed import TimedDensity
from compose.recipe.build import build
from compose.recipe.check import load_recipe
from compose.run import dial as dialling
from compose.run import evaluate as evaluation
from compose.run.dial import dial, save_dial
from compose.run.directory import Run
from compose.run.evaluate import score
from compose.run.ledger import _notes
from compose.run.sample import sample

DIFFUSION = {"type": "diffusion", "steps": 4, "net": {"type": "resmlp", "width": 16, "blocks": 1}}
FROZEN = ["model.stages.0.dim=3", "model.prior.steps=4", "model.prior.net.width=16", "evaluate.samples=2"]


@pytest.fixture(scope="module")
def diffused(recipe, go, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A VAE whose prior is a diffusion of four links."""
    return go(recipe(prior=DIFFUSION), tmp_path_factory.mktemp("diffused") / "run")


def test_the_dial_scores_as_its_own_number_of_links_does(diffused: Run, tmp_path: Path):
    found = dial(diffused, (2, 4, 8), "validation")
    assert [record["links"] for record in found] == [2, 4, 8]
    own = score(diffused.model(), diffused.recipe.data.load().validation, 1)
    assert found[1]["-ELBO"] == pytest.approx(-float(own.elbo.mean()), rel=1e-6)
    assert "rise" not in found[0]
    assert found[2]["rise"] == pytest.approx(found[2]["-ELBO"] - found[1]["-ELBO"], rel=1e-5)
    assert all(record["standard_error"] > 0 for record in found)
    assert save_dial(found, tmp_path / "links.png").stat().st_size > 1000


def test_what_cannot_be_drawn_is_refused_before_anything_is_scored(diffused: Run, trained: Run, monkeypatch):
    monkeypatch.setattr(evaluation, "score", lambda *_, **__: pytest.fail("it was scored"))
    with pytest.raises(RunError, match="5 ancestral steps are more than the 4 links of this chain"):
        evaluation.evaluate(diffused, steps=5)
    with pytest.raises(RunError, match="'sampler' says how a diffusion is drawn from, and the prior is none"):
        evaluation.evaluate(trained, sampler="ddim")
    with pytest.raises(SpaceError, match="0 steps were asked for"):
        evaluation.evaluate(diffused, steps=0)


def test_only_whole_paths_are_averaged(diffused: Run):
    with pytest.raises(KindError, match="mode 'one_t' gives a bound"):
        score(diffused.model(), diffused.recipe.data.load().validation, 2, mode="one_t")


def test_what_is_gained_at_least_may_be_an_estimate():
    record = {"edge": "z1", "active": 1, "units": 2, "ceiling": [0.1, 0.2], "ceiling standard error": 0.013}
    record |= {"gained": 0.07, "gained standard error": 0.02}
    said = {kind: _notes({"splits": {}, "kind": kind, "health": [record]}) for kind in ("weight", "estimate")}
    assert "between 0.10 and 0.20 nats (standard error 0.01)" in said["weight"][1]
    assert "of that this prior gains 0.07 nats (standard error 0.02)" in said["weight"][2]
    assert "between ~0.10 and 0.20" in said["estimate"][1] and "gains ~0.07 nats" in said["estimate"][2]


def test_of_a_run_of_before_the_ceiling_is_told_without_its_error():
    record = {"edge": "z1", "active": 1, "units": 2, "ceiling": [0.1, 0.2]}
    lines = _notes({"splits": {}, "kind": "weight", "health": [record]})
    assert len(lines) == 2 and "between 0.10 and 0.20 nats: the most" in lines[1]


def test_no_link_is_no_chain(diffused: Run):
    with pytest.raises(RunError, match="0 links were asked for; wanted 1 to 10,000"):
        dial(diffused, (8, 0))
    with pytest.raises(RunError, match="10001 links were asked for; wanted 1 to 10,000"):
        dial(diffused, (8, 10_001))


def test_of_one_example_there_is_no_standard_error(diffused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = dataclasses.replace(whole := diffused.recipe.data.load().validation, x=whole.x[:1])
    monkeypatch.setattr(dialling, "fixed_split", lambda *_: one)
    found = dial(diffused, (2, 4), "validation")
    assert [(record["standard_error"], record.get("rise_error")) for record in found] == [(None, None)] * 2
    assert save_dial(found, tmp_path / "links.png").stat().st_size > 1000


def test_the_dial_is_guarded_as_an_evaluation_is(recipe, go, diffused: Run, tmp_path: Path):
    with pytest.raises(RunError, match="0 draws of each example were asked for; wanted 1 at least"):
        dial(diffused, (8,), samples=0)
    binary = go(recipe(prior=DIFFUSION, data={"binarize": True}, steps=2), tmp_path / "binary")
    with pytest.raises(RunError, match="the train split of binarised digits is drawn afresh"):
        dial(binary, (8,), "train")


def test_without_a_diffusion_there_is_nothing_to_turn(trained: Run):
    with pytest.raises(RunError, match="no diffusion prior of some number of links"):
        dial(trained)


@pytest.mark.parametrize("name", ["ddim", "dpm_solver_pp", "heun", "ancestral"])
def test_a_run_is_sampled_in_few_steps(diffused: Run, name: str):
    how = Drawing(sampler=name, steps=3)
    x = sample(diffused, 10, how=how)
    assert torch.equal(x, sample(diffused, 10, how=how))
    assert not torch.equal(x, sample(diffused, 10, how=Drawing(sampler=name, steps=2)))


def test_a_chain_is_not_drawn_in_more_steps_than_it_has_links(diffused: Run):
    with pytest.raises(SpaceError, match="5 ancestral steps were asked for, and this chain has 4 links"):
        sample(diffused, 1, how=Drawing(sampler="ancestral", steps=5))


@pytest.mark.long
def test_a_frozen_prior_is_trained_after_its_autoencoder(go, tmp_path: Path):
    """The first phase leaves the prior as it was, and pays N(0, I); the second leaves the autoencoder."""
    recipe = load_recipe("latent_diffusion", FROZEN)
    short = [phase.model_copy(update={"steps": 5, "validate_every": 5}) for phase in recipe.train]
    only = go(recipe.model_copy(update={"train": short[:1]}), tmp_path / "first").model().state_dict()
    both = go(recipe.model_copy(update={"train": short}), tmp_path / "both").model().state_dict()
    fresh = build(recipe).state_dict()
    stage = [name for name in only if name.startswith("stages.0.") and only[name].dim() > 1]
    prior = [name for name in only if name.startswith("prior.net.") and only[name].dim() > 1]
    assert stage and all(torch.equal(only[name], both[name]) for name in stage)
    assert prior and all(torch.equal(only[name], fresh[name]) for name in prior)
    assert any(not torch.equal(only[name], both[name]) for name in prior)


@pytest.mark.parametrize("prior", ["diffusion", "flow_matching"])
def test_by_label_it_is_trained_scored_and_guided(prior: str, go, tmp_path: Path):
    """Its network is found at the recipe's key path; what encloses a net that is trained is in training as well."""
    labels = ["data.labels=true", "model.prior.labels=true", "model.prior.unlabelled=0.5", "model.prior.steps=2"]
    net = "model.prior.net={type: resmlp, width: 8, blocks: 1}"
    recipe = load_recipe(prior, [*labels, net, "train.0.steps=2", "train.0.trains=[model.prior.net]"])
    seen: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        time = TimedDensity.time
        patch.setattr(TimedDensity, "time", lambda self, x: seen.append(self.training) or time(self, x))
        run = go(recipe, tmp_path / "run")
    assert seen.count(True) == 2  # both steps; what is validated in between is not in training
    model = run.model()
    assert model.get_submodule("prior.net") is model.get_submodule("prior.density.net")
    assert evaluation.evaluate(run)["measures"]["sampling"]["network evaluations"] > 0
    twos = [sample(run, 8, label=2, how=Drawing(guidance=guidance)) for guidance in (1.0, 3.0)]
    assert not torch.equal(*twos)


def test_there_is_nothing_to_train_under_a_prior_that_stands_in():
    changes = ["model.stages=[]", "model.prior=autoregressive", "train.0.objective={type: elbo, prior: normal}"]
    with pytest.raises(RecipeError, match=r"leaves a model without stages nothing to train"):
        load_recipe("vae", changes)
