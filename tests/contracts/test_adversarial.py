"""The adversarial objective against its formulas: a critic that is known, and gradients taken by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from compose.core.declare import Slot
from compose.core.errors import KindError
from compose.core.model import ModelDensity
from compose.core.objective import Loss
from compose.core.spaces import Codes, Real, Space
from compose.parts.densities.model import Model
from compose.parts.objectives.adversarial import Adversarial, AdversarialObjective
from compose.parts.stages.generator import Generator
from compose.testing.noise import Tape

PLANE = Real((2,))
GAN = Model(stages=[Generator(dim=3)])
AAE = Model.model_validate({"stages": [{"type": "latent", "dim": 2, "likelihood": "normal"}]})


class Sums(nn.Module):
    """A critic with one weight a number: ``w . x + 1``."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weights + 1)[:, None]


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def built(model: Model, space: Space = PLANE) -> ModelDensity:
    whole = model.build(Slot("prior", space)).double()
    assert isinstance(whole, ModelDensity)
    return whole


def objective(model: Model = GAN, weights: tuple[float, ...] = (2.0, -1.0), **options: Any) -> AdversarialObjective:
    part = Adversarial.model_validate(options)
    slot = Slot("objective", PLANE, model=model)
    assert not list(part.misfits(slot))
    made = part.build(slot)
    assert isinstance(made, AdversarialObjective)
    made.critic = Sums(list(weights))
    return made


def points(n: int = 8) -> Tensor:
    return torch.randn(n, 2, dtype=torch.float64)


def said(model: ModelDensity, x: Tensor, tape: Tape) -> tuple[Tensor, Tensor]:
    """What the critic of two weights says of data and of the samples that the tape gives."""
    w = torch.tensor([2.0, -1.0], dtype=torch.float64)
    with tape.play():
        _, fake = model.meet(x)
    return x @ w + 1, fake @ w + 1


def critic_loss(act: AdversarialObjective, model: ModelDensity, x: Tensor) -> Loss:
    """The loss of the critic under the same noise each time."""
    torch.manual_seed(1)
    return act.rival_loss(model, x, None, 0)


CRITIC = {
    ("non_saturating", False): lambda r, f: (softplus(-r) + softplus(f)).mean(),
    ("non_saturating", True): lambda r, f: softplus(f - r).mean(),
    ("hinge", False): lambda r, f: (relu(1 - r) + relu(1 + f)).mean(),
    ("hinge", True): lambda r, f: relu(1 - (r - f)).mean(),
    ("wasserstein", False): lambda r, f: (f - r).mean(),
    ("wasserstein", True): lambda r, f: (f - r).mean(),
}
MODEL = {
    ("non_saturating", False): lambda r, f: softplus(-f).mean(),
    ("non_saturating", True): lambda r, f: softplus(r - f).mean(),
    ("hinge", False): lambda r, f: (-f).mean(),
    ("hinge", True): lambda r, f: (r - f).mean(),
    ("wasserstein", False): lambda r, f: (-f).mean(),
    ("wasserstein", True): lambda r, f: (r - f).mean(),
}


@pytest.mark.parametrize("loss, paired", list(CRITIC))
def test_losses_are_their_formulas(loss: str, paired: bool):
    model, x, act = built(GAN), points(), objective(loss=loss, paired=paired)
    for formulas, of in ((CRITIC, act.rival_loss), (MODEL, act)):
        tape = Tape()
        with tape.run():
            came = of(model, x, None, 0).value
        wanted = formulas[loss, paired](*said(model, x, tape))
        torch.testing.assert_close(came, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["r1", "r2"])
def test_the_slope_of_a_linear_critic_is_its_weights(name: str):
    model, x = built(GAN), points()
    plain = critic_loss(objective(), model, x).value
    penalised = critic_loss(objective(r1=3.0 * (name == "r1"), r2=3.0 * (name == "r2")), model, x)
    torch.testing.assert_close(penalised.value - plain, torch.tensor(0.5 * 3 * 5.0).double(), rtol=0, atol=1e-12)
    assert float(penalised.ledger.diagnostics[f"x.{name}"]) == pytest.approx(5.0)


