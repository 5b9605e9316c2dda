"""What a better prior could gain over N(0, I), from below and from above."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from compose.core import random
from compose.core.gaussians import LOG_2PI, Gaussian, standard_log_prob
from compose.core.model import _only_fitted
from compose.core.terms import Ledger
from compose.nets.mlp import MLP
from compose.parts.stages.latent import Latent
from compose.parts.stages.standardize import Standardize
from compose.recipe.build import build
from compose.recipe.recipe import Recipe
from compose.run.ceiling import ceiling, log_aggregate
from compose.run.figures import _latent


def _with_one_posterior(made: Recipe, *outputs: float) -> Any:
    """A model whose q(z | x) is the same for each x, so that q(z) is that Gaussian."""
    with random.region(0, "test"):
        model: Any = build(made).eval()
    last = [module for module in model.stages[0].encoder.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(outputs))
    return model


def test_the_ceiling_of_one_gaussian_is_its_kl(recipe):
    made = recipe()
    source, model = made.data.load(), _with_one_posterior(made, 1.0, -0.5, 0.3, 2.0, -0.4, 0.2, 0.0, -1.0)
    x = source.validation.x
    gaussian = model.stages[0].up(x)[0].gaussian(model.stages[0].up(x)[1])
    loc, log_scale = (each[0].detach().double() for each in (gaussian.loc, gaussian.log_scale))
    kl = float(0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum())
    with random.region(0, "test"):
        low, high, _, gained, _ = ceiling(model, source) or (0.0,) * 5
    assert gained == pytest.approx(0, abs=1e-6)
    assert low == pytest.approx(high, abs=1e-5)
    assert low == pytest.approx(kl, abs=6 * float(loc.norm()) / len(x) ** 0.5)


@pytest.mark.parametrize("fitted", [1.0, 0.6], ids=["alike", "fitted more closely"])
def test_the_aggregate_lies_between_its_bounds(fitted: float):
    """Means of posteriors from one Gaussian: q(z) is a Gaussian as well. Those of training may come from another."""
    scale = torch.tensor(0.2)

    def posteriors(n: int, spread: float) -> Gaussian:
        loc = spread * torch.randn(n, 2)
        return Gaussian(loc, scale.log().expand_as(loc), scale.expand_as(loc))

    with random.region(0, "test"):
        trained, others = posteriors(3000, fitted), posteriors(2000, 1.0)
        z = others.rsample()
        below, above, alone = log_aggregate(z, trained, others)
    variance = 1 + float(scale) ** 2
    true = -0.5 * (z.square() / variance + LOG_2PI + math.log(variance)).sum(1).double()
    below, above, alone = (float((each - true).mean()) for each in (below, above, alone))
    assert 0.01 < alone < 0.05
    if fitted == 1:
        assert -0.03 < below < 0 < above < alone
    else:
        # Without what keeps it a bound the one from above would lie below q(z) as well.
        assert below < -0.1 and above > alone


def test_what_a_prior_gains_can_be_gained(recipe):
    """Of many posteriors apart the mixture tells nothing from below; the prior itself does."""
    made = recipe(prior="mixture")
    source, model = made.data.load(), build(made).eval()
    x = source.validation.x
    with random.region(0, "test"):
        found = ceiling(model, source)
        with torch.no_grad():
            z = model.encode(x, None, 1)
            gain = model.prior.log_prob(z) + 0.5 * (z.square() + LOG_2PI).sum(1)
    blur = 6 * float(gain.std()) / len(x) ** 0.5
    assert (
        found is not None and abs(float(gain.mean()) - found.gained) < blur and found.gained <= found.low <= found.high
    )


def test_the_ceiling_of_few_examples_is_no_less_than_what_lies_below_it(recipe, monkeypatch: pytest.MonkeyPatch):
    """What a lucky draw seems to gain may lie above the mean from above; both are said to be as much."""
    made = recipe(prior="mixture")
    model = build(made).eval()
    monkeypatch.setattr(
        type(model), "evaluate_terms", lambda self, z, **_: Ledger({"x": z.new_full((len(z),), 50.0)}, {}, {})
    )
    found = ceiling(model, made.data.load())
    assert found is not None and 50 < found.gained == found.low == found.high


def test_all_training_posteriors_make_up_the_mixture(recipe, monkeypatch: pytest.MonkeyPatch):
    made = recipe()
    source, seen = made.data.load(), []
    model: Any = build(made).eval()

    def spied(z: Tensor, trained: Gaussian, others: Gaussian) -> tuple[Tensor, Tensor, Tensor]:
        seen.append((z, trained.loc, others.loc))
        return log_aggregate(z, trained, others)

    monkeypatch.setattr("compose.run.ceiling.log_aggregate", spied)
    with random.region(0, "test"):
        found = ceiling(model, source)
    assert found is not None
    ((z, trained, others),) = seen
    assert (len(z), len(trained), len(others)) == (len(source.validation), len(source.train), len(source.validation))
    assert len(trained.unique(dim=0)) == len(trained)
    # Drawn for examples from all over the file, which may be sorted by class.
    with torch.no_grad():
        in_order = model.stages[0].up(source.validation.x)[1].flatten(1)[:, :4]
    assert not torch.allclose(others, in_order, atol=1e-3)
    assert torch.allclose(others.sum(0), in_order.sum(0), rtol=1e-3, atol=1e-2)


def test_there_is_never_less_than_nothing_to_gain(recipe, monkeypatch: pytest.MonkeyPatch):
    made = recipe(prior="mixture")
    model, bounds = build(made).eval(), (-5.0, -1.0, -2.0)
    monkeypatch.setattr(
        type(model), "evaluate_terms", lambda self, z, **_: Ledger({"x": standard_log_prob(z) - 7}, {}, {})
    )
    monkeypatch.setattr(
        "compose.run.ceiling.log_aggregate",
        lambda z, *_: tuple(standard_log_prob(z).double() + bound for bound in bounds),
    )
    found = ceiling(model, made.data.load())
    assert found is not None and found.low == found.high == 0 and found.gained == pytest.approx(-7, abs=1e-5)


@pytest.mark.parametrize(
    ("bounds", "between"), [((1, 3, 2), (1, 2)), ((-5, 2, 3), (0, 2)), ((-5, 1, -1), (0, 0))], ids=str
)
def test_the_closer_bound_of_each_side_is_taken(bounds, between, recipe, monkeypatch: pytest.MonkeyPatch):
    made = recipe()

    def known(z: Tensor, *_: Gaussian) -> tuple[Tensor, ...]:
        noise = torch.randn(len(z), dtype=torch.float64)
        noise -= noise.mean()
        return tuple(standard_log_prob(z).double() + each + each * noise for each in bounds)

    monkeypatch.setattr("compose.run.ceiling.log_aggregate", known)
    found = ceiling(build(made).eval(), made.data.load())
    assert found is not None and (found.low, found.high) == pytest.approx(between, abs=1e-6)
    # Each bound's deviation is itself, and that of the gain of N(0, I) is none.
    taken = max(abs(min(bounds[1:])), max(0, bounds[0]))
    assert found.error == pytest.approx(taken / len(made.data.load().validation) ** 0.5, rel=0.15)


def test_what_is_gained_counts_what_puts_the_latent_on_a_scale(recipe):
    made = _plane(recipe, Standardize())
    model = _with_one_posterior(made, 5.0, -5.0, -3.0, -3.0)
    model.stages[1].mean.copy_(torch.tensor([5.0, -5.0]))
    model.stages[1].log_scale.fill_(-2.0)
    with random.region(0, "test"), torch.no_grad():
        found = ceiling(model, made.data.load())
        z = torch.tensor([5.0, -5.0]) + torch.randn(5000, 2) * math.exp(-3)
        p = model.prior.log_prob((z - model.stages[1].mean) * math.exp(2)) + 4
    assert found is not None
    assert found.gained == pytest.approx(float((p - standard_log_prob(z)).mean()), abs=0.2)


def test_by_label_there_is_none(recipe):
    made = recipe(data={"labels": True})
    assert ceiling(build(made).eval(), made.data.load()) is None


def _plane(recipe: Any, *above: Any, prior: str = "mixture") -> Recipe:
    """A VAE whose latent has two numbers."""
    net = MLP(hidden=[32])
    return recipe(prior=prior, stages=[Latent(dim=2, encoder=net, decoder=net, likelihood="categorical"), *above])


def test_a_latent_of_two_numbers_is_shown_beside_its_prior(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both on the edge that was drawn, below what only shifts it."""
    made = _plane(recipe, Standardize())
    model = _with_one_posterior(made, 5.0, -5.0, -3.0, -3.0)
    model.stages[1].mean.fill_(20.0)
    seen: dict[str, Tensor] = {}
    monkeypatch.setattr("compose.run.figures.save_latent", lambda drawn, path: seen.update(drawn) or path)
    assert _latent(model, source := made.data.load(), tmp_path / "latent.png") == tmp_path / "latent.png"
    assert list(seen) == ["q(z1), test examples", "p(z1)", "N(0, I)"]
    q, p, normal = (drawn.mean(0) for drawn in seen.values())
    assert all(len(drawn) == len(source.test) for drawn in seen.values())
    assert (q - torch.tensor([5.0, -5.0])).abs().max() < 0.1
    assert (p - 20).abs().max() < 5 and normal.abs().max() < 0.3


