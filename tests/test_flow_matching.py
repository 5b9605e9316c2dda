"""A rectified flow: its volume is that of the map, its draws are from what it scores, estimates are told apart."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import compose
from compose.cli.compare import diff
from compose.cli.runs import show_run
from compose.core import random
from compose.core.declare import Slot
from compose.core.drawing import Drawing
from compose.core.errors import RecipeError, SpaceError
from compose.core.kinds import Kind
from compose.core.solvers import SOLVERS, solve
from compose.core.spaces import Real
from compose.parts.densities.flow_matching import FlowMatching, FlowMatchingDensity
from compose.run.evaluate import fineness
from compose.run.ledger import render
from compose.testing.variants import shake

NET = {"type": "resmlp", "width": 16, "blocks": 2}


@pytest.fixture(autouse=True)
def _the_same_draws():
    with random.region(0, "test data"):
        yield


def built(space: Real, **options: object) -> FlowMatchingDensity:
    """A flow with shaken weights, in float64."""
    with random.region(0, "test"):
        whole = FlowMatching.model_validate({"net": NET, **options}).build(Slot("prior", space)).double().eval()
        shake(whole)
    assert isinstance(whole, FlowMatchingDensity)
    return whole


@pytest.mark.long
@pytest.mark.parametrize("net", [NET, "mlp", {"type": "unet", "channels": [4]}, {"type": "transformer", "width": 8}])
def test_the_volume_is_that_of_the_map(net: object):
    """Against the determinant of the whole way's Jacobian, as torch differentiates it, in fine steps."""
    image = not isinstance(net, str) and net["type"] in ("unet", "transformer")  # type: ignore[index]
    density = built(Real((1, 2, 2) if image else (3,)), net=net, steps=32)
    x = torch.randn(1 if image else 3, *density.space.shape, dtype=torch.float64)
    found = density.split(x)

    def to_noise(row: Tensor) -> Tensor:
        times = [i / density.steps for i in range(density.steps, -1, -1)]
        z, _ = solve(lambda z, t: (density.velocity(z, z.new_full((1,), t)), None), row[None], times, SOLVERS["rk4"])
        return z[0]

    for i, row in enumerate(x):
        jacobian = torch.autograd.functional.jacobian(to_noise, row)
        assert isinstance(jacobian, Tensor)
        volume = torch.linalg.slogdet(jacobian.reshape(row.numel(), row.numel()))[1]
        torch.testing.assert_close(
            found["volume"][i], volume, atol=1e-5 if net == "mlp" else 1e-6, rtol=0
        )  # kinks of relu
        noise = torch.distributions.Normal(0, 1).log_prob(to_noise(row)).sum()
        torch.testing.assert_close(found["noise"][i], noise, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_solvers_have_their_order(name: str, order: int):
    """With half the step the error falls by two to the order: of ``dx/dt = t x`` and the integral of ``t x``."""

    def off(steps: int) -> tuple[float, float]:
        times = [i / steps for i in range(steps + 1)]
        start = torch.ones(1, 1, dtype=torch.float64)
        x, integral = solve(lambda z, t: (t * z, t * z[:, 0]), start, times, SOLVERS[name])
        assert integral is not None
        return abs(float(x) - math.exp(0.5)), abs(float(integral) - (math.exp(0.5) - 1))

    for coarse, fine in zip(off(8), off(16), strict=True):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.long
def test_random_directions_estimate_the_trace():
    """With any number of directions the mean is the exact L; with more the spread is smaller; the promise says so."""
    space = Real((3,))
    exact, loose, close = built(space), built(space, trace="hutchinson"), built(space, trace="hutchinson", probes=16)
    assert (exact.kind, loose.kind) == (Kind.EXACT, Kind.ESTIMATE)
    x = torch.randn(1, 3, dtype=torch.float64)
    with torch.no_grad(), random.region(0, "draws"):
        wanted = exact.log_prob(x)
        many = x.expand(2000, -1)
        for found in (loose.log_prob(many), close.log_prob(many), exact.log_prob(many, mode="one_t")):
            assert float((found.mean() - wanted).abs()) < 5 * float(found.std()) / 2000**0.5
        assert 3 < float(loose.log_prob(many).std() / close.log_prob(many).std()) < 5


def test_a_gaussian_needs_no_network():
    """Where the network says nothing, the field leaves N(0, I) as it is."""
    density = built(Real((4,)))
    torch.nn.init.zeros_(density.net.leave.weight)  # type: ignore[union-attr, arg-type]
    torch.nn.init.zeros_(density.net.leave.bias)  # type: ignore[union-attr, arg-type]
    x = torch.randn(20, 4, dtype=torch.float64)
    wanted = torch.distributions.Normal(0, 1).log_prob(x).sum(1)
    torch.testing.assert_close(density.log_prob(x), wanted, atol=1e-5, rtol=0)


def test_what_is_matched_is_where_data_come_from():
    """``denoising`` at the true field is as low as it gets: of one datum, ``(x - z) / (1 - t)``."""
    density = built(Real((2,)))
    x = torch.randn(1, 2, dtype=torch.float64).expand(500, -1)
    density.velocity = lambda z, t, c=None: (x - z) / (1 - t)[:, None]  # type: ignore[method-assign]
    assert float(density.denoising(x).max()) < 1e-12
    density.velocity = lambda z, t, c=None: (x - z) / (1 - t)[:, None] + 1  # type: ignore[method-assign]
    torch.testing.assert_close(density.denoising(x), torch.ones(500, dtype=torch.float64))
    with random.region(0, "draws"):
        t = density.time(x)
    with random.region(0, "draws"):
        weighed = density.denoising(x, at_most=5.0)
    # A velocity off by 1 is data off by 1 - t, and signal over noise is t^2 / (1 - t)^2.
    signal = t.square() / (1 - t).square()
    assert 0 < int((signal > 5).sum()) < len(t)
    torch.testing.assert_close(weighed, 0.5 * signal.clamp_max(5.0) * 2 * (1 - t).square())


def test_the_same_noise_leads_to_the_same_samples():
    """Solvers agree where steps are many, and those of a chain are refused with what there is."""
    density = built(Real((2,)))
    found = []
    for how in (Drawing(), Drawing(sampler="heun", steps=64), Drawing(sampler="ddim", steps=2000)):
        with random.region(0, "draws"):
            found.append(density.sample_as(50, None, how))
    torch.testing.assert_close(found[1], found[0], atol=1e-2, rtol=0)
    torch.testing.assert_close(found[2], found[0], atol=1e-2, rtol=0)
    with pytest.raises(SpaceError, match="wanted 'ddim'"):
        density.sample_as(5, None, Drawing(sampler="ancestral"))
    with pytest.raises(SpaceError, match="'eta' was given"):
        density.sample_as(5, None, Drawing(sampler="ddim", eta=0.5))


def test_a_label_guides():
    """Guided once it is the label's own; twice it moves on in the same direction."""
    part = FlowMatching.model_validate({"net": NET, "labels": True, "unlabelled": 0.5})
    slot = Slot("prior", Real((2,)), labels=compose.Codes((), 3, ordered=False))
    density = shake(part.build(slot)).double().eval()
    labels, found = torch.zeros(100, dtype=torch.long), []
    for guidance in (0.0, 1.0, 2.0):
        with random.region(0, "draws"):
            found.append(density.sample_as(100, labels, Drawing(guidance=guidance, sampler="ddim", steps=1)))  # type: ignore[operator]
    torch.testing.assert_close(found[2] - found[1], found[1] - found[0])
    assert float((found[1] - found[0]).abs().min()) > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.stages=[]"], "takes Real"),
        (["evaluate.sampler=ancestral"], "by ddim, heun"),
        (["model.prior.unlabelled=0.1"], "it takes none"),
        (["model.prior.steps=0"], "model.prior.steps"),
        (["model.prior.trace=trace"], "model.prior.trace"),
    ],
)
def test_bad_recipes_are_located(overrides: list[str], said: str):
    """Each fault by its key, with what fits."""
    with pytest.raises(RecipeError, match=re.escape(said)):
        compose.load_recipe("flow_matching", overrides)