class Two(nn.Module):
    """A critic of two layers, ``v . (W x)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 5).double(), nn.Linear(5, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


def test_reconstructions_are_set_beside_data_in_the_critic_s_features():
    model, x = built(AAE), points()
    act, plain = (objective(AAE, features=features) for features in (3.0, 0.0))
    act.critic = plain.critic = critic = Two()
    tape = Tape()
    with tape.run():
        loss = act(model, x, None, 0)
    with tape.play():
        without = plain(model, x, None, 0)
        _, back = model.mirror(x)
    apart = 0.5 * ((x - back) @ critic.first.weight.T).square().sum(1)
    torch.testing.assert_close(loss.ledger.penalties["x.features"], apart, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss.value, without.value + 3 * apart.mean(), rtol=0, atol=1e-12)
    for slope in torch.autograd.grad(loss.value - without.value, list(model.stages.parameters())):
        assert slope.abs().sum() > 0


@pytest.mark.parametrize(
    "model, at, said", [(GAN, "x", "no way leads up through this model"), (AAE, "z1", "the critic at z1")]
)
def test_features_need_reconstructions(model: Model, at: str, said: str):
    part = Adversarial.model_validate({"features": 1.0, "at": at})
    (misfit,) = part.misfits(Slot("objective", PLANE, model=model))
    assert misfit.key == "features" and said in misfit.message


def test_the_gradient_penalty_of_a_linear_critic():
    model, x = built(GAN), points()
    plain = critic_loss(objective(loss="wasserstein"), model, x).value
    penalised = critic_loss(objective(loss="wasserstein", gradient_penalty=10.0), model, x).value
    assert float(penalised - plain) == pytest.approx(10 * (5**0.5 - 1) ** 2)


def test_penalties_of_a_curved_critic_are_autograd_s():
    """Squared slopes by hand, one example at a time, and their gradient by finite differences."""
    model, x = built(GAN), points(5)
    act = objective(r1=2.0)
    first = nn.Linear(2, 4).double()
    act.critic = nn.Sequential(first, nn.Tanh(), nn.Linear(4, 1).double())
    loss = critic_loss(act, model, x)
    by_hand = []
    for row in x:
        slope = torch.autograd.functional.jacobian(lambda point: act.critic(point[None])[0, 0], row)
        by_hand.append(float((slope**2).sum()))
    assert float(loss.ledger.diagnostics["x.r1"]) == pytest.approx(sum(by_hand) / 5)
    weight = first.weight
    (slope,) = torch.autograd.grad(loss.value, weight)
    step = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[0, 0] += sign * step
        values.append(float(critic_loss(act, model, x).value))
        with torch.no_grad():
            weight[0, 0] -= sign * step
    assert float(slope[0, 0]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_pac_joins_neighbours():
    model, x = built(GAN), points(6)
    act = objective(pac=3, weights=(1.0, 0.0, 10.0, 0.0, 100.0, 0.0))
    real, fake = act._seen(model, x, None)
    assert real.shape == fake.shape == (2, 6)
    assert torch.equal(real[1], x[3:].flatten())


def test_at_z1_the_posterior_is_what_is_not_real():
    model, x, act = built(AAE), points(), objective(AAE, at="z1")
    act(model, x, None, 0).value.backward()
    reached = {name.split(".")[2] for name, value in model.named_parameters() if value.grad is not None}
    assert reached == {"encoder"}


def test_at_x_the_samples_are_what_is_not_real():
    model, x, act = built(AAE), points(), objective(AAE)
    act(model, x, None, 0).value.backward()
    reached = {name.split(".")[2] for name, value in model.named_parameters() if value.grad is not None}
    assert reached == {"decoder"}


def test_accuracy_counts_who_is_told_apart():
    model, x = built(GAN), points(200)
    act = objective(weights=(0.0, 0.0))
    act.critic = Sums([0.0, 0.0])
    accuracy = act.rival_loss(model, x, None, 0).ledger.diagnostics["x.critic accuracy"]
    assert float(accuracy) == 0.5  # it takes all for real


def test_noise_is_added_to_both_sides():
    model, x = built(GAN), points(4000)
    real, fake = objective(noise=0.5)._seen(model, x, None)
    clean, _ = objective()._seen(model, x, None)
    assert float((real - clean).std()) == pytest.approx(0.5, rel=0.05)
    assert not torch.equal(fake, clean)


def test_spectral_norm_bounds_every_matrix():
    part = Adversarial.model_validate({"spectral_norm": True, "critic": {"type": "mlp", "hidden": [16, 16]}})
    made = part.build(Slot("objective", PLANE, model=GAN))
    assert isinstance(made, AdversarialObjective)
    for _ in range(30):
        made.critic(torch.randn(4, 2))
    made.eval()
    norms = [float(torch.linalg.matrix_norm(m.weight, 2)) for m in made.critic.modules() if isinstance(m, nn.Linear)]
    assert norms == pytest.approx([1.0] * 3, abs=1e-3)


def test_an_implicit_model_says_that_it_has_no_likelihood():
    model = built(GAN)
    with pytest.raises(KindError, match="no likelihood"):
        model.log_prob(points())
    assert model.sample(3).shape == (3, 2)


def test_levels_are_generated_between_0_and_1_and_rounded():
    space = Codes((1, 2, 2), 17)
    model = built(GAN, space)
    up, down = model.meet(torch.randint(17, (50, 1, 2, 2)))
    assert 0 <= float(up.min()) <= float(up.max()) <= 1 and 0 < float(down.min()) <= float(down.max()) < 1
    space.check_values(model.sample(50))


def test_patches_are_judged_each_by_itself():
    """One verdict for each cell of the coarser grid, and the loss is the mean over all of them."""
    space, model = Codes((1, 8, 8), 17), Model(stages=[Generator(dim=3)])
    part = Adversarial.model_validate({"patch": 1, "critic": {"type": "conv", "channels": 4}})
    slot = Slot("objective", space, model=model)
    assert not [misfit for _, inner, place in part.walk(slot) for misfit in inner.misfits(place)]
    act, whole = part.build(slot).double(), built(model, space)
    assert isinstance(act, AdversarialObjective)
    x = torch.randint(17, (6, 1, 8, 8))
    real, _ = act._seen(whole, x, None)
    assert act.critic(real).shape == (6, 1, 4, 4)
    assert act._says(real).shape == (6 * 16,)
    on_points = Slot("objective", PLANE, model=GAN)
    assert [misfit.message for misfit in part.misfits(on_points)] == [
        "patches are of images, and at x there is Real(2)."
    ]


BALANCED: list[dict[str, Any]] = [
    {"type": "latent", "dim": 2},
    {"type": "ladder", "levels": [2]},
    {"type": "ladder", "levels": [3, 3, 2]},
    {"type": "ladder", "levels": [3, 3, 2], "between": "mlp"},
    {"type": "chain", "dim": 2},
    {"type": "chain", "dim": 2, "between": "mlp"},
    {"type": "chain", "dim": 2, "shared": True},
    {"type": "chain", "dim": 2, "between": "mlp", "shared": True},
    {"type": "chain", "dim": 2, "links": 1},
]


@pytest.mark.parametrize("at", ["x", "z1"])
@pytest.mark.parametrize("stage", BALANCED)
def test_an_adaptive_weight_is_taken_where_the_way_to_the_edge_ends(stage: dict[str, Any], at: str):
    """Of all layers that the trained side passes, the last is the one."""
    model = Model.model_validate({"stages": [{**stage, "likelihood": "normal"}]})
    act, whole = objective(model, at=at, adaptive=True), built(model)
    passed: list[nn.Module] = []
    for layer in whole.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda layer, *_: passed.append(layer))
    whole.meet(points(), edge=act.edge)
    assert act.balanced_at(whole) is passed[-1].weight


def test_nothing_is_balanced_where_no_net_ends_the_way():
    for stages, at, said in (
        (["standardize", {"type": "latent", "likelihood": "normal"}], "x", "the way down ends in, and through stage 1"),
        (["bijection"], "x", "stage 1, 'bijection', it ends in none"),
        ([{"type": "latent", "likelihood": "normal"}, "standardize"], "z2", "the way up ends in, and through stage 2"),
    ):
        slot = Slot("objective", PLANE, model=Model.model_validate({"stages": stages}))
        (misfit,) = Adversarial(adaptive=True, at=at).misfits(slot)
        assert misfit.key == "adaptive" and said in misfit.message
        assert not list(Adversarial(at=at).misfits(slot))
