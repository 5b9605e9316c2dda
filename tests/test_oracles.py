"""What the project computes, against the same computed otherwise: by torch.distributions, by pyro, by itself."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from compose.core import random, registry
from compose.core.declare import Slot
from compose.core.errors import SpaceError
from compose.core.gaussians import bounded
from compose.core.model import ModelDensity
from compose.core.roles import Density
from compose.core.spaces import Codes, Real, Space
from compose.parts.densities.model import Model
from compose.parts.objectives.elbo import ELBO, ELBOObjective
from compose.testing.integrals import check_mass_and_draws, expectation
from compose.testing.variants import shake

BITS, LEVELS, PLANE = Codes((1, 2, 2), 2), Codes((1, 2, 2), 5), Real((3,))
NET = {"type": "mlp", "hidden": [8]}


def density(name: str, space: Space, conditional: bool = False, **options: Any) -> Density:
    """A shipped density, shaken, in float64."""
    torch.manual_seed(0)
    part = registry.load("density", name).model_validate(options)
    condition = part.features(space) if conditional else None  # type: ignore[attr-defined]
    return shake(part.build(Slot("likelihood" if conditional else "prior", space, condition)).double())  # type: ignore[return-value]


def model(space: Space, stack: dict[str, Any], seed: int = 0) -> ModelDensity:
    """A stack without misfits, shaken, in float64."""
    part, slot = Model.model_validate(stack), Slot("prior", space)
    assert [reason for _, inner, place in part.walk(slot) for reason in inner.misfits(place)] == []
    with random.region(seed):
        return shake(part.build(slot).double())  # type: ignore[return-value]


def close(came: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(came, wanted, rtol=tolerance, atol=tolerance)


# Densities against torch.distributions


def test_normal():
    x, c = torch.randn(9, 3).double(), torch.randn(9, 6).double()
    close(density("normal", PLANE).log_prob(x), dist.Normal(torch.zeros(3), 1.0).to_event(1).log_prob(x))
    q = density("normal", PLANE, conditional=True)
    loc, raw = c.reshape(9, *q.condition.shape).flatten(1).chunk(2, 1)  # type: ignore[union-attr]
    wanted = dist.Normal(loc, bounded(raw).exp()).to_event(1).log_prob(x)
    close(q.log_prob(x, c.reshape(9, *q.condition.shape)), wanted)  # type: ignore[union-attr]


@pytest.mark.parametrize("conditional", [False, True])
def test_mixture(conditional: bool):
    p = density("mixture", PLANE, conditional, components=4)
    x, c = torch.randn(9, 3).double(), torch.randn(9, 4, 7).double()
    raw, loc, log_scale = (c if conditional else p.free[None]).split([1, 3, 3], -1)  # type: ignore[index]
    parts = dist.Normal(loc, bounded(log_scale).exp()).to_event(1)
    close(
        p.log_prob(x, c if conditional else None),
        dist.MixtureSameFamily(dist.Categorical(logits=raw[..., 0]), parts).log_prob(x),
    )


def test_bernoulli_and_categorical():
    bits, levels = torch.randint(2, (9, 1, 2, 2)), torch.randint(5, (9, 1, 2, 2))
    c = torch.randn(9, 1, 2, 2).double()
    close(
        density("bernoulli", BITS, True).log_prob(bits, c), dist.Bernoulli(logits=c).to_event(3).log_prob(bits.double())
    )
    c = torch.randn(9, 5, 1, 2, 2).double()
    wanted = dist.Categorical(logits=c.movedim(1, -1)).to_event(3).log_prob(levels)
    close(density("categorical", LEVELS, True).log_prob(levels, c), wanted)


@pytest.mark.parametrize("shared", [False, True])
def test_cells_of_levels_are_told_apart_whatever_the_precision_of_a_net(shared: bool):
    p = density("discretized_logistic", Codes((4,), 256), True, components=3, shared_scale=shared).float()
    c = torch.randn(64, 2 if shared else 3, 3, 4).bfloat16()
    x = torch.randint(256, (64, 4))
    assert torch.equal(p.log_prob(x, c), p.log_prob(x, c.float()))
    samples = []
    for each in (c, c.float()):
        with random.region(0):
            samples.append(p.sample(64, each))
    assert torch.equal(*samples)


@pytest.mark.parametrize("size", [2, 5, 256])
def test_discretized_logistic(size: int):
    """The mass of each cell as a plain difference of sigmoids; the end cells reach to infinity."""
    space = Codes((4,), size)
    p = density("discretized_logistic", space, True, components=3)
    c = torch.randn(64, 3, 3, 4).double()
    x = torch.randint(size, (64, 4))
    x[0], x[1] = 0, size - 1
    raw, loc, raw_scale = c.unbind(1)
    half = 1 / (size - 1)
    centre = (2 * half * x.double() - 1)[:, None]
    upper = torch.where(x == size - 1, torch.inf, 0)[:, None] + centre + half
    lower = torch.where(x == 0, -torch.inf, 0)[:, None] + centre - half
    scale = bounded(raw_scale, 7.0).exp()
    mass = torch.sigmoid((upper - loc) / scale) - torch.sigmoid((lower - loc) / scale)
    wanted = (torch.softmax(raw, 1) * mass).sum(1).log().sum(1)
    assert wanted.isfinite().all()
    close(p.log_prob(x, c), wanted)


# The ledger against pyro, term by term


def pyro_pair(vae: ModelDensity, x: Tensor):
    """A model and a guide in pyro, around the nets of a stack of latents with Bernoulli pixels at its foot."""

    def normal(features: Tensor) -> Any:
        loc, raw = features.chunk(2, 1)
        return dist.Normal(loc, bounded(raw).exp()).to_event(1)

    def guide() -> None:
        below = x.double()
        with pyro.plate("batch", len(x)):
            for i, stage in enumerate(vae.stack, 1):
                below = pyro.sample(f"z{i}", normal(stage.encoder(below)))  # type: ignore[operator]

    def generative() -> None:
        n = len(vae.stack)
        with pyro.plate("batch", len(x)):
            above = pyro.sample(
                f"z{n}", dist.Normal(torch.zeros(len(x), vae.prior.space.dim).double(), 1.0).to_event(1)
            )
            for i in range(n - 1, 0, -1):
                above = pyro.sample(f"z{i}", normal(vae.stack[i].decoder(above)))  # type: ignore[operator]
            logits = vae.stack[0].decoder(above)  # type: ignore[operator]
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x.double())

    return generative, guide


def log_probs(trace: Any) -> dict[str, Tensor]:
    """The log-probability of every site of a trace of pyro."""
    trace.compute_log_prob()
    return {name: site["log_prob"] for name, site in trace.nodes.items() if "log_prob" in site}


STACKS = [
    {"stages": [{"type": "latent", "dim": 3, "encoder": NET, "decoder": NET, "likelihood": "bernoulli"}]},
    {
        "stages": [
            {"type": "latent", "dim": 3, "encoder": NET, "decoder": NET, "likelihood": "bernoulli"},
            {"type": "latent", "dim": 2, "encoder": NET, "decoder": NET, "likelihood": "normal"},
        ]
    },
]


@pytest.mark.parametrize("stack", STACKS, ids=["vae", "hvae"])
def test_terms_are_those_of_pyro(stack: dict[str, Any]):
    """Every term is the log-probability of a site of pyro's traces, at the same draw."""
    vae, x = model(BITS, stack), torch.randint(2, (6, 1, 2, 2))
    generative, guide = pyro_pair(vae, x)
    torch.manual_seed(3)
    terms = vae.evaluate_terms(x).terms
    torch.manual_seed(3)
    q = poutine.trace(guide).get_trace()
    p = poutine.trace(poutine.replay(generative, trace=q)).get_trace()
    paid, scored = (log_probs(trace) for trace in (q, p))
    n = len(vae.stack)
    wanted = {f"z{i}.minus_log_q": -paid[f"z{i}"] for i in range(1, n + 1)}
    wanted |= {f"z{i}.log_likelihood": scored[f"z{i}"] for i in range(1, n)}
    wanted |= {"x.log_likelihood": scored["x"], f"z{n}.log_prior": scored[f"z{n}"]}
    assert terms.keys() == wanted.keys()
    for name, value in terms.items():
        close(value, wanted[name])


