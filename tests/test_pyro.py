"""The bridge to Pyro: the same log weight, site by site, and programs that Pyro's own algorithms can use.

Under one tape of noise both worlds draw the same items, so most comparisons are of numbers, not of averages.
"""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, RenyiELBO, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal
from pyro.infer.mcmc.util import initialize_model
from pyro.optim import Adam  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
from torch import Tensor

from compose.core.bridge import Site
from compose.core.declare import Slot
from compose.core.errors import KindError, SpaceError
from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.roles import ByLabel, Density, DensityPart, Mode
from compose.core.spaces import Codes, Real, Space
from compose.parts.densities.bernoulli import Bernoulli
from compose.parts.densities.categorical import Categorical
from compose.parts.densities.mixture import Mixture
from compose.parts.densities.model import Model
from compose.parts.densities.normal import Normal
from compose.recipe.build import build_model
from compose.testing.noise import Tape
from compose.testing.subject import draw
from compose.testing.variants import shake

PIXELS = Codes((1, 2, 2), 3)
LABELS = Codes((), 3, ordered=False)
NET = {"type": "mlp", "hidden": [4]}
FLOW = {"type": "flow", "layers": 2, "hidden": 4}
STEP = {"type": "bijection", "layers": 2, "hidden": 4}
ROWS = 5


def latent(**options: Any) -> dict[str, Any]:
    return {"type": "latent", "dim": 2, "encoder": NET, "decoder": NET, **options}


UPPER = latent(likelihood="normal")
#: The model, its data, its labels, and the latents that have a site.
STACKS: dict[str, tuple[dict[str, Any], Space, Codes | None, set[str]]] = {
    "vae": ({"stages": [latent()]}, PIXELS, None, {"z1"}),
    "bits": ({"stages": [latent(likelihood="bernoulli")]}, Codes((3,), 2), None, {"z1"}),
    "flow prior": ({"stages": [latent()], "prior": FLOW}, PIXELS, None, {"z1"}),
    "flow posterior": ({"stages": [latent(posterior=FLOW)]}, PIXELS, None, {"z1"}),
    "mixture": ({"stages": [latent()], "prior": {"type": "mixture", "components": 3}}, PIXELS, None, {"z1"}),
    "vamp": ({"stages": [latent()], "prior": {"type": "vamp", "components": 3}}, PIXELS, None, {"z1"}),
    "two deep": ({"stages": [latent(), UPPER]}, PIXELS, None, {"z1", "z2"}),
    "bijection between": ({"stages": [latent(), STEP, UPPER]}, PIXELS, None, {"z1", "z3"}),
    "bijection above": ({"stages": [latent(), STEP, STEP]}, PIXELS, None, {"z1"}),
    "nested": (
        {"stages": [latent()], "prior": {"type": "model", "stages": [UPPER, STEP], "prior": "mixture"}},
        PIXELS,
        None,
        {"z1", "z2"},
    ),
    "flow": ({"stages": ["dequantize", STEP]}, PIXELS, None, {"z1"}),
    "density alone": ({"prior": "mixture"}, Real((2,)), None, set()),
    "bits alone": ({"prior": "bernoulli"}, Codes((3,), 2), None, set()),
    "labels": ({"stages": [latent()]}, PIXELS, LABELS, {"z1"}),
    "labelled prior": (
        {"stages": [latent(labels=False)], "prior": {"type": "mixture", "labels": True}},
        PIXELS,
        LABELS,
        {"z1"},
    ),
    "nested labels": (
        {"stages": [latent()], "prior": {"type": "model", "stages": [UPPER]}},
        PIXELS,
        LABELS,
        {"z1", "z2"},
    ),
}


def shaken(options: dict[str, Any], space: Space, labels: Codes | None = None, seed: int = 0) -> ModelDensity:
    """A model in float64 whose weights are far from where a training starts."""
    torch.manual_seed(seed)
    model = build_model(Model.model_validate(options), space, labels).double()
    shake(model)
    return model


def built(name: str) -> tuple[ModelDensity, Tensor, Tensor | None]:
    """The model of a stack, with a few data and their labels."""
    options, space, labels, _ = STACKS[name]
    model = shaken(options, space, labels)
    return model, draw(space, ROWS), None if labels is None else draw(labels, ROWS)


def sites(trace: Any) -> dict[str, Tensor]:
    """The log-probability of every site of a trace, ``(rows,)``."""
    trace.compute_log_prob()
    return {name: site["log_prob"] for name, site in trace.nodes.items() if site["type"] == "sample" and name != "data"}