SHORT = ["train.0.steps=20", "model.prior.net.width=8", "model.prior.net.blocks=1", "model.prior.steps=2"]
TOY = [*SHORT, "data={type: toy, shape: moons, train: 500, validation: 60, test: 60}", "model.stages=[standardize]"]


@pytest.mark.long
def test_an_estimate_is_marked_and_not_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A tilde before its nats, in the ledger and beside another; no gap to what is exact; the steps' error is told."""
    exact = compose.train("flow_matching", tmp_path / "exact", overrides=TOY, progress=False)
    loose = [
        compose.train(
            "flow_matching",
            tmp_path / name,
            overrides=[*TOY, "model.prior.trace=hutchinson", f"model.prior.probes={probes}"],
            progress=False,
        )
        for probes, name in enumerate(("one", "other"), 1)
    ]
    assert (exact.scores()["kind"], loose[0].scores()["kind"]) == ("exact", "estimate")
    fine = exact.scores()["fineness"]
    assert fine["examples"] == 60 and 0 < fine["mean"] <= fine["most"]
    said = _printed(render(loose[0].scores()))
    assert (
        re.search(r"-ELBO +│ +~\d+\.\d+ │ +~\d+\.\d+ │", said)
        and "an estimate: E L = log p" in said
        and "twice as many change it" in said
    )
    assert "~" not in _printed(render(exact.scores()))
    show_run(exact.path)
    assert "validation -ELBO over the training" in (shown := capsys.readouterr().out)
    assert re.search(r"first ~\d+\.\d+, best ~\d+\.\d+, last ~\d", shown)
    diff(str(loose[0].path), str(exact.path))
    assert "not ranked" in capsys.readouterr().out
    diff(str(loose[0].path), str(loose[1].path))
    assert re.search(r"-ELBO +~\d+\.\d+ +~\d+\.\d+ +~[+-]", capsys.readouterr().out)


def test_steps_are_left_as_they_were():
    """Told how fine it is, a model has the steps that it had."""
    recipe = compose.load_recipe("flow_matching", TOY)
    model, split = compose.build(recipe).eval(), recipe.data.load().validation
    prior: Any = model.prior
    before = prior.steps
    fine = fineness(model, split)
    assert fine is not None and prior.steps == before == 2
    prior.steps = 16
    finer = fineness(model, split)
    assert finer is not None and finer["most"] < fine["most"] / 100
    vae = compose.load_recipe("vae")
    assert fineness(compose.build(vae).eval(), vae.data.load().validation) is None


def _printed(what: object) -> str:
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as capture:
        console.print(what)
    return capture.get()
