"""A diffusion is a hierarchical VAE: link by link, path by path, and as Pyro scores it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from pyro import poutine
from torch import Tensor

import compose
from compose.core import random
from compose.core.declare import Slot
from compose.core.drawing import Drawing
from compose.core.errors import SpaceError
from compose.core.kinds import Kind
from compose.core.links import (
    Backward,
    First,
    Forward,
    LinkStage,
    Standard,
    alpha_sigma,
    first_log_prob,
    first_sample,
    signal,
)
from compose.core.roles import ByLabel
from compose.core.samplers import SAMPLERS
from compose.core.schedule import SCHEDULES, Learned
from compose.core.spaces import Codes, Real, Space
from compose.core.timesteps import RATE, Importance
from compose.parts.densities.diffusion import Diffusion, DiffusionDensity
from compose.parts.densities.model import Model
from compose.parts.objectives.denoising import Denoising
from compose.parts.objectives.elbo import ELBO
from compose.parts.objectives.iwae import IWAE
from compose.recipe.build import build_model
from compose.recipe.check import model_slot
from compose.run.evaluate import draws_allowed
from compose.testing.noise import Noise, Tape
from compose.testing.variants import shake

NET = {"type": "resmlp", "width": 16, "blocks": 2}
SPACES: tuple[Space, ...] = (Codes((1, 2, 2), 5), Real((3,)), Codes((3,), 2))
SCHEDULED = tuple(SCHEDULES)
DIGITS = Codes((1, 8, 8), 17)


def built(space: Space, seed: int = 0, **options: object) -> DiffusionDensity:
    """A diffusion with shaken weights, in float64."""
    part = Diffusion.model_validate({"steps": 4, "net": NET, "log_snr": [-3.0, 2.0], **options})
    with random.region(seed, "test"):
        whole = part.build(Slot("prior", space)).double()
        for name, child in whole.named_children():
            if name == "net":
                shake(child)
    assert isinstance(whole, DiffusionDensity)
    return whole


def items(space: Space, n: int = 6) -> Tensor:
    """Random data."""
    return (
        torch.randint(space.size, (n, *space.shape))
        if isinstance(space, Codes)
        else torch.randn(n, *space.shape).double()
    )


@pytest.mark.parametrize("schedule", SCHEDULED)
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize(("prediction", "variance"), [("eps", "posterior"), ("x0", "learned"), ("v", "marginal")])
def test_a_path_scores_what_the_literal_chain_scores(space: Space, schedule: str, prediction: str, variance: str):
    """The same latents, told once from below and once from above: the same L to 1e-9."""
    density = built(space, schedule=schedule, prediction=prediction, variance=variance)
    x, tape = items(space), Tape()
    chain = density.as_chain()
    with tape.record():
        ledger = chain.evaluate_terms(x)
    assert len(ledger.terms) == 2 * 5 + 1
    with Noise(lambda count, by, shape, kwargs: _from_above(density, chain, x, tape)[count].reshape(shape)):
        came = density.log_prob(x)
    torch.testing.assert_close(came, ledger.total, rtol=1e-9, atol=1e-9)


def _from_above(density: DiffusionDensity, chain: compose.Density, x: Tensor, tape: Tape) -> list[Tensor]:
    """The noise that makes the path from above the one that the chain drew from below."""
    latents, below = [], x
    for stage, (_, e) in zip(chain.stages, tape.draws, strict=True):  # type: ignore[arg-type, attr-defined]
        q = stage.up(below)[0].gaussian(stage.up(below)[1])
        latents.append(below := q.loc + q.scale * e)
    y, top = signal(x, density.space, torch.float64), len(latents) - 1
    gammas = density.gamma(torch.arange(top + 1).double() / top)
    kept, scale = alpha_sigma(gammas)
    found = [(latents[top] - kept[top] * y) / scale[top]]
    for t in range(top, 0, -1):
        noise, share = (latents[t] - kept[t] * y) / scale[t], -torch.expm1(gammas[t - 1] - gammas[t])
        mean = kept[t - 1] / kept[t] * (latents[t] - scale[t] * share * noise)
        found.append((latents[t - 1] - mean) / (scale[t - 1] * share.sqrt()))
    return found


@pytest.mark.parametrize("variance", ["posterior", "marginal", "learned"])
@pytest.mark.parametrize("schedule", SCHEDULED)
@pytest.mark.parametrize("space", [Codes((1,), 5), Codes((1,), 2), Real((1,))], ids=str)
def test_every_link_costs_what_the_literal_chain_pays(space: Space, schedule: str, variance: str):
    """By Gauss-Hermite quadrature, with ``log q(z_t | x) - log q(z_s | x)`` added, which telescopes: to 1e-9."""
    density = built(space, schedule=schedule, prediction="v", variance=variance)
    chain = density.as_chain()
    nodes, weights = (torch.from_numpy(each) for each in hermegauss(80))
    weights = weights / weights.sum()
    gammas = density.gamma(torch.arange(5).double() / 4)
    kept, scale = alpha_sigma(gammas)
    for x in items(space, 3):
        y = signal(x[None], space, torch.float64)
        for t in range(1, 5):
            s, stage = t - 1, chain.stages[t]
            z = kept[t] * y + scale[t] * nodes[:, None]
            with Noise(lambda count, by, shape, kwargs: nodes[:, None]):
                link = density._link(y.expand(80, 1), None, torch.full((80,), float(t)).double(), 4)
            mine = (weights * link).sum()
            # z_s given z_t and x, as Bayes' rule has it.
            through = kept[t] / kept[s]
            added = scale[t].square() - (through * scale[s]).square()
            spread = 1 / (1 / scale[s].square() + through.square() / added)
            means = spread * (kept[s] * y / scale[s].square() + through * z / added)
            lower = means[:, None] + spread.sqrt() * nodes[None, :, None]
            assert isinstance(stage, LinkStage)
            both, above = lower.reshape(-1, 1), z[:, None].expand(80, 80, 1).reshape(-1, 1)
            value = stage.p.log_prob(both, above) - stage.q.log_prob(above, both)
            value = value + _normal(above, kept[t] * y, scale[t]) - _normal(both, kept[s] * y, scale[s])
            theirs = (weights[:, None] * weights * value.reshape(80, 80)).sum()
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


def _normal(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, scale).log_prob(z).sum(1)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_pyro_scores_the_chain_alike(space: Space):
    """Pyro's own normals and categoricals, traced along the path that the guide drew."""
    chain, x = built(space).as_chain(), items(space)
    model, guide = chain.to_pyro()
    with torch.no_grad():
        drawn = poutine.trace(guide).get_trace(x)
        scored = poutine.trace(poutine.replay(model, drawn)).get_trace(x)
        elbo = scored.log_prob_sum() - drawn.log_prob_sum()
        sites: dict[str, Any] = dict(drawn.nodes)
        tape = [site["value"] for name, site in sites.items() if name.startswith("z")]
        by_hand, below = torch.zeros(()).double(), x
        for stage, z in zip(chain.stages, tape, strict=True):
            assert isinstance(stage, LinkStage)
            by_hand = by_hand + (stage.p.log_prob(below, z) - stage.q.log_prob(z, stage.up(below)[1])).sum()
            below = z
        by_hand = by_hand + chain.prior.log_prob(below).sum()
    torch.testing.assert_close(elbo, by_hand, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variance", ["posterior", "learned"])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_modes_have_one_expectation(space: Space, variance: str):
    """Of a path, of all links, of one link: within five standard errors over many draws."""
    density, n = built(space, steps=3, variance=variance).eval(), 40_000
    x = items(space, 1).expand(n, *space.shape)
    with torch.no_grad(), random.region(1, "test"):
        path, every, one = (density.log_prob(x, mode=mode) for mode in ("path", "kl", "one_t"))
    for other in (every, one):
        error = math.hypot(float(path.std()), float(other.std())) / math.sqrt(n)
        assert abs(float(path.mean() - other.mean())) < 5 * error
    assert every.std() < path.std()


@pytest.mark.parametrize("variance", ["posterior", "marginal", "learned"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_what_is_drawn_is_drawn_from_the_scored_chain(space: Space, prediction: str, variance: str):
    """The same noise leads the sampler and the literal chain to the same data, with all noise that a schedule has."""
    density = built(space, schedule="cosine", prediction=prediction, variance=variance, log_snr=None)
    drawn = []
    for way in (density, density.as_chain()):
        with random.region(0, "draws"):
            drawn.append(way.sample(200))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-9, atol=1e-9)


def test_the_first_link_draws_as_widely_as_it_is_scored():
    y, gamma = torch.full((100_000, 1), 0.3).double(), torch.tensor(-3.0).double()
    with random.region(0, "draws"):
        x = first_sample(Real((1,)), y, gamma)
    assert float(x.mean()) == pytest.approx(0.3, abs=0.004)
    assert float(x.std()) == pytest.approx(math.exp(-1.5), rel=0.01)
    entropy = -float(first_log_prob(x, Real((1,)), y, gamma).mean())
    assert entropy == pytest.approx(0.5 * math.log(2 * math.pi * math.e) - 1.5, abs=0.01)


def test_a_path_is_scored_in_single_precision_where_there_is_hardly_any_noise():
    """A latent that is the data but for a millionth part of noise is told by that noise."""
    density = built(Real((16,)), steps=1000, log_snr=[-5.0, 24.0], variance="posterior").eval()
    # What is right of N(0, I); the links ask for it all together.
    density._noise = lambda z, gamma, c: z * torch.sigmoid(gamma).sqrt().reshape(-1, 1)  # type: ignore[method-assign]
    x, tape = 3 * torch.randn(20, 16).double(), Tape()
    with torch.no_grad(), tape.record():
        wanted = density.log_prob(x)
    draws = [values.float() for _, values in tape.draws]
    with torch.no_grad(), Noise(lambda count, by, shape, kwargs: draws[count]):
        found = density.float().log_prob(x.float())
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=0.2)


def test_in_training_times_are_spread_evenly_and_alike_on_two_devices():
    density, x = built(Real((3,)), steps=8), torch.randn(16, 3).double()

    def times(rank: int, world: int) -> Tensor:
        with random.region(0, "test"), random.shard(rank, world):
            return density.time(x[: 16 // world])

    whole = times(0, 1)
    assert torch.equal((whole * 16).floor(), torch.arange(16).double())
    assert torch.equal(torch.cat([times(0, 2), times(1, 2)]), whole)
    assert not torch.equal((density.eval().time(x) * 16).floor(), torch.arange(16).double())


@pytest.mark.parametrize("name", SCHEDULED)
def test_schedules_rise_between_their_ends_as_their_slope_says(name: str):
    schedule = SCHEDULES[name](-6.0, 4.0).double()
    t = torch.linspace(0, 1, 101, dtype=torch.float64).requires_grad_()
    gamma = schedule(t)
    assert float(gamma.detach()[0]) == pytest.approx(-6.0) and float(gamma.detach()[-1]) == pytest.approx(4.0)
    (slope,) = torch.autograd.grad(gamma.sum(), t)
    torch.testing.assert_close(schedule.slope(t), slope, rtol=1e-9, atol=1e-9)
    assert bool((slope > 0).all())
    shaken = shake(schedule)
    assert bool((shaken(t).diff() > 0).all())


@pytest.mark.parametrize("low, high", [(-10.0, 5.0), (-40.0, 40.0), (10.0, 40.0)])
def test_a_cosine_is_right_in_single_precision_as_far_as_it_may_go(low: float, high: float):
    schedule, t = SCHEDULES["cosine"](low, high), torch.linspace(0, 1, 101)
    gamma, slope = schedule(t), schedule.slope(t)
    assert gamma.dtype == slope.dtype == torch.float32
    torch.testing.assert_close(gamma[[0, -1]], torch.tensor([low, high]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gamma, schedule(t.double()).float())
    torch.testing.assert_close(slope, schedule.slope(t.double()).float())
    assert bool((slope > 0).all()) and bool((gamma.diff() > 0).all())


def test_denoising_trains_the_variance_by_the_bound_and_the_network_as_without_it():
    """Where the variance is learned, the number and the network's gradient are those of ``variance: posterior``."""
    x, found = items(Real((3,)), 8), {}
    for variance in ("posterior", "learned"):
        density = built(Real((3,)), variance=variance)
        if found:
            density.load_state_dict(found["posterior"][0].state_dict(), strict=False)
        with random.region(4, "test"):
            cost = density.denoising(x).sum()
        cost.backward()
        found[variance] = (density, float(cost))
    (plain, cost), (learned, same) = found["posterior"], found["learned"]
    assert same == cost
    for name, value in plain.named_parameters():
        came = learned.get_parameter(name).grad
        assert value.grad is not None and came is not None and torch.equal(came, value.grad), name
    many, widening, gradients = x.repeat(500, 1), learned.get_parameter("widening.weight"), []
    for loss in (learned.denoising, lambda x: -learned.log_prob(x, mode="one_t")):
        with random.region(4, "test"):
            gradients += torch.autograd.grad(loss(many).sum(), widening)
    one, other = gradients
    assert float((one * other).sum() / (one.norm() * other.norm())) > 0.99


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_denoising_is_weighted_as_it_says(prediction: str):
    """Simple, it is half the squared noise that is missed; by min-SNR half of what is missed of x, times no more signal
    over noise than is said."""
    density, x = built(Real((3,)), prediction=prediction, variance="posterior"), items(Real((3,)), 64)
    found = []
    for at_most in (None, 2.0):
        with random.region(4, "test"):
            found.append(density.denoising(x, at_most=at_most))
    with random.region(4, "test"):
        gamma = density.gamma((density.time(x) * 4).floor().add(1) / 4)
        e = random.standard_normal(x.shape, x)
    kept, scale = (each[:, None] for each in alpha_sigma(gamma))
    z, ratio = kept * x + scale * e, torch.exp(-gamma)
    assert 0 < int((ratio > 2).sum()) < 64
    seen = density._noise(z, gamma, None)
    torch.testing.assert_close(found[0], 0.5 * (e - seen).square().sum(1))
    missed = (x - (z - scale * seen) / kept).square().sum(1)
    torch.testing.assert_close(found[1], 0.5 * ratio.clamp_max(2.0) * missed)


def test_a_learned_schedule_descends_on_the_variance_and_its_ends_on_the_bound():
    """The way between the ends by the gradient of ``E c^2 / E c`` of what a time costs, the ends by differences."""
    density = built(Real((3,)), steps=None, schedule="learned").train()
    schedule, x = density.schedule, items(Real((3,)), 1).expand(2000, 3)
    assert isinstance(schedule, Learned)
    shake(schedule)

    def cost() -> Tensor:
        with random.region(5, "test"):
            return -density.log_prob(x, mode="one_t")

    cost().mean().backward()
    with random.region(5, "test"):
        t = density.time(x)
        gamma, slope = schedule.low + schedule.range * schedule.shape(t), schedule.range * schedule.rate(t)
        each = 0.5 * slope * density._error(x, gamma, None).sum(1)
    (way,) = torch.autograd.grad(each.square().mean() / each.detach().mean(), schedule.bumps)
    torch.testing.assert_close(schedule.bumps.grad, way, rtol=1e-9, atol=1e-9)
    by_differences = []
    with torch.no_grad():
        for i in range(2):
            sides = []
            for step in (1e-4, -2e-4):
                schedule.ends[i] += step
                sides.append(float(cost().mean()))
            schedule.ends[i] += 1e-4
            by_differences.append((sides[0] - sides[1]) / 2e-4)
    assert schedule.ends.grad is not None
    assert schedule.ends.grad.tolist() == pytest.approx(by_differences, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("option", ["schedule: learned", "timesteps: importance"])
def test_denoising_refuses_what_only_the_bound_has_a_use_for(option: str):
    name, _, value = option.partition(": ")
    fields = {"stages": [], "prior": {"type": "diffusion", name: value}}
    slot = Slot("objective", DIGITS, model=Model.model_validate(fields))
    assert [f"no use for '{option}'" in reason.message for reason in Denoising().misfits(slot)] == [True]
    fields = {"stages": [], "prior": {"type": "diffusion"}}
    assert not list(Denoising().misfits(replace(slot, model=Model.model_validate(fields))))


@pytest.mark.parametrize("mode", ["path", "kl"])
def test_times_by_importance_are_refused_where_all_are_seen(mode: str):
    model = Model.model_validate({"stages": [], "prior": {"type": "diffusion", "timesteps": "importance"}})
    slot = Slot("objective", DIGITS, model=model)
    assert [reason.key for reason in ELBO.model_validate({"mode": mode}).misfits(slot)] == ["mode"]
    assert not list(ELBO().misfits(slot))


def test_a_mode_that_there_is_not_is_refused():
    model = build_model(Model.model_validate({"prior": {"type": "diffusion", "steps": 2, "net": NET}}), DIGITS, None)
    with pytest.raises(SpaceError, match="there is no mode 'one-t'; there are path, kl, one_t"):
        model.evaluate_terms(items(DIGITS, 2), mode="one-t")  # type: ignore[arg-type]


def test_a_decay_of_weights_draws_a_learned_schedule_back_to_where_it_began():
    schedule, t = SCHEDULES["learned"](-10.0, 5.0), torch.rand(8)
    began = schedule(t).detach()
    optimizer = torch.optim.SGD(schedule.parameters(), lr=1.0, weight_decay=0.5)
    for parameter in schedule.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(schedule(t).detach(), began, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter.add_(0.1)
    for _ in range(40):
        optimizer.step()
    torch.testing.assert_close(schedule(t).detach(), began)


@pytest.mark.parametrize("schedule", SCHEDULED)
def test_many_steps_come_to_continuous_time(schedule: str):
    space, n = Real((2,)), 20_000
    flowing = built(space, steps=None, schedule=schedule).eval()
    assert flowing.kind is Kind.BOUND
    many = built(space, steps=400, schedule=schedule, variance="posterior").eval()
    many.load_state_dict(flowing.state_dict())
    x = items(space, 1).expand(n, 2)
    with torch.no_grad(), random.region(2, "test"):
        bound, link = flowing.log_prob(x), many.log_prob(x, mode="one_t")
    error = math.hypot(float(bound.std()), float(link.std())) / math.sqrt(n)
    assert abs(float(bound.mean() - link.mean())) < 5 * error + 0.02 * abs(float(bound.mean()))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULED)
def test_a_short_link_costs_what_its_time_does(schedule: str, training: bool):
    """With the same noise: a link of a chain of very many, times their number, and the integrand at its upper end."""
    space, steps = Real((2,)), 100_000
    density = built(space, steps=None, schedule=schedule).train(training)
    x, (e,) = items(space, 50), torch.randn(1, 50, 2).double()
    i = torch.randint(1, steps + 1, (50,)).double()
    with torch.no_grad(), Noise(lambda count, by, shape, kwargs: i / steps if by is torch.rand else e):
        density.time = lambda x: i / steps  # type: ignore[method-assign]
        flowing, link = density._flowing(x, None, 0, 1), density._link(x, None, i, steps)
    torch.testing.assert_close(steps * link, flowing, rtol=1e-3, atol=0)


MEAN, SCALE = 0.7, 0.4


def _of_a_gaussian(gammas: list[float]) -> Callable[[Tensor, int], Tensor]:
    """The noise in z where data are from N(MEAN, SCALE^2): known in closed form."""

    def predict(z: Tensor, i: int) -> Tensor:
        kept, scale = ((1 + math.exp(sign * gammas[i])) ** -0.5 for sign in (1, -1))
        return scale * (z - kept * MEAN) / (kept * kept * SCALE * SCALE + scale * scale)

    return predict


def _walked(name: str, z: Tensor, steps: int, **options: float) -> Tensor:
    gammas = [5 - 13 * i / steps for i in range(steps + 1)]
    return SAMPLERS[name](_of_a_gaussian(gammas), z, gammas, **options)


def test_three_steps_of_dpm_solver_by_hand():
    """The first and, since they are few, the last of first order; between them data extrapolated over unequal steps."""
    gammas = [4.0, 1.0, -1.0, -6.0]
    predict, z = _of_a_gaussian(gammas), torch.randn(8, 2, dtype=torch.float64)
    found = SAMPLERS["dpm_solver_pp"](predict, z, gammas)
    kept, scale = ([(1 + math.exp(sign * gamma)) ** -0.5 for gamma in gammas] for sign in (1, -1))
    seen = []
    for i in range(3):
        seen.append((z - scale[i] * predict(z, i)) / kept[i])
        # Half a step of gamma is a step of log(alpha / sigma): 1.5, 1, 2.5.
        ahead = seen[1] + (seen[1] - seen[0]) * 1 / (2 * 1.5) if i == 1 else seen[i]
        z = scale[i + 1] / scale[i] * z + kept[i + 1] * (1 - math.exp(0.5 * (gammas[i + 1] - gammas[i]))) * ahead
    torch.testing.assert_close(found, z)


@pytest.mark.parametrize("name", ["ddim", "dpm_solver_pp", "heun"])
def test_solvers_come_to_where_the_flow_leads_at_their_order(name: str):
    """Of Gaussian data the way from noise is known: ``(z - mean_t) / scale_t`` stays as it is."""
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]

    def gauss(gamma: float) -> tuple[float, float]:
        kept, scale = ((1 + math.exp(sign * gamma)) ** -0.5 for sign in (1, -1))
        return kept * MEAN, math.hypot(kept * SCALE, scale)

    (first, wide), (last, narrow) = gauss(5.0), gauss(-8.0)
    wanted = last + narrow * (z - first) / wide
    errors = [float((_walked(name, z, steps) - wanted).abs().max()) for steps in (40, 80, 160)]
    order = 1 if name == "ddim" else 2
    assert errors[2] < (0.05 if order == 1 else 2e-3)
    for coarse, fine in pairwise(errors):
        assert 0.8 * 2**order < coarse / fine < 1.3 * 2**order


@pytest.mark.parametrize(("name", "options"), [("ancestral", {}), ("ddim", {"eta": 0.5})])
def test_drawing_samplers_draw_from_the_data(name: str, options: dict[str, float]):
    with random.region(0, "test"):
        x = _walked(name, torch.randn(40_000, 1, dtype=torch.float64), 400, **options)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.015) and float(x.std()) == pytest.approx(SCALE, abs=0.015)


def test_samplers_count_their_networks_and_go_in_steps_of_their_own():
    density, calls = built(Codes((1, 2, 2), 5), steps=16), []
    density.net.register_forward_hook(lambda *_: calls.append(None))
    for name, steps, wanted in (("ancestral", 8, 8), ("ddim", 5, 5), ("dpm_solver_pp", 20, 20), ("heun", 10, 19)):
        calls.clear()
        x = density.sample_as(3, None, Drawing(sampler=name, steps=steps))
        Codes((1, 2, 2), 5).check_values(x)
        assert len(calls) == wanted, name
    calls.clear()
    density.sample(2)
    assert len(calls) == 16


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"sampler": "ancestral", "steps": 5}, "5 ancestral steps were asked for, and this chain has 4 links"),
        ({"sampler": "heun", "eta": 0.5}, "eta is the share of noise of 'ddim', and the sampler is 'heun'"),
        ({"temperature": 0.5}, "'temperature' was given, and a diffusion draws by no such thing"),
        ({"guidance": 2.0}, "does not know how it draws without a label"),
    ],
)
def test_what_means_nothing_to_a_diffusion_is_refused(how: dict[str, object], said: str):
    with pytest.raises(SpaceError, match=said):
        built(Real((3,))).sample_as(2, None, Drawing(**how))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"sampler": "euler"}, "no sampler called 'euler'; there are ancestral"),
        ({"steps": 0}, "0 steps"),
        ({"steps": 2.5}, "2.5 steps were asked for; wanted a whole number, 1 to 10,000"),
        ({"steps": 10_001}, "10001 steps"),
        ({"eta": 2}, "eta is 2"),
    ],
)
def test_a_way_of_drawing_that_there_is_not_is_refused(how: dict[str, object], said: str):
    with pytest.raises(SpaceError, match=said):
        Drawing(**how)  # type: ignore[arg-type]


