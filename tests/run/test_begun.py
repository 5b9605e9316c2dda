"""A first phase that several recipes share is trained once, and nothing comes out otherwise for it."""

import pytest
import torch

import compose
from compose.core.errors import RunError
from compose.recipe.check import load_recipe
from compose.run.begun import FILE, after_first_phase, begun, first_phase
from compose.run.directory import Run
from compose.run.train import resume

pytestmark = pytest.mark.long

SHORT = ["train.0.steps=30", "train.1.steps=20", "evaluate.samples=1", "train.0.batch_size=32", "train.1.batch_size=32"]
PRIORS = ("mixture", "flow", "diffusion")


def _two_phases(prior):
    """The VAE of latent diffusion, frozen under another prior; a normal one has nothing to train."""
    return load_recipe("latent_diffusion", [*SHORT, f"model.prior={prior}"])


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    out = tmp_path_factory.mktemp("shared") / "diffusion"
    return compose.train(_two_phases("diffusion"), out, progress=False)


@pytest.mark.parametrize("prior", PRIORS)
def test_what_is_taken_over_changes_nothing(prior, diffusion, tmp_path):
    recipe = _two_phases(prior)
    alone = compose.train(recipe, tmp_path / "alone", progress=False)
    shared = compose.train(recipe, tmp_path / "shared", progress=False, after=diffusion)
    for name, value in alone.model().state_dict().items():
        assert torch.equal(value, shared.model().state_dict()[name]), name
    assert alone.scores()["splits"] == shared.scores()["splits"]
    kept = [(line["phase"], line["step"]) for line in alone.metrics()]
    assert [(line["phase"], line["step"]) for line in shared.metrics()] == kept


def test_of_codes_with_a_critic_too(tmp_path):
    short = ["train.0.steps=6", "train.1.steps=4", "train.0.players.0.objectives.2.start=2"]
    first = compose.train(load_recipe("vqgan", short), tmp_path / "first", progress=False)
    masked = load_recipe("vqgan", [*short, "model.prior=masked"])
    alone = compose.train(masked, tmp_path / "alone", progress=False)
    shared = compose.train(masked, tmp_path / "shared", progress=False, after=first)
    for name, value in alone.model().state_dict().items():
        assert torch.equal(value, shared.model().state_dict()[name]), name


def test_a_run_killed_before_its_first_checkpoint_begins_there_again(diffusion, tmp_path):
    recipe = _two_phases("flow")
    whole = compose.train(recipe, tmp_path / "whole", progress=False, after=diffusion)
    run = Run.create(tmp_path / "killed", recipe, {**whole.record})
    after_first_phase(diffusion, recipe).keep(run, [line for line in diffusion.metrics() if line["phase"] < 1])
    again = resume(run.path, progress=False)
    for name, value in whole.model().state_dict().items():
        assert torch.equal(value, again.model().state_dict()[name]), name


def test_what_is_taken_over_is_recorded(diffusion, tmp_path):
    run = compose.train(_two_phases("flow"), tmp_path / "run", progress=False, after=diffusion.path)
    assert run.record["begun"] == {"of": str(diffusion.path), "phase": 1}
    held = begun(run.path)
    assert held is not None
    assert held.phase == 1
    assert (run.path / FILE).is_file()
    assert all(name.startswith("stages.0.") for name in held.weights)


def test_what_was_taken_over_can_be_taken_over_again(diffusion, tmp_path):
    """Also from a run that has not trained a step of its own."""
    second = compose.train(_two_phases("flow"), tmp_path / "second", progress=False, after=diffusion)
    third = compose.train(_two_phases("mixture"), tmp_path / "third", progress=False, after=second)
    straight = compose.train(_two_phases("mixture"), tmp_path / "straight", progress=False, after=diffusion)
    for name, value in straight.model().state_dict().items():
        assert torch.equal(value, third.model().state_dict()[name]), name
    young = Run.create(tmp_path / "young", _two_phases("flow"), {**second.record})
    after_first_phase(diffusion, young.recipe).keep(young)
    held, wanted = after_first_phase(young, third.recipe), after_first_phase(diffusion, third.recipe)
    assert all(torch.equal(held.weights[name], value) for name, value in wanted.weights.items())


def test_priors_share_a_first_phase_that_does_not_mind_them():
    found = [first_phase(_two_phases(prior)) for prior in PRIORS]
    assert found[0] is not None
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize(
    ("recipe", "change"),
    [
        ("vae", "seed=0"),
        ("lsgm", "seed=0"),
        ("latent_diffusion", "train.0.objective=elbo"),
    ],
)
def test_a_first_phase_that_minds_its_prior_is_shared_with_none(recipe, change):
    assert first_phase(load_recipe(recipe, [change])) is None


@pytest.mark.parametrize(
    "change", ["seed=1", "model.stages.0.dim=8", "train.0.steps=31", "evaluate.seed=1", "data.labels=true"]
)
def test_another_first_phase_is_refused(change, diffusion, tmp_path):
    recipe = load_recipe("latent_diffusion", [*SHORT, change])
    with pytest.raises(RunError, match="another one: its"):
        compose.train(recipe, tmp_path / "run", progress=False, after=diffusion)
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_not_ended_its_first_phase_is_refused(diffusion, tmp_path):
    recipe = _two_phases("flow")
    Run.create(tmp_path / "young", _two_phases("diffusion"), diffusion.record)
    with pytest.raises(RunError, match="has not ended its first phase"):
        compose.train(recipe, tmp_path / "run", progress=False, after=tmp_path / "young")
