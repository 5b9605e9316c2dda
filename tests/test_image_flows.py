"""Flows on images: squeeze, coupling, split, augment, learned dequantisation."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import compose
from compose.core.declare import Slot
from compose.core.errors import TrainingError
from compose.core.gaussians import LOG_2PI
from compose.core.model import ModelDensity
from compose.core.spaces import Codes, Real, Space
from compose.parts.densities.model import Model
from compose.parts.stages.augment import Augment
from compose.parts.stages.coupling import FITTED, Coupling, CouplingStage
from compose.parts.stages.dequantize import Dequantize
from compose.parts.stages.split import Split
from compose.parts.stages.squeeze import Squeeze
from compose.recipe.build import build_model
from compose.recipe.check import check
from compose.testing.noise import Tape
from compose.testing.variants import shake
from compose.verification import verify

IMAGE = Real((2, 4, 4))
CONV = {"type": "conv", "channels": 4}
SCALE = [{"type": "coupling", "layers": 2, "net": CONV}, {"type": "split", "net": CONV}]
TWO_SCALES = ["dequantize", "squeeze", *SCALE, "squeeze", SCALE[0]]


def built(part: Any, space: Space, labels: Codes | None = None) -> Any:
    """The stage in float64 with shaken weights."""
    torch.manual_seed(0)
    return shake(part.build(Slot("stage", space, labels=labels)).double())


def jacobian(stage: Any, row: Tensor) -> Tensor:
    found = torch.autograd.functional.jacobian(lambda x: stage.infer(x).z, row)
    assert isinstance(found, Tensor)
    return found.reshape(stage.above.dim, stage.below.dim)


COUPLINGS = [
    Coupling(layers=3, transform=transform, mixing=mixing, actnorm=actnorm, net=compose.Conv(channels=4))
    for transform, mixing, actnorm in product(
        ("affine", "rq_spline"), ("conv1x1", "permutation", "none"), (True, False)
    )
]


@pytest.mark.parametrize("part", COUPLINGS, ids=str)
@pytest.mark.parametrize("space", [IMAGE, Real((3, 2, 2))], ids=str)
def test_the_log_det_of_a_coupling_is_that_of_its_jacobian(part: Coupling, space: Real):
    stage = built(part, space)
    x = 2 * torch.randn(3, *space.shape, dtype=torch.float64)
    step = stage.infer(x)
    for i in range(len(x)):
        wanted = torch.linalg.slogdet(jacobian(stage, x[i : i + 1])).logabsdet
        torch.testing.assert_close(step.terms["log_det"][i], wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(stage.generate(step.z), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(stage.infer(stage.generate(x)).z, x, rtol=0, atol=1e-9)


def test_a_squeeze_permutes_what_is_there():
    stage = built(Squeeze(), IMAGE)
    x = torch.arange(32.0, dtype=torch.float64).reshape(1, 2, 4, 4)
    z = stage.infer(x).z
    assert tuple(z.shape) == (1, 8, 2, 2)
    assert z[0, :4, 0, 0].tolist() == [0.0, 1.0, 4.0, 5.0]  # the upper left block of the first channel
    assert torch.equal(stage.generate(z), x)
    matrix = jacobian(stage, x)
    assert float(torch.linalg.slogdet(matrix).logabsdet) == 0.0 == float(stage.infer(x).terms["log_det"])
    assert torch.equal(matrix @ matrix.T, torch.eye(32, dtype=torch.float64))


def test_a_fresh_coupling_turns_the_channels_and_no_more():
    """Its networks say nothing yet, whatever they are, and a rotation keeps lengths."""
    torch.manual_seed(0)
    stage: Any = Coupling(layers=3, actnorm=False).build(Slot("stage", IMAGE))
    x = torch.randn(5, *IMAGE.shape)
    step = stage.infer(x)
    torch.testing.assert_close(step.z.square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))
    torch.testing.assert_close(step.terms["log_det"], torch.zeros(5), rtol=0, atol=1e-4)


def test_what_splits_off_is_scored_given_what_stays():
    stage = built(Split(net=compose.Conv(channels=4)), Real((3, 2, 2)))
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    step = stage.infer(x)
    assert torch.equal(step.z, x[:, :2])
    loc, raw = stage.net(x[:, :2]).chunk(2, 1)
    log_scale = 6 * torch.tanh(raw / 6)
    wanted = -(0.5 * ((x[:, 2:] - loc) / log_scale.exp()) ** 2 + log_scale + 0.5 * LOG_2PI).sum((1, 2, 3))
    torch.testing.assert_close(step.terms["log_likelihood"], wanted, rtol=1e-12, atol=1e-12)
    below = stage.generate(step.z)
    assert torch.equal(below[:, :2], x[:, :2]) and not torch.equal(below[:, 2:], x[:, 2:])


def test_augmented_noise_is_dropped_and_paid_for():
    stage = built(Augment(extra=3), Real((2,)))
    x = torch.randn(4, 2, dtype=torch.float64)
    step = stage.infer(x)
    assert tuple(step.z.shape) == (4, 5) and torch.equal(stage.generate(step.z), x)
    log_q = stage.posterior.log_prob(step.z[:, 2:], stage.net(x))
    torch.testing.assert_close(step.terms["minus_log_q"], -log_q, rtol=1e-12, atol=1e-12)


class TestActNorm:
    """Its start at the data."""

    def fitted(self, x: Tensor, **options: Any) -> CouplingStage:
        torch.manual_seed(0)
        stage = Coupling(layers=3, **options).build(Slot("stage", Real(tuple(x.shape[1:]))))
        assert isinstance(stage, CouplingStage)
        stage.fit(lambda: iter(x.split(100)))
        return stage

    @pytest.mark.parametrize("mixing", ["conv1x1", "permutation", "none"])
    def test_what_leaves_it_has_mean_0_and_variance_1(self, mixing: str):
        x = 3 * torch.randn(300, 4, 4, 4) @ torch.randn(4, 4) + torch.randn(4, 1, 1)
        stage = self.fitted(x, mixing=mixing)
        with torch.no_grad():
            for step, net in stage._steps(None):
                assert step.actnorm is not None
                normed, _ = step.actnorm(x)
                torch.testing.assert_close(normed.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
                torch.testing.assert_close(normed.var((0, 2, 3)), torch.ones(4), rtol=1e-3, atol=0)
                x, _ = step(x, net)

    def test_it_starts_at_the_first_items_and_reads_no_further(self):
        read = 0

        def batches() -> Any:
            nonlocal read
            while True:
                read += 1
                yield torch.randn(900, 2, 2, 2)

        stage = Coupling(layers=1).build(Slot("stage", Real((2, 2, 2))))
        assert isinstance(stage, CouplingStage)
        stage.fit(batches)
        assert read == math.ceil(FITTED / 900)

    def test_a_channel_that_never_varies_is_scaled_by_a_thousand(self):
        stage = self.fitted(torch.cat([torch.randn(50, 1, 2, 2), torch.full((50, 1, 2, 2), 7.0)], 1))
        (first, _), *_ = stage._steps(None)
        assert first.actnorm is not None
        assert first.actnorm.log_scale[1].exp().item() == pytest.approx(1000)
        assert first.actnorm.shift[1].item() == -7

    def test_a_batch_of_one_is_refused_and_located(self):
        one: Any = ((torch.zeros(1, 1, 4, 4, dtype=torch.long), None),)
        model = build_model(Model.model_validate({"stages": TWO_SCALES}), Codes((1, 4, 4), 3))
        with pytest.raises(TrainingError, match=r"model\.stages\.2: actnorm .* a batch of 1 came, wanted at least 2"):
            model.fit_parts(lambda: one)
        without = {"stages": ["dequantize", "squeeze", {"type": "coupling", "actnorm": False}]}
        assert build_model(Model.model_validate(without), Codes((1, 4, 4), 3)).fit_parts(lambda: one) == []
        inner = {"prior": {"type": "model", "stages": ["squeeze", "coupling"]}, "stages": ["dequantize"]}
        nested = build_model(Model.model_validate(inner), Codes((1, 4, 4), 3))
        with pytest.raises(TrainingError, match=r"model\.prior\.stages\.1: actnorm"):
            nested.fit_parts(lambda: one)

    def test_a_coupling_that_takes_labels_starts_without_one(self):
        labels = Codes((), 3, ordered=False)
        stage = Coupling(layers=2).build(Slot("stage", Real((2, 2, 2)), labels=labels))
        assert isinstance(stage, CouplingStage)
        stage.fit(lambda: iter([torch.randn(20, 2, 2, 2)]))
        assert bool(torch.stack([each.isfinite().all() for each in stage.parameters()]).all())


class TestDequantisation:
    """Learned noise."""

    def test_a_learned_uniform_is_the_uniform_one(self):
        """With the logit of a uniform for its noise, whatever the net says, L is that of uniform noise."""
        space = Codes((2,), 5)
        stage: Any = Dequantize(noise=compose.Normal()).build(Slot("stage", space))
        plain: Any = Dequantize().build(Slot("stage", space))
        k, tape = torch.randint(5, (64, 2)), Tape()
        with tape.record():
            wanted = plain.infer(k)
        ((_, u),) = tape.draws

        class Logistic(compose.Density):
            """Draws the same u, as a logit."""

            def rsample_and_log_prob(self, c: Tensor) -> tuple[Tensor, Tensor]:
                v = torch.logit(u)
                return v, (torch.nn.functional.logsigmoid(v) + torch.nn.functional.logsigmoid(-v)).sum(1)

        stage.noise = Logistic(Real((2,)))
        came = stage.infer(k)
        torch.testing.assert_close(came.z, wanted.z, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(came.terms["minus_log_q"], torch.zeros(64), rtol=0, atol=1e-4)
        torch.testing.assert_close(came.terms["log_det"], wanted.terms["log_det"], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("far", [-200.0, 200.0])
    def test_far_out_nothing_is_lost(self, far: float):
        """Float32 has no sigmoid(200) below 1, and none of -200 above 0."""
        part = Dequantize(noise=compose.Normal(), encoder=compose.MLP(hidden=[]))
        stage: Any = part.build(Slot("stage", Codes((1,), 3)))
        with torch.no_grad():
            stage.encoder.layers[0].bias.copy_(torch.tensor([far, -5.0]))
        x = torch.arange(3)[:, None].repeat(20, 1)
        step = stage.infer(x)
        total = step.terms["minus_log_q"] + step.terms["log_det"]
        assert bool(step.z.isfinite().all() and total.isfinite().all())
        total.sum().backward()
        assert all(bool(each.grad.isfinite().all()) for each in stage.parameters() if each.grad is not None)


@pytest.mark.long
def test_two_scales_and_more_channels_sum_to_one():
    augmented = [*TWO_SCALES[:2], {"type": "augment", "net": CONV}, *TWO_SCALES[2:]]
    for stages in (TWO_SCALES, augmented):
        report = verify(Model.model_validate({"stages": stages}), Codes((1, 4, 4), 5))
        assert report.held, report.failed
        assert all(each.verdict == "held" for found in report.findings.values() for each in found)
        assert "on Codes(1x4x4, size 3, ordered); where all data are summed over" in report.shrunk
        assert f"without stages.{len(stages) - 2} (squeeze), which fit on nothing so small" in report.shrunk


def test_with_an_exact_density_nothing_is_drawn_on_the_way_up():
    stages = ["squeeze", *SCALE]
    model = build_model(Model.model_validate({"stages": stages}), Real((1, 4, 4)))
    assert model.kind is compose.Kind.EXACT
    x = torch.randn(3, 1, 4, 4)
    assert torch.equal(model.log_prob(x), model.log_prob(x))
    weight = Model.model_validate({"stages": ["squeeze", "augment", *SCALE]})
    assert build_model(weight, Real((1, 4, 4))).kind is compose.Kind.WEIGHT


def test_a_class_is_heard_by_every_network():
    labels = Codes((), 3, ordered=False)
    stages = ["dequantize", "squeeze", {"type": "augment", "net": CONV}, *SCALE]
    model = build_model(Model.model_validate({"stages": stages}), Codes((1, 4, 4), 3), labels)
    assert isinstance(model, ModelDensity)
    shake(model)
    x, tape = torch.randint(3, (4, 1, 4, 4)), Tape()
    ledgers = []
    for label in range(3):
        with torch.no_grad(), tape.run():
            ledgers.append(model.evaluate_terms(x, torch.full((4,), label)).terms)
    for term in ("z3.minus_log_q", "z4.log_det", "z4.log_likelihood"):
        assert not torch.equal(ledgers[0][term], ledgers[1][term])
        assert not torch.equal(ledgers[1][term], ledgers[2][term])


INEXACT = "{type: model, stages: [{type: latent, likelihood: normal}]}"
ODD = "data: {type: digits}\nmodel: {stages: [dequantize, %s]}\ntrain: [{steps: 1}]\n"


@pytest.mark.parametrize(
    ("stages", "at", "says"),
    [
        ("squeeze, squeeze, squeeze, squeeze", 4, "stage 'squeeze' gives Real(64x1x1), 1x1 pixels, wanted even sides"),
        ("{type: latent, dim: 6, likelihood: normal}, squeeze", 2, "folds images, channels x height x width, but"),
        ("{type: latent, dim: 6, likelihood: normal}, coupling", 2, "'bijection' couples the numbers of a vector"),
        ("coupling", 1, "Real(1x8x8), a single channel; a stage 'squeeze' before it gives 4"),
        ("split", 1, "Real(1x8x8), a single channel; a stage 'squeeze' before it gives 4"),
        ("{type: latent, dim: 1, likelihood: normal}, split", 2, "Real(1), a single number"),
        ("{type: augment, posterior: mixture}", 1, "must carry a pathwise gradient"),
        (f"{{type: augment, posterior: {INEXACT}}}", 1, "must be exact"),
        ("{type: split, density: bernoulli}", 1, "'bernoulli' takes Codes, but stage 'split' leaves Real(1x8x8)"),
    ],
)
def test_what_does_not_fit_is_said_where_it_stands(tmp_path: Path, stages: str, at: int, says: str):
    recipe = tmp_path / "bad.yaml"
    recipe.write_text(ODD % stages)
    faults = [fault for fault in check(recipe).faults if fault.path.startswith(f"model.stages.{at}")]
    assert faults and says in " ".join(fault.message for fault in faults)
    assert all(fault.where.startswith(f"{recipe}:2:") for fault in faults)


@pytest.mark.parametrize("name", ["squeeze", "coupling", "split", "augment"])
def test_codes_are_to_be_dequantised_first(tmp_path: Path, name: str):
    recipe = tmp_path / "codes.yaml"
    recipe.write_text(f"data: digits\nmodel: {{stages: [{name}]}}\ntrain: [{{objective: elbo, steps: 1}}]\n")
    (fault, *_) = check(recipe).faults
    assert fault.path == "model.stages.0" and "a stage 'dequantize' before it gives Real" in fault.message
    assert "dequantize" in fault.hint


@pytest.mark.parametrize(
    ("noise", "at", "says"),
    [
        ("bernoulli", "model.stages.0.noise", "'bernoulli' takes Codes"),
        ("mixture", "model.stages.0.noise", "a noise must carry a pathwise gradient"),
        (INEXACT, "model.stages.0.noise", "a noise enters the bound with a minus sign"),
        ("norml", "model.stages.0.noise", "there is no density called 'norml'"),
        ("{type: normal, width: 3}", "model.stages.0.noise.width", "'width' is no option of 'normal'"),
        ("3", "model.stages.0.noise", "the number 3 came, wanted a part (density)"),
    ],
)
def test_a_noise_that_will_not_do_is_refused(tmp_path: Path, noise: str, at: str, says: str):
    recipe = tmp_path / "noise.yaml"
    stage = f"{{type: dequantize, noise: {noise}}}"
    recipe.write_text(f"data: digits\nmodel: {{stages: [{stage}]}}\ntrain: [{{objective: elbo, steps: 1}}]\n")
    faults = check(recipe).faults
    assert [fault.path for fault in faults] == [at]
    assert says in faults[0].message


def test_no_noise_is_uniform_noise(tmp_path: Path):
    recipe = tmp_path / "uniform.yaml"
    recipe.write_text(
        "data: digits\nmodel: {stages: [{type: dequantize, noise: null}]}\ntrain: [{objective: elbo, steps: 1}]\n"
    )
    assert not check(recipe).faults


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_learned_noise_stays_in_its_cell_in_whatever_precision_its_net_is(precision: torch.dtype):
    torch.manual_seed(0)
    stage: Any = Dequantize.model_validate({"noise": "normal"}).build(Slot("stage", Codes((1, 8, 8), 256)))
    x = torch.randint(256, (50, 1, 8, 8))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        step = stage.infer(x)
    assert all(term.dtype == torch.float32 for term in (step.z, *step.terms.values()))
    assert float((stage.generate(step.z) == x).float().mean()) > 0.99