def test_levels_are_told_apart_by_bayes_rule():
    """With a network that says nothing, the mean of x is that of the levels by what each makes of z."""
    density = built(Codes((2,), 3), prediction="levels")
    for value in density.net.get_submodule("leave").parameters():
        torch.nn.init.zeros_(value)
    gamma = torch.tensor([-1.0, 0.5]).double()
    kept, scale = (each[:, None] for each in alpha_sigma(gamma))
    z = torch.tensor([[0.3, -0.8], [1.2, 0.1]]).double()
    levels = torch.tensor([-1.0, 0.0, 1.0]).double()
    share = torch.softmax(-0.5 * ((z[..., None] - kept[..., None] * levels) / scale[..., None]).square(), -1)
    wanted = (z - kept * (share * levels).sum(-1)) / scale
    torch.testing.assert_close(density._noise(z, gamma, None), wanted, rtol=1e-9, atol=1e-9)


def test_mixed_starts_at_what_is_right_of_a_standard_normal():
    """With the marginal variance all but the first link is N(0, I) itself, in however few steps."""
    density = built(Real((3,)), mixed=True, variance="marginal", log_snr=[-5.0, 8.0], steps=3)
    assert density.mix is not None
    with torch.no_grad(), random.region(0, "test"):
        density.mix.fill_(-40.0)
        x = torch.randn(50, 3).double()
        tape = Tape()
        with tape.record():
            ledger = density.as_chain().evaluate_terms(x)
        above = [value for name, value in ledger.terms.items() if name not in ("x.log_likelihood", "z1.minus_log_q")]
        stage = density.as_chain().stack[0]
        assert isinstance(stage, LinkStage)
        z = stage.q.gaussian(stage.up(x)[1])
        first = z.loc + z.scale * tape.draws[0][1]
    torch.testing.assert_close(sum(above), Standard(Real((3,)), first).log_prob(first), rtol=1e-9, atol=1e-9)