@pytest.fixture(autouse=True)
def clean() -> None:
    """Pyro keeps parameters for the whole process."""
    pyro.clear_param_store()


@pytest.mark.parametrize("name", STACKS)
def test_the_trace_adds_up_to_the_ledger(name: str):
    model, x, c = built(name)
    program, guide = model.to_pyro()
    tape = Tape()
    with tape.record():
        wanted = model.evaluate_terms(x, c).total
    with tape.play() as noise:
        above = poutine.trace(guide).get_trace(x, c)
        below = poutine.trace(poutine.replay(program, above)).get_trace(x, c)
        plus, minus = sites(below), sites(above)
    assert noise.count == len(tape.draws)
    assert set(minus) == STACKS[name][3]
    assert set(plus) == {"x", *minus}
    assert all(value.shape == (ROWS,) for value in (*plus.values(), *minus.values()))
    came = sum(plus.values()) - sum(minus.values())
    torch.testing.assert_close(came, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", STACKS)
def test_the_gradient_is_that_of_the_ledger(name: str):
    model, x, c = built(name)
    parameters = list(model.parameters())
    tape = Tape()
    with tape.record():
        loss = -model.log_prob(x, c).sum()
    wanted = torch.autograd.grad(loss, parameters, allow_unused=True)
    with tape.play():
        came = Trace_ELBO().loss_and_grads(*model.to_pyro(), x, c)
    assert came == pytest.approx(loss.item(), rel=1e-9)
    assert any(each is not None for each in wanted)
    for parameter, each in zip(parameters, wanted, strict=True):
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, torch.zeros_like(parameter) if each is None else each, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", STACKS)
def test_without_data_it_draws_what_the_model_draws(name: str):
    model, x, c = built(name)
    program, _ = model.to_pyro()
    tape = Tape()
    with tape.record():
        wanted = model.sample(ROWS, c)
    with tape.play():
        came = program(None, c, ROWS)
    assert came.shape == x.shape
    assert torch.equal(came, wanted)


def test_its_bounds_are_our_bounds():
    model, x, _ = built("flow prior")
    program, guide = model.to_pyro()
    tape, k = Tape(), 7
    with torch.no_grad(), tape.record():
        weights = torch.stack([model.log_prob(x) for _ in range(k)])
    with tape.play():
        elbo = -Trace_ELBO(num_particles=k).loss(program, guide, x)
    with tape.play():
        iwae = -RenyiELBO(alpha=0, num_particles=k).loss(program, guide, x)
    assert elbo == pytest.approx(float(weights.mean(0).sum()), rel=1e-9)
    assert iwae == pytest.approx(float((weights.logsumexp(0) - math.log(k)).sum()), rel=1e-9)
    assert iwae > elbo + 0.01


@pytest.mark.long
@pytest.mark.parametrize("name", ["flow posterior", "labels"])
def test_svi_trains_it(name: str):
    model, x, c = built(name)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    svi = SVI(*model.to_pyro(), Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [float(svi.step(x, c)) for _ in range(100)]  # type: ignore[arg-type]
    assert sum(losses[-20:]) < sum(losses[:20])
    assert not any(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_two_models_of_one_process_are_both_trained():
    """By name, the parameters of the second would be taken for those of the first."""
    x = draw(PIXELS, ROWS)
    for seed in (0, 1):
        model = shaken({"stages": [latent()]}, PIXELS, seed=seed)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        SVI(*model.to_pyro(), Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
        assert not any(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_a_label_reaches_the_nets():
    model, x, _ = built("labels")
    program, guide = model.to_pyro()
    found = []
    for label in (0, 1):
        c = torch.full((ROWS,), label)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            above = poutine.trace(guide).get_trace(x, c)
        below = poutine.trace(poutine.replay(program, above)).get_trace(x, c)
        found.append((sites(above)["z1"], sites(below)["x"]))
    for one, other in zip(*found, strict=True):
        assert bool(((one - other).abs() > 1e-3).all())


def log_joint(model: ModelDensity, x: Tensor, z: Tensor) -> Tensor:
    """``log p(x | z) + log p(z)`` of one datum at many z, from the parts."""
    likelihood, features = model.stack[0].down(z)
    assert likelihood is not None
    return likelihood.log_prob(x.expand(len(z), *x.shape[1:]), features) + model.prior.log_prob(z)


@pytest.mark.parametrize("name", ["vae", "bits", "flow prior", "mixture"])
def test_the_potential_of_nuts_is_the_log_joint(name: str):
    model, x, _ = built(name)
    program, _ = model.requires_grad_(False).eval().to_pyro()
    _, potential, _, _ = initialize_model(program, model_args=(x[:1],))
    points = 2 * torch.randn(6, 2, dtype=torch.float64)
    came = torch.stack([potential({"z1": z[None]}) for z in points])
    off = came + log_joint(model, x[:1], points)
    assert float(off.max() - off.min()) < 1e-9


def on_a_grid(model: ModelDensity, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and standard deviations of the exact posterior over z, and the evidence, by a sum over the plane."""
    side = torch.linspace(-7, 7, 141, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    joint = log_joint(model, x, grid)
    mass = joint.softmax(0)[:, None]
    mean = (mass * grid).sum(0)
    cell = float(side[1] - side[0]) ** 2
    return mean, (mass * (grid - mean) ** 2).sum(0).sqrt(), float(joint.logsumexp(0)) + math.log(cell)


@pytest.mark.long
def test_nuts_draws_from_the_posterior():
    """Within 5 standard errors of the sums over a grid, by the chain's own count of independent draws."""
    model, x, _ = built("vae")
    program, _ = model.requires_grad_(False).eval().to_pyro()
    pyro.set_rng_seed(0)
    chain = MCMC(NUTS(program), num_samples=250, warmup_steps=100, disable_progbar=True)
    chain.run(x[:1])
    drawn = chain.get_samples()["z1"]
    assert drawn.shape == (250, 1, 2)
    mean, sd, _ = on_a_grid(model, x[:1])
    independent = chain.diagnostics()["z1"]["n_eff"][0]
    assert bool((independent > 50).all())
    assert bool(((drawn[:, 0].mean(0) - mean).abs() < 5 * sd / independent.sqrt()).all())
    # The error of a standard deviation is that of a mean over sqrt(2), for a normal; the posterior is nearly one.
    assert bool(((drawn[:, 0].std(0) - sd).abs() < 5 * sd / (2 * independent).sqrt()).all())


@pytest.mark.long
def test_a_guide_of_pyros_own_fits_the_posterior():
    """Its ELBO is the evidence less a small KL; the encoder's is not, for its weights are shaken."""
    model, x, _ = built("vae")
    program, guide = model.requires_grad_(False).eval().to_pyro()
    pyro.set_rng_seed(0)
    own = AutoDiagonalNormal(program)
    svi = SVI(program, own, Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(200):
        svi.step(x[:1])
    _, _, evidence = on_a_grid(model, x[:1])
    fitted, encoder = (-Trace_ELBO(num_particles=200).loss(program, q, x[:1]) for q in (own, guide))
    # 5 standard errors of the mean of 200 draws: log w has a standard deviation of 0.25 under this guide.
    assert abs(fitted - evidence) < 0.09
    assert encoder < fitted - 0.5


def test_predictive_draws_latents_and_data():
    model, x, _ = built("two deep")
    program, guide = model.to_pyro()
    found = Predictive(program, guide=guide, num_samples=3)(x)
    assert {name: tuple(value.shape) for name, value in found.items() if name != "x"} == {
        "z1": (3, ROWS, 2),
        "z2": (3, ROWS, 2),
    }
    again = Predictive(program, posterior_samples={name: found[name] for name in ("z1", "z2")})(n=ROWS)
    assert again["x"].shape == (3, ROWS, *PIXELS.shape)
    PIXELS.check_values(again["x"].flatten(0, 1))


def test_a_likelihood_that_draws_noise_of_its_own_runs():
    """The inner latent is no site, and the tapes part; the means of what it scores agree within 5 standard errors."""
    options = {"stages": [latent(likelihood={"type": "model", "stages": [latent()]}), UPPER]}
    model = shaken(options, PIXELS)
    x = draw(PIXELS, 1).expand(4000, *PIXELS.shape)
    program, guide = model.to_pyro()
    with torch.no_grad():
        above = poutine.trace(guide).get_trace(x)
        plus = sites(poutine.trace(poutine.replay(program, above)).get_trace(x))
        ours = model.evaluate_terms(x).terms["x.log_likelihood"]
    assert set(plus) == {"x", "z1", "z2"}
    error = math.sqrt(float(plus["x"].var() + ours.var()) / len(x))
    assert error < 0.06
    assert abs(float(plus["x"].mean() - ours.mean())) < 5 * error
    assert program(n=3).shape == (3, *PIXELS.shape)
    assert math.isfinite(float(SVI(program, guide, Adam({"lr": 1e-3}), Trace_ELBO()).step(x[:4])))  # type: ignore[arg-type]


IN_PYRO: list[tuple[DensityPart, Space]] = [
    (Normal(), Real((3,))),
    (Normal(), Real((2, 3, 2))),
    (Bernoulli(), Codes((3,), 2)),
    (Bernoulli(), Codes((1, 2, 3), 2)),
    (Categorical(), Codes((3,), 4)),
    (Categorical(), Codes((1, 2, 3), 4, ordered=False)),
    (Mixture(components=3), Real((3,))),
    (Mixture(components=3), Real((2, 3, 2))),
]


@pytest.mark.parametrize("under", ["nothing", "a condition", "a label"])
@pytest.mark.parametrize(("part", "space"), IN_PYRO, ids=lambda each: getattr(each, "type", str(each)))
def test_pyro_scores_a_part_as_we_do(part: DensityPart, space: Space, under: str):
    features = part.features(space)
    assert features is not None
    slot = Slot("prior", space)
    if under == "a condition":
        slot = Slot("likelihood", space, features)
    if under == "a label":
        part, slot = part.model_copy(update={"labels": True}), Slot("prior", space, labels=LABELS)
    density = part.build(slot).double()
    shake(density)
    assert isinstance(density, Density)
    assert isinstance(density, ByLabel) == (under == "a label")
    x = draw(space, 20)
    c = {"nothing": None, "a condition": draw(features, 20), "a label": draw(LABELS, 20)}[under]
    known = density.in_pyro(20, c)
    assert (known.batch_shape, known.event_shape) == ((20,), space.shape)
    torch.testing.assert_close(known.log_prob(x.double()), density.log_prob(x, c), rtol=1e-9, atol=1e-9)


def site(space: Space) -> Site:
    return Site(space, ROWS, lambda: draw(space, ROWS), lambda x: torch.zeros(ROWS))


@pytest.mark.parametrize("space", [Real((2, 3)), Codes((2, 3), 4), Codes((), 4)], ids=str)
def test_a_site_says_where_its_items_lie(space: Space):
    support = site(space).support
    assert support.event_dim == len(space.shape)
    assert support.is_discrete == isinstance(space, Codes)
    assert bool(support.check(draw(space, 20)).all())
    assert bool(support.check(torch.full((20, *space.shape), 4)).any()) == isinstance(space, Real)
    assert site(space).batch_shape == (ROWS,) and site(space).event_shape == space.shape
    assert site(space).sample((3, 2)).shape == (3, 2, ROWS, *space.shape)


def test_data_outside_their_cell_are_impossible():
    """A dequantised datum is certain given the item above."""
    model, x, _ = built("flow")
    program, guide = model.to_pyro()
    z: Any = poutine.trace(guide).get_trace(x).nodes["z1"]
    x[2, 0, 0, 0] = (x[2, 0, 0, 0] + 1) % PIXELS.size
    trace = poutine.trace(poutine.condition(program, {"z1": z["value"]})).get_trace(x)
    assert sites(trace)["x"].tolist() == [0, 0, -math.inf, 0, 0]


class Implicit(Density):
    """Draws, and scores nothing."""

    def __init__(self) -> None:
        super().__init__(Real((2,)), kind=Kind.NONE)

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        raise AssertionError("scored without a likelihood")

    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        return torch.zeros(n, 2)


def test_a_model_without_a_likelihood_is_refused():
    with pytest.raises(KindError, match="without a likelihood"):
        ModelDensity(Real((2,)), [], Implicit(), Kind.NONE).to_pyro()


def test_what_pyro_must_not_ask_is_refused():
    model, x, c = built("labels")
    assert c is not None
    program, guide = model.to_pyro()
    with pytest.raises(SpaceError, match="vectorized"):
        Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1).loss(program, guide, x, c)
    for run in (program, guide):
        with pytest.raises(SpaceError, match="no condition was given"):
            run(x)
        with pytest.raises(SpaceError, match="2 rows beside 5 data"):
            run(x, c[:2])
        with pytest.raises(SpaceError, match="wants integers of shape"):
            run(x.double(), c)
    with pytest.raises(SpaceError, match="1 rows beside 5 data"):
        poutine.condition(program, {"z1": torch.zeros(1, 2).double()})(x, c)
    flow, x, _ = built("flow")
    found: Any = poutine.trace(flow.to_pyro()[1]).get_trace(x).nodes["z1"]
    with pytest.raises(SpaceError, match="only where it was drawn"):
        found["fn"].log_prob(found["value"] + 1)
    with pytest.raises(SpaceError, match="drawn already"):
        found["fn"].sample((2,))
