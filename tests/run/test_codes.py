"""Training over codes: two phases, codebooks that follow, what is said of their use."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compose.core import registry
from compose.core.errors import RecipeError, RunError, SpaceError
from compose.recipe.build import build
from compose.recipe.check import load_recipe
from compose.recipe.recipe import Recipe
from compose.run import state
from compose.run.directory import Run
from compose.run.sample import complete, images
from compose.run.stretch import Stretch
from compose.run.train import resume
from tests.run.test_devices import both, check_equal

pytestmark = pytest.mark.long

SMALL = [
    "model.stages.0.factor=2",
    "model.stages.0.quantizer.size=64",
    "model.stages.0.encoder.hidden=[32]",
    "model.stages.0.decoder.hidden=[32]",
    "model.prior={type: autoregressive, layers: 1, width: 16, heads: 2}",
    "train.0.steps=30",
    "train.1.steps=30",
    "evaluate.samples=2",
]


def small(*changes: str) -> Recipe:
    return load_recipe("vqvae", [*SMALL, *changes])


@pytest.fixture(scope="module")
def trained(go, tmp_path_factory) -> Run:
    return go(small(), tmp_path_factory.mktemp("codes") / "run")


def test_each_phase_trains_its_own_part(trained):
    first, last = (load_file(trained.path / f"best-{i}.safetensors") for i in (0, 1))
    moved = {name for name, value in last.items() if not torch.equal(value, first[name])}
    assert moved and all(name.startswith("prior.") for name in moved), "a frozen codebook does not follow"
    assert {"stages.0.quantizer.codebook", "stages.0.quantizer.use"} <= first.keys()


def test_each_phase_is_judged_by_what_it_trains(trained):
    lines = trained.metrics()
    judged = [{name for name in line if name.startswith("validation")} for line in lines]
    phases = [{line["phase"] for line, names in zip(lines, judged, strict=True) if name in names} for name in NAMES]
    assert phases == [{0}, {1}]
    logged = [line for line in lines if "loss" in line]
    assert "z1.commitment" in logged[0] and "rate z1" not in logged[0] and "rate z1" in logged[-1]


NAMES = ("validation distortion", "validation -ELBO")


def test_the_bound_has_two_parts(trained):
    test = trained.scores()["splits"]["test"]
    assert trained.scores()["kind"] == "subweight"
    assert list(test["terms"]) == ["x.log_likelihood", "z1.minus_log_q", "z1.log_prior"]
    assert test["terms"]["z1.minus_log_q"] == 0
    assert test["views"]["rate z1"] == pytest.approx(-test["terms"]["z1.log_prior"])
    assert test["-ELBO"] == pytest.approx(test["NLL"]), "codes are not drawn, so further draws add nothing"


def test_the_use_of_codes_is_told(trained):
    (record,) = trained.scores()["health"]
    assert record["codes"] == 64 and 1 <= record["perplexity"] <= record["used"] <= 64
    assert ("warning" in record) == (record["used"] < 32)


def test_completions_keep_what_is_known_and_see_nothing_else(trained):
    x = trained.recipe.data.load().test.x[:6].long()
    filled = complete(trained, x, 4, seed=3)
    assert torch.equal(filled[:, :, :4], x[:, :, :4]) and not torch.equal(filled[:, :, 4:], x[:, :, 4:])
    other = torch.cat([x[:, :, :4], x.flip(0)[:, :, 4:]], 2)
    assert torch.equal(complete(trained, other, 4, seed=3), filled)
    assert torch.equal(complete(trained, x, 8), x)
    trained.model().space.check_values(complete(trained, x, 0))


def test_a_codebook_that_collapsed_is_told_with_the_line_to_change(go, tmp_path):
    run = go(small("model.stages.0.quantizer={type: vq, size: 512, dim: 16, update: gradient}"), tmp_path / "run")
    (record,) = run.scores()["health"]
    assert "codebook collapse at z1" in record["warning"] and "update: ema" in record["warning"]
    assert "recipe.yaml:" in record["warning"]


def test_each_residual_level_is_told(go, tmp_path):
    quantizer = "{type: residual, depth: 2, quantizer: {type: fsq, levels: [4, 4]}}"
    run = go(small(f"model.stages.0.quantizer={quantizer}"), tmp_path / "run")
    assert [(record["edge"], record["codes"]) for record in run.scores()["health"]] == [("z1.1", 16), ("z1.2", 16)]
    assert run.model().prior.space.shape == (2, 4, 4)


@pytest.mark.parametrize("quantizer", ["vq", pytest.param("lfq", marks=pytest.mark.slow)])
def test_on_two_devices(quantizer, tmp_path):
    """Means and revived entries are those of the whole batch; in doubles, so that no tie is broken by rounding."""
    options: dict[str, Any] = {"vq": "{type: vq, size: 64, dim: 16, decay: 0.5}", "lfq": "{type: lfq, bits: 6}"}
    short = ["train.0.steps=20", "train.0.validate_every=10", "train.1.steps=20", "train.1.validate_every=10"]
    recipe = small(f"model.stages.0.quantizer={options[quantizer]}", *short)
    check_equal(*both(recipe, tmp_path, precision="64-true"))


def test_a_resumed_run_ends_as_if_it_had_not_been_stopped(trained, go, tmp_path, monkeypatch):
    validate = Stretch._validate

    def stopped(self: Stretch) -> None:
        if self.index == 0 and self.at["step"] > 15:
            raise KeyboardInterrupt
        validate(self)

    with monkeypatch.context() as patch:
        patch.setattr(Stretch, "_validate", stopped)
        with pytest.raises(KeyboardInterrupt):
            go(small(), tmp_path / "run")
    again = resume(tmp_path / "run", progress=False)
    whole, resumed = (load_file(run.path / "model.safetensors") for run in (trained, again))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_trained_together_the_rate_leaves_the_encoder_alone(go, tmp_path):
    """One phase for both: the autoencoder learns what it would learn without its prior."""
    ends = []
    for objective, trains in (("elbo", "[model]"), ("reconstruction", "[model.stages.0]")):
        phase = f"train=[{{trains: {trains}, objective: {objective}, steps: 20, batch_size: 50}}]"
        recipe = load_recipe("vqvae", [*SMALL[:5], phase])
        ends.append(load_file(go(recipe, tmp_path / objective).path / "last.safetensors"))
    together, alone = ({k: v for k, v in end.items() if k.startswith("model/stages.0.")} for end in ends)
    assert all(torch.equal(value, alone[name]) for name, value in together.items())


def test_what_does_not_fit_on_codes_is_located():
    with pytest.raises(RecipeError) as error:
        small("model.prior=normal")
    said = str(error.value)
    assert "'normal' takes Real, but stage 'codes' gives Codes(4x4, size 64, unordered)" in said
    assert "Fits here:" in said and "autoregressive" in said and "categorical" in said
    with pytest.raises(RecipeError, match="is one of greater depth"):
        small("model.stages.0.quantizer={type: residual, quantizer: {type: residual}}")
    with pytest.raises(RecipeError, match="no quantizer called 'vqq'"):
        small("model.stages.0.quantizer=vqq")


@pytest.mark.parametrize("file", ["model.safetensors", "last.safetensors"])
def test_weights_of_another_codebook_are_refused_and_kept(trained, tmp_path, file):
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))
    text = (run.path / "recipe.yaml").read_text()
    assert "size: 64" in text
    (run.path / "recipe.yaml").write_text(text.replace("size: 64", "size: 32"))
    before = (run.path / file).read_bytes()
    with pytest.raises(RunError, match=r"another model than the recipe's: prior.codes.weight is 64x16 there and 32x16"):
        Run(run.path).model() if file == "model.safetensors" else _gone_on_with(Run(run.path))
    assert (run.path / file).read_bytes() == before


def _gone_on_with(run: Run) -> None:
    model = build(run.recipe)
    state.restore(run.path / "last.safetensors", {"model": model}, {})


def test_weights_that_were_cut_off_are_refused(trained, tmp_path):
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))
    (run.path / "model.safetensors").write_bytes((run.path / "model.safetensors").read_bytes()[:500])
    with pytest.raises(RunError, match=r"model.safetensors cannot be read as weights"):
        run.model()


def test_what_a_perceptual_distance_looks_at_has_layers_and_any_output(go, tmp_path):
    file = tmp_path / "looks.py"
    text = "import compose\nfrom torch import nn\n"
    for name, net in (("no_layer", "nn.Flatten()"), ("ten", "nn.Sequential(nn.Flatten(), nn.Linear(64, 10))")):
        text += f"@compose.module('{name}')\ndef {name}(takes, gives):\n    return {net}\n"
    file.write_text(text)
    registry.load_plugin(file)

    def seen_by(name: str) -> str:
        return f"train.0.objective={{type: perceptual, network: {{type: wrap, module: {name}}}}}"

    with pytest.raises(RecipeError, match="network: 'perceptual' compares what the layers of its network give"):
        small(seen_by("no_layer"))
    assert go(small(seen_by("ten")), tmp_path / "run").finished


def test_images_of_a_split_are_completed_as_what_they_are(go, tmp_path):
    by_class = "model.prior={type: autoregressive, layers: 1, width: 16, heads: 2, labels: true}"
    run = go(small("data.labels=true", by_class), tmp_path / "run")
    x, y = images(run, "test", 6)
    assert y is not None and y.tolist() == run.recipe.data.load().test.y[:6].tolist()
    as_three = complete(run, x.long(), 4, label=3)
    assert torch.equal(complete(run, x.long(), 4, label=torch.full((6,), 3)), as_three)
    with pytest.raises(SpaceError, match="5 labels came with 6 images"):
        complete(run, x.long(), 4, label=y[:5])
    with pytest.raises(SpaceError, match="label holds values from 11 to 11"):
        complete(run, x.long(), 4, label=torch.full((6,), 11))
