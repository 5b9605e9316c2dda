"""The shipped objectives against their formulas, written out, under the same noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compose.core import registry
from compose.core.declare import Part, Slot
from compose.core.spaces import Codes, Real, Space
from compose.core.terms import rates_and_distortion, total
from compose.parts.densities.model import Model
from compose.testing.noise import Tape
from compose.testing.variants import shake

SPACE = Codes((1, 2, 2), 3)
TWO_LATENTS = {
    "stages": [
        {"type": "latent", "dim": 3, "decoder": {"type": "mlp", "hidden": [8]}},
        {"type": "latent", "dim": 2, "likelihood": "normal"},
    ]
}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return shake(Model.model_validate(TWO_LATENTS).build(Slot("prior", SPACE)).double())


@pytest.fixture
def x() -> Tensor:
    return torch.randint(3, (7, *SPACE.shape), generator=torch.Generator().manual_seed(0))


def loss(model: nn.Module, x: Tensor, tape: Tape, name: str, step: int = 0, **options: Any) -> Tensor:
    """The value of an objective under the noise on the tape."""
    part = registry.load("objective", name).model_validate(options)
    slot = Slot("objective", SPACE, model=Model.model_validate(TWO_LATENTS))
    assert not list(part.misfits(slot))
    with tape.run():
        return part.build(slot)(model, x, None, step).value


@pytest.mark.parametrize("mode", ["path", "kl"])
def test_the_elbo_is_minus_the_mean_of_the_total(model: nn.Module, x: Tensor, mode: str):
    tape = Tape()
    came = loss(model, x, tape, "elbo", mode=mode)
    with tape.play():
        ledger = model(x, call="evaluate_terms", mode=mode)
    torch.testing.assert_close(came, -total(ledger.terms).mean(), rtol=0, atol=1e-12)


def test_iwae_with_one_sample_is_the_elbo(model: nn.Module, x: Tensor):
    tape = Tape()
    came = loss(model, x, tape, "iwae", samples=1)
    torch.testing.assert_close(came, loss(model, x, tape, "elbo", mode="path"), rtol=0, atol=1e-12)


def test_iwae_averages_weights(model: nn.Module, x: Tensor):
    tape, bound = Tape(), torch.zeros((), dtype=torch.float64)
    came = loss(model, x, tape, "iwae", samples=4)
    for i in range(len(x)):
        rows = torch.arange(4 * i, 4 * i + 4)
        with tape.play(rows):
            weights = model(x[i : i + 1].expand(4, *SPACE.shape)).exp()
        bound = bound - weights.mean().log() / len(x)
    torch.testing.assert_close(came, bound, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (4, 0.5), (9, 1.0), (10**6, 1.0)])
def test_warm_up_raises_the_weight_of_the_rates(model: nn.Module, x: Tensor, step: int, share: float):
    tape = Tape()
    came = loss(model, x, tape, "elbo", step, beta=0.5, warmup=10)
    with tape.play():
        costs = rates_and_distortion(model(x, call="evaluate_terms", mode="kl").terms)
    assert list(costs) == ["distortion", "rate z1", "rate z2"]
    wanted = costs["distortion"].mean() + 0.5 * share * (costs["rate z1"].mean() + costs["rate z2"].mean())
    torch.testing.assert_close(came, wanted, rtol=0, atol=1e-12)


def test_free_bits_cost_nothing_and_pull_nothing(model: nn.Module, x: Tensor):
    tape = Tape()
    loss(model, x, tape, "elbo")
    with tape.play():
        costs = rates_and_distortion(model(x, call="evaluate_terms", mode="kl").terms)
    distortion, *rates = (float(cost.detach().mean()) for cost in costs.values())
    between = sum(sorted(rates)) / 2  # above one of the two rates, below the other
    came = loss(model, x, tape, "elbo", free_bits=between)
    assert math.isclose(float(came.detach()), distortion + between + max(rates), abs_tol=1e-9)
    far = loss(model, x, tape, "elbo", free_bits=1e6)
    assert math.isclose(float(far.detach()), distortion + 2e6, rel_tol=1e-12)


REAL_LATENT = {"type": "latent", "dim": 2, "likelihood": "normal"}
CODED = {"type": "codes", "likelihood": "discretized_logistic"}
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], Space, str]] = [
    ("maximum_likelihood", {}, {"stages": ["latent"]}, SPACE, "a weight (E exp L = p)"),
    ("maximum_likelihood", {}, {"stages": ["dequantize"]}, SPACE, "a weight (E exp L = p)"),
    ("elbo", {"beta": 0.5}, {"prior": "mixture"}, Real((2,)), "'beta' weighs a rate, and this model draws no latent"),
    ("elbo", {"warmup": 5}, {"stages": ["bijection"]}, Real((2,)), "'warmup' weighs a rate"),
    ("elbo", {"free_bits": 1.0}, {"prior": "categorical"}, SPACE, "'free_bits' weighs a rate"),
    ("reconstruction", {}, {"stages": ["split"]}, Real((4,)), "of data given a latent, and this model has none"),
    ("reconstruction", {}, {"stages": ["dequantize", REAL_LATENT]}, SPACE, "in stage 1, 'dequantize', is only noise"),
    ("reconstruction", {}, {"stages": ["split", "augment"]}, Real((4,)), "in stage 2, 'augment', is only noise"),
    ("perceptual", {}, {"stages": ["augment", REAL_LATENT]}, Real((4,)), "or the objective 'elbo'"),
    ("perceptual", {}, {"stages": [CODED, "latent"]}, Codes((1, 4, 4), 5), "the codes that stage 1, 'codes', gives"),
    ("adversarial", {}, {"stages": [CODED, "latent"]}, Codes((1, 4, 4), 5), "the codes that stage 1, 'codes', gives"),
]


@pytest.mark.parametrize(("name", "options", "stack", "space", "said"), REFUSED)
def test_a_model_that_does_not_suit_is_refused(
    name: str, options: dict[str, Any], stack: dict[str, Any], space: Space, said: str
):
    part: Part = registry.load("objective", name).model_validate(options)
    reasons = [reason.message for reason in part.misfits(Slot("objective", space, model=Model.model_validate(stack)))]
    assert len(reasons) == 1 and said in reasons[0]


@pytest.mark.parametrize(
    ("stages", "space"),
    [
        (["latent"], SPACE),
        (["ladder"], SPACE),
        (["chain"], SPACE),
        (["standardize", "split", REAL_LATENT], Real((4,))),
    ],
)
def test_what_draws_a_latent_of_the_data_has_a_reconstruction(stages: list[Any], space: Space):
    part: Part = registry.load("objective", "reconstruction").model_validate({})
    assert not list(part.misfits(Slot("objective", space, model=Model.model_validate({"stages": stages}))))


def test_a_network_to_look_by_goes_where_the_images_are():
    """The device without numbers stands for any other."""
    part: Part = registry.load("objective", "perceptual").model_validate({"network": "mlp"})
    slot = Slot("objective", SPACE, model=Model.model_validate({"stages": ["latent"]}))
    both = torch.rand(4, 1, 2, 2, device="meta"), torch.rand(4, 1, 2, 2, device="meta")
    assert part.build(slot)(lambda *_, **__: both, None, None, 0).value.device.type == "meta"