def test_what_stands_in_for_the_prior_lies_on_the_latent_itself(recipe):
    """What was fitted to the posteriors has a part of what a prior gains, and none of N(0, I)."""
    model = _with_one_posterior(_plane(recipe, Standardize()), 5.0, -5.0, -3.0, -3.0)
    model.stages[1].mean.fill_(20.0)
    x = recipe().data.load().test.x[:50]
    with torch.no_grad(), random.region(0, "test"):
        terms = model.evaluate_terms(x, standard=True).terms
    assert "z2.log_det" not in terms and "z2.log_prior" not in terms
    assert float(terms["z1.log_prior"].mean()) == pytest.approx(-25 - LOG_2PI, abs=0.3)


def test_only_what_nothing_trains_or_draws_gives_way_to_n01(recipe):
    model: Any = build(_plane(recipe, Standardize())).eval()
    assert model.trained == 1 and build(_plane(recipe, "bijection")).trained == 2
    latent, scale = model.stages
    assert _only_fitted(scale) and not _only_fitted(latent)
    scale.weight = torch.nn.Parameter(torch.ones(2))
    assert not _only_fitted(scale)


def test_an_autoencoder_trained_under_n01_is_that_of_a_normal_prior(recipe, go, tmp_path: Path):
    """Whatever prior comes later, and whatever was fitted to what the encoder made of the data at the start."""
    phase = {"steps": 5, "batch_size": 50, "objective": {"type": "elbo", "prior": "normal"}}
    runs = [
        go(
            each.model_copy(update={"train": recipe(train=[{"trains": ["model.stages.0"], **phase}]).train}),
            tmp_path / name,
        )
        for name, each in (("vae", _plane(recipe, prior="normal")), ("later", _plane(recipe, Standardize())))
    ]
    vae, later = (run.model().stages[0].state_dict() for run in runs)
    assert all(torch.equal(vae[name], later[name]) for name in vae)


@pytest.mark.parametrize(
    ("prior", "above", "panels"), [("mixture", [], 3), ("normal", [], 2), ("normal", [Standardize()], 3)]
)
def test_a_prior_that_is_n01_is_shown_once(prior: str, above: list[Any], panels: int, recipe, go, tmp_path: Path):
    run = go(_plane(recipe, *above, prior=prior), tmp_path / "run")
    with Image.open(run.figures / "latent.png") as picture:
        assert round(picture.width / picture.height * 0.95) == panels
    (health,) = run.scores()["health"]
    assert ("gained" in health) == ("gained standard error" in health) == (panels == 3)


def test_of_more_numbers_there_is_no_picture(recipe, tmp_path: Path):
    made = recipe()
    assert _latent(build(made).eval(), made.data.load(), tmp_path / "latent.png") is None