def test_a_chain_of_another_number_of_links_and_where_there_is_none():
    density = built(Real((2,)), steps=None)
    with pytest.raises(SpaceError, match="say one: as_chain"):
        density.as_chain()
    chain = density.as_chain(3)
    assert [type(part) for stage in chain.stages for part in (stage.q, stage.p)] == [
        Forward,
        First,
        *[Forward, Backward] * 3,
    ]
    assert {id(value) for value in chain.parameters()} == {id(value) for value in density.net.parameters()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"stages": ["codes"], "prior": {"type": "diffusion", "net": "mlp"}},
            "'diffusion' blurs a code into those beside it",
        ),
        ({"prior": {"type": "diffusion", "log_snr": [5.0, -5.0]}}, "the noise would fall with time"),
        ({"prior": {"type": "diffusion", "log_snr": [-5.0, 30.0]}}, "log_snr is [-5.0, 30.0]; wanted -40 to 24"),
        ({"stages": ["latent"], "prior": {"type": "diffusion", "prediction": "levels"}}, "which has no levels"),
        ({"stages": ["latent"], "prior": {"type": "diffusion", "net": "unet"}}, "'unet' goes between images"),
        ({"prior": {"type": "diffusion", "unlabelled": 0.1}}, "it takes none"),
        (
            {"prior": {"type": "diffusion", "steps": None, "schedule": "learned", "timesteps": "importance"}},
            "makes the bound vary alike",
        ),
        ({"stages": [{"type": "latent", "posterior": "diffusion"}], "prior": "normal"}, "must be exact"),
    ],
)
def test_misfits_are_told_where_they_stand(changes: dict[str, object], said: str):
    part = Model.model_validate(changes)
    found = [reason.message for _, inner, slot in part.walk(model_slot(DIGITS, None)) for reason in inner.misfits(slot)]
    assert said in found[0]