@pytest.mark.parametrize("stack", STACKS, ids=["vae", "hvae"])
def test_the_bound_is_that_of_trace_elbo(stack: dict[str, Any]):
    vae, x = model(BITS, stack), torch.randint(2, (6, 1, 2, 2))
    torch.manual_seed(3)
    ours = -vae.log_prob(x).sum()
    torch.manual_seed(3)
    assert abs(Trace_ELBO().loss(*pyro_pair(vae, x)) - float(ours.detach())) < 1e-9


# The algebra against itself

FLOWS = [
    {"transform": "rq_coupling"},
    {"transform": "affine_coupling", "mixing": "permutation"},
    {"transform": "maf", "mixing": "none"},
    {"transform": "rq_coupling", "generative": True},
]


@pytest.mark.parametrize("options", FLOWS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize(
    "below", [[], [{"type": "latent", "dim": 4, "encoder": NET, "decoder": NET}]], ids=["data", "vae"]
)
def test_a_flow_is_one_number_as_prior_and_as_stage(options: dict[str, Any], below: list[Any]):
    space = LEVELS if below else Real((4,))
    options = {"layers": 2, "hidden": 8, **options}
    as_prior = model(space, {"stages": below, "prior": {"type": "flow", **options}})
    as_stage = model(space, {"stages": [*below, {"type": "bijection", **options}]}, seed=1)
    stage = f"stages.{len(below)}.transform"
    as_stage.load_state_dict({k.replace("prior.transform", stage): v for k, v in as_prior.state_dict().items()})
    x = torch.randn(40, 4).double() if not below else torch.randint(5, (40, 1, 2, 2))
    values = []
    for each in (as_prior, as_stage):
        torch.manual_seed(0)
        values.append(each.log_prob(x).detach())
    close(values[0], values[1])
    assert as_stage.evaluate_terms(x).terms.keys() - as_prior.evaluate_terms(x).terms.keys() >= {
        f"z{len(below) + 1}.log_det"
    }
    singles = []
    for each in (as_prior.float(), as_stage.float()):
        torch.manual_seed(0)
        singles.append(each.log_prob(x.float() if x.is_floating_point() else x).detach())
    torch.testing.assert_close(singles[0], singles[1], rtol=1e-6, atol=1e-6)


FLAT = [
    {"type": "latent", "dim": 4, "encoder": NET, "decoder": NET},
    {"type": "bijection", "layers": 2, "hidden": 8},
    {"type": "latent", "dim": 2, "encoder": NET, "decoder": NET, "likelihood": "normal"},
]


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp"])
@pytest.mark.parametrize("mode", ["path", "kl"])
def test_nested_models_are_the_flattened_one(prior: str, mode: Any):
    """A model as a model's prior, two deep: no difference at all."""
    top = {"type": prior} if prior == "normal" else {"type": prior, "components": 3}
    flat = model(LEVELS, {"stages": FLAT, "prior": top})
    innermost = {"type": "model", "stages": FLAT[2:], "prior": top}
    nested = model(LEVELS, {"stages": FLAT[:1], "prior": {"type": "model", "stages": FLAT[1:2], "prior": innermost}}, 1)
    names = {"prior.prior.stages.0.": "stages.2.", "prior.prior.prior.": "prior.", "prior.stages.0.": "stages.1."}

    def flattened(name: str) -> str:
        deep = next((deep for deep in names if name.startswith(deep)), "")
        return names.get(deep, "") + name.removeprefix(deep)

    state = flat.state_dict()
    nested.load_state_dict({name: state[flattened(name)] for name in nested.state_dict()})
    assert len(state) == len(nested.state_dict())
    x = torch.randint(5, (40, 1, 2, 2))
    values, samples = [], []
    for each in (flat, nested):
        torch.manual_seed(0)
        values.append(each.log_prob(x, mode=mode).detach())
        samples.append(each.sample(40))
    assert float((values[0] - values[1]).abs().max()) == 0.0
    assert torch.equal(samples[0], samples[1])


CODED = {"type": "codes", "factor": 2, "encoder": NET, "decoder": NET, "likelihood": "normal"}
DESCENDING = {"type": "vq", "size": 4, "dim": 2, "update": "gradient"}


def test_a_nested_model_trains_as_the_flattened_one():
    """What its quantizer adds to the loss counts: each parameter, the codebook too, has the same gradient."""
    upper = [{**CODED, "quantizer": DESCENDING}]
    prior = {"type": "autoregressive", "layers": 1, "width": 4, "heads": 1}
    flat = model(LEVELS, {"stages": [*FLAT[:1], *upper], "prior": prior})
    nested = model(LEVELS, {"stages": FLAT[:1], "prior": {"type": "model", "stages": upper, "prior": prior}}, 1)
    names = {name: name.replace("prior.stages.0.", "stages.1.") for name in nested.state_dict()}
    names = {name: flattened.replace("prior.prior.", "prior.") for name, flattened in names.items()}
    nested.load_state_dict({name: flat.state_dict()[flattened] for name, flattened in names.items()})
    x = torch.randint(5, (40, 1, 2, 2))
    for each in (flat, nested):
        torch.manual_seed(0)
        loss = ELBOObjective(ELBO(mode="path"))(each, x, None, 0)
        loss.value.backward()
        prefix = "z2" if each is flat else "z1.log_prior.z1"
        assert list(loss.ledger.penalties) == [f"{prefix}.commitment", f"{prefix}.codebook"]
    wanted = {name: value.grad for name, value in flat.named_parameters()}
    codebook = wanted["stages.1.quantizer.codebook"]
    assert codebook is not None and bool((codebook != 0).any())
    for name, value in nested.named_parameters():
        came, same = value.grad, wanted[names[name]]
        assert came is not None and same is not None and torch.equal(came, same), name


INSIDE = {
    "type": "model",
    "stages": [{**CODED, "factor": 1, "quantizer": DESCENDING}],
    "prior": {"type": "autoregressive", "layers": 1, "width": 4, "heads": 1},
}
LADDER = {"type": "ladder", "levels": [[2, 2, 2], [2, 2, 2]], "likelihood": "normal", "residual": False}
CHAIN = {"type": "chain", "links": 2, "dim": 2, "likelihood": "normal"}


@pytest.mark.parametrize(
    "stage, term, prior",
    [
        ({**FLAT[0], "likelihood": INSIDE}, "x.log_likelihood", "normal"),
        ({**CODED, "quantizer": "fsq", "likelihood": INSIDE}, "x.log_likelihood", "categorical"),
        ({"type": "split", "density": INSIDE}, "x.log_likelihood", "normal"),
        ({**LADDER, "likelihood": INSIDE}, "x.log_likelihood", "normal"),
        ({**LADDER, "transition": INSIDE}, "z1.1.log_likelihood", "normal"),
        ({**CHAIN, "likelihood": INSIDE}, "x.log_likelihood", "normal"),
        ({**CHAIN, "transition": INSIDE}, "z1.1.log_likelihood", "normal"),
    ],
)
def test_what_a_model_as_likelihood_pays_in_training_is_paid(stage: dict[str, Any], term: str, prior: str):
    """Its quantizer's penalties come with the term that it gives."""
    built = model(PLANE, {"stages": [stage], "prior": prior})
    penalties = built.evaluate_terms(torch.randn(6, 3).double()).penalties
    assert list(penalties) == [f"{term}.z1.commitment", f"{term}.z1.codebook"]
    torch.stack([value.mean() for value in penalties.values()]).sum().backward()
    (codebook,) = (value for name, value in built.named_parameters() if name.endswith("quantizer.codebook"))
    assert codebook.grad is not None and bool((codebook.grad != 0).any())


def test_the_closed_kl_is_the_expectation_of_the_path():
    vae = model(BITS, {"stages": [{**FLAT[0], "dim": 1}]})
    x = torch.randint(2, (5, 1, 2, 2))

    def total(mode: Any) -> Tensor:
        return expectation(lambda rows: vae.log_prob(rows, mode=mode), x).value

    close(total("kl"), total("path"), 1e-6)
    ledgers = [vae.evaluate_terms(x, mode="kl").terms for _ in range(2)]
    for name in ("z1.minus_log_q", "z1.log_prior"):  # the KL itself is drawn no more
        assert torch.equal(ledgers[0][name], ledgers[1][name])


# Polarity

LATENT = Slot("stage", BITS)


@pytest.mark.parametrize("name", ["mixture", "vamp", "model", "categorical", "bernoulli"])
def test_a_posterior_must_be_exact_and_carry_a_gradient(name: str):
    stage = registry.load("stage", "latent").model_validate({"dim": 2, "posterior": name})
    part, slot = stage.nested(LATENT)["posterior"]
    assert slot.negative
    told = " ".join(reason.message for reason in part.misfits(slot))
    assert name in told
    assert ("gradient" in told) == (name in ("mixture", "vamp", "model"))


def test_a_weight_as_posterior_is_no_bound():
    part = Model.model_validate({"stages": [{"type": "latent", "dim": 2, "likelihood": "normal"}]})
    told = " ".join(reason.message for reason in part.misfits(Slot("posterior", Real((2,)), Real((4,)))))
    assert "must be exact" in told and "only a weight (E exp L = p)" in told and "no bound" in told


def test_a_posterior_that_fits_has_nothing_against_it():
    for name in ("normal", "flow"):
        stage = registry.load("stage", "latent").model_validate({"dim": 2, "posterior": name})
        part, slot = stage.nested(LATENT)["posterior"]
        assert not list(part.misfits(slot))


# Closure

LIKELIHOODS = {
    "a density alone": {"type": "model", "prior": "categorical"},
    "dequantized": {"type": "model", "stages": ["dequantize"], "prior": "normal"},
    "with a latent": {
        "type": "model",
        "stages": [{"type": "latent", "dim": 1, "encoder": NET, "decoder": NET}],
        "prior": "normal",
    },
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS.values(), ids=LIKELIHOODS)
def test_a_model_is_a_likelihood(likelihood: dict[str, Any]):
    """Its latents and those of the model around it are integrated out: the data's probabilities sum to 1."""
    space = Codes((1,), 4)
    latent = {"type": "latent", "dim": 1, "encoder": NET, "decoder": NET, "likelihood": likelihood}
    vae = model(space, {"stages": [latent]})
    assert str(vae.kind) == "weight"
    with random.region(0):
        check_mass_and_draws(space, vae.log_prob, vae.sample(20_000))


def test_a_nested_model_is_fitted_as_the_flattened_one():
    """With class labels, which the stages below what is fitted may need."""
    labels, x, c = Codes((), 3, ordered=False), torch.randn(200, 3).double(), torch.randint(3, (200,))
    upper = [{"type": "latent", "dim": 2, "encoder": NET, "decoder": NET, "likelihood": "normal"}, "standardize"]
    flat = {"stages": ["standardize", *upper]}
    nested = {"stages": ["standardize"], "prior": {"type": "model", "stages": upper}}
    found = []
    for stack in (flat, nested):
        with random.region(0):
            built = Model.model_validate(stack).build(Slot("prior", PLANE, labels=labels)).double()
        assert isinstance(built, ModelDensity)
        with random.region(1):
            fitted = built.fit_parts(lambda: [(x[:100], c[:100]), (x[100:], c[100:])])
        found.append((fitted, [value for name, value in built.state_dict().items() if name.endswith("log_scale")]))
    assert [names for names, _ in found] == [["stages.0", "stages.2"], ["stages.0", "prior.stages.1"]]
    (_, scales), (_, again) = found
    assert len(scales) == len(again) == 2
    for one, other in zip(scales, again, strict=True):
        assert float(one.abs().min()) > 0 and torch.equal(one, other)


def test_a_model_as_likelihood_is_fitted():
    likelihood = {"type": "model", "stages": ["standardize"]}
    built = model(PLANE, {"stages": [{"type": "latent", "dim": 2, "likelihood": likelihood}]})
    x = 5 + 3 * torch.randn(500, 3).double()
    assert built.fit_parts(lambda: [(x, None)]) == ["stages.0"]
    close(built.get_buffer("stages.0.likelihood.stages.0.mean"), x.mean(0), 1e-6)


def test_a_model_takes_no_label_for_itself():
    part = Model.model_validate({"stages": ["latent"], "labels": True})
    (reason,) = part.misfits(Slot("prior", BITS, labels=Codes((), 3, ordered=False)))
    assert reason.key == "labels" and "hands the class label on to its parts" in reason.message


def test_a_condition_has_a_row_for_each_item_that_is_asked_for():
    labels = Codes((), 3, ordered=False)
    part = Model.model_validate({"prior": {"type": "flow", "layers": 1, "hidden": 4, "labels": True}})
    built: Any = part.build(Slot("prior", PLANE, labels=labels))
    assert len(built.sample(5, torch.tensor([2, 0, 1, 1, 2]))) == 5
    for call in (built.sample, built.latents):
        with pytest.raises(SpaceError, match=r"the condition holds values from 0 to 3, but .* wants 0 to 2"):
            call(2, torch.tensor([0, 3]))
        with pytest.raises(
            SpaceError, match="5 items were asked for, and the condition has 1 rows; wanted one for each"
        ):
            call(5, torch.tensor([2]))
    with pytest.raises(SpaceError, match="5 items came, and the condition has 2 rows"):
        built.evaluate_terms(torch.zeros(5, *PLANE.shape, dtype=torch.float64), torch.tensor([2, 0]))


def test_a_normal_of_halves_draws_and_scores_in_single_precision():
    """A net in mixed precision gives bfloat16, in which a number of 40 is known to a quarter."""
    normal = density("normal", Real((40,)), conditional=True).float()
    halves = torch.randn(64, 80).bfloat16()
    z, log_q = normal.rsample_and_log_prob(halves)
    assert z.dtype == normal.centre(halves).dtype == torch.float32
    torch.testing.assert_close(log_q.double(), normal.log_prob(z, halves.float()).double(), rtol=0, atol=1e-3)