def test_in_continuous_time_no_weights_are_averaged():
    model = Model.model_validate({"prior": {"type": "diffusion", "steps": None}})
    slot = Slot("objective", DIGITS, model=model)
    assert ["averages exp L" in reason.message for reason in IWAE().misfits(slot)] == [True]
    with pytest.raises(compose.ComposeError, match="its -ELBO is the number to compare"):
        draws_allowed(build_model(model, DIGITS, None), 1, 2)


def test_guided_by_a_label_it_was_trained_without_at_times():
    part = Diffusion.model_validate({"steps": 4, "net": NET, "labels": True, "unlabelled": 0.5})
    density = shake(part.build(Slot("prior", Real((3,)), labels=Codes((), 3, False))).double())
    assert isinstance(density, ByLabel)
    c, draw = torch.arange(3).repeat(4), partial(density.sample_as, 12)
    tape, found = Tape(), []
    for guidance in (0.0, 1.0, 1.000001, 3.0):
        with tape.run():
            found.append(draw(c, Drawing(guidance=guidance, sampler="ddim")))
    torch.testing.assert_close(found[1], found[2], rtol=1e-3, atol=1e-3)
    assert not torch.equal(found[1], found[3]) and not torch.equal(found[0], found[1])


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_guided_twice_it_moves_on_as_far_again(prediction: str):
    """In one step without noise what is drawn goes evenly with the guidance, from what is drawn without a label."""
    part = Diffusion.model_validate(
        {"steps": 4, "net": NET, "labels": True, "unlabelled": 0.5, "prediction": prediction, "log_snr": [-3.0, 20.0]}
    )
    density = shake(part.build(Slot("prior", Real((3,)), labels=Codes((), 3, False))).double())
    c, tape, found = torch.arange(3).repeat(4), Tape(), []
    assert isinstance(density, ByLabel)
    for guidance in (0.0, 1.0, 2.0):
        with tape.run():
            found.append(density.sample_as(12, c, Drawing(guidance=guidance, sampler="ddim", steps=1)))
    with tape.run():
        hidden = density._features(torch.full_like(c, 3))
        without = density.density.sample_as(12, hidden, Drawing(sampler="ddim", steps=1))
    torch.testing.assert_close(found[0], without)
    torch.testing.assert_close(found[2] - found[1], found[1] - found[0])
    assert float((found[1] - found[0]).abs().min()) > 0


@pytest.mark.parametrize("steps", [6, None])
def test_by_importance_the_bound_keeps_its_mean_and_loses_variance(steps: int | None):
    """Once it has seen what each time costs, it draws one with less variance, and what it draws has the same mean."""
    density = built(Real((2,)), steps=steps, prediction="x0", timesteps="importance").train()
    # A network that says nothing misses the more the more signal there is.
    torch.nn.init.zeros_(density.net.leave.weight)  # type: ignore[union-attr, arg-type]
    torch.nn.init.zeros_(density.net.leave.bias)  # type: ignore[union-attr, arg-type]
    x = torch.randn(1, 2, dtype=torch.float64).expand(6000, -1)
    with torch.no_grad(), random.region(0, "draws"):
        evenly = density.eval().split(x, mode="one_t")["diffusion"]
        density.train()
        for _ in range(40):
            density.split(x[:600], mode="one_t")
        often = density.split(x, mode="one_t")["diffusion"]
    error = math.hypot(float(evenly.std()), float(often.std())) / 6000**0.5
    assert float((evenly.mean() - often.mean()).abs()) < 5 * error
    assert float(often.var()) < 0.2 * float(evenly.var())


def test_drawn_by_importance_a_time_has_the_density_that_is_told():
    """Of numbers spread evenly: as many fall into a part of the way as its density says."""
    importance = Importance(4)
    importance.square.copy_(torch.tensor([1.0, 4.0, 9.0, 0.0]))
    t, density = importance(torch.linspace(0, 1, 100_001, dtype=torch.float64)[:-1])
    count = torch.bincount((t * 4).long().clamp_max(3), minlength=4) / len(t)
    torch.testing.assert_close(count, torch.tensor([1 / 6, 2 / 6, 3 / 6, 0]) * 0.95 + 0.0125, atol=1e-4, rtol=0)
    assert float((1 / density).mean()) == pytest.approx(1, abs=1e-4)
    assert bool((t[1:] >= t[:-1]).all())


def test_what_is_not_finite_teaches_nothing():
    """A step of nothing else leaves all as it was; beside others the rest is learned."""
    t = torch.tensor([0.1, 0.4, 0.6, 0.9])
    importance = Importance(4)
    for bad in (math.nan, math.inf, 1e30):  # the square of the last is not finite
        importance.learn(t, torch.full((4,), bad))
    assert torch.equal(importance.square, torch.ones(4)) and float(importance.seen) == 0
    importance.learn(t, torch.tensor([1.0, math.nan, 2.0, -math.inf]))
    wanted = torch.tensor([2.5, 2.5, 2.5, 2.5]).lerp(torch.tensor([1.0, 2.5, 4.0, 2.5]), RATE)
    torch.testing.assert_close(importance.square, wanted)


@pytest.mark.parametrize("links", [0, -1])
def test_a_chain_has_a_link(links: int):
    with pytest.raises(SpaceError, match=f"a chain of {links} links was asked for; wanted 1 at least"):
        built(SPACES[0]).as_chain(links)
