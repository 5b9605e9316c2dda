"""check, fits, equation, schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from torch import nn

from compose.core.declare import in_recipe
from compose.recipe.check import check, check_tree
from compose.recipe.fits import survey
from compose.recipe.read import read_tree
from compose.recipe.shipped import shipped

FAULTY = """data: digits
model:
  stages:
    - {type: latent, dim: -3, likelihoud: categorical}
  prior: bernoulli
train: [{steps: 10}]
"""


@pytest.mark.parametrize("name", shipped())
def test_check_draws_every_shipped_recipe(compose, name: str):
    checked = check(name)
    if any(fault.path == "data" for fault in checked.faults):
        assert compose("check", name).code == 1
        return
    done = compose("check", name)
    assert (done.code, done.err) == (0, "")
    for key, part, _ in checked.recipe.model.walk(checked.slot, "model"):
        path = in_recipe(key)
        assert key == "model" or any(line.endswith(path) and part.type in line for line in done.out.splitlines()), key
    assert str(checked.space) in done.out
    assert f"{checked.recipe.model.kind(checked.slot).promise}\n" in done.out


def test_check_prints_every_fault_on_stderr(compose, tmp_path: Path):
    file = tmp_path / "faulty.yaml"
    file.write_text(FAULTY)
    done = compose("check", file)
    assert (done.code, done.out) == (1, "")
    for where in (
        f"{file}:4:22 model.stages.0.dim",
        f"{file}:4:31 model.stages.0.likelihoud",
        f"{file}:5:3 model.prior",
    ):
        assert where in done.err


def test_check_takes_overrides_anywhere_among_the_options(compose):
    done = compose("check", "vae", "--cost", "model.prior=mixture", "model.stages.0.dim=5")
    assert done.code == 0
    assert "Real(5)" in done.out and "mixture" in done.out


def test_check_allocates_no_parameter(compose):
    real: list[nn.Module] = []

    def note(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and parameter.device.type != "meta":
            real.append(module)

    handle = nn.modules.module.register_module_parameter_registration_hook(note)
    try:
        assert compose("check", "vae_flow_prior").code == 0
    finally:
        handle.remove()
    assert real == []


def test_check_with_cost_counts_each_part(compose):
    done = compose("check", "vae", "--cost", "model.stages.0.encoder.hidden=[32]", "model.stages.0.dim=4")
    (encoder,) = (line for line in done.out.splitlines() if "model.stages.0.encoder" in line)
    assert encoder.split()[-2:] == [f"{64 * 32 + 32 + 32 * 8 + 8:,}", f"{2 * (64 * 32 + 32 * 8):,}"]


def test_check_labels(compose):
    done = compose("check", "vae", "data.labels=true")
    assert "the class label" in done.out


@pytest.mark.parametrize(
    "path", ["model.prior", "model.stages.0", "model.stages.0.encoder", "train.0.objective", "data"]
)
def test_fits_lists_what_passes_as_an_override(compose, path: str):
    done = compose("fits", "vae", "--at", path, "--why")
    assert done.code == 0
    fitting, _, others = done.out.partition("\ndoes not")
    for fit in survey("vae", path):
        assert any(line.startswith(f"{fit.name} ") for line in (fitting if fit.fits else others).splitlines()), fit
        assert bool(check_tree(read_tree("vae", [f"{path}={fit.name}"])).faults) is not fit.fits


def test_fits_without_why_lists_only_what_fits(compose):
    done = compose("fits", "vae", "model.stages.0.dim=1", "--at", "model.prior")
    assert "normal" in done.out
    assert "bernoulli" not in done.out
    assert "\nflow " not in done.out


def test_fits_where_nothing_does(compose):
    nested = "model.prior={type: model, stages: [bijection]}"
    done = compose("fits", "vae", nested, "train.0.trains=[model.prior.stages.0]", "--at", "model.prior")
    assert (done.code, done.out) == (0, "Nothing fits at model.prior with its defaults.\n")


def test_equation(compose):
    done = compose("equation", "vae", "model.prior=vamp")
    lines = done.out.splitlines()
    assert lines[0].endswith("- log q_normal(z1 | x) + log p_vamp(z1)")
    assert any(r"\log p_{\mathrm{vamp}}(z_{1})" in line for line in lines)
    assert any(line.split()[:1] == ["z1.log_prior"] and "model.prior" in line for line in lines)
    assert "rate z1 = -(z1.minus_log_q + z1.log_prior)" in lines
    assert "distortion + rate z1 = -L" in lines
    assert "nats" not in done.out


def test_equation_of_a_model_inside(compose):
    done = compose("equation", "vae", "model.prior={type: model, stages: [bijection]}")
    assert "\n  where log p_model(z1) = log|det dv1/dz1| + log p_normal(v1)\n" in done.out


@pytest.mark.long
@pytest.mark.parametrize("how", ["as the recipe", "by option"])
def test_equation_with_the_nats_of_a_run(compose, runs: dict[str, Path], how: str):
    run = runs["flow prior"]
    done = (
        compose("equation", run) if how == "as the recipe" else compose("equation", run / "recipe.yaml", "--run", run)
    )
    assert done.code == 0, done.err
    scores = json.loads((run / "scores.json").read_text())["splits"]["test"]
    for name, nats in scores["terms"].items():
        assert any(line.startswith(name) and line.endswith(f" {nats:.2f}") for line in done.out.splitlines()), name
    assert f"distortion + rate z1 = -L = {scores['-ELBO']:.2f}" in done.out
    assert f"= {scores['views']['rate z1']:.2f}" in done.out


def test_equation_refuses_the_run_of_another_recipe(compose, runs: dict[str, Path]):
    done = compose("equation", "vae", "--run", runs["flow"])
    assert done.code == 1 and "is no run of this recipe" in done.err
    done = compose("equation", runs["vae"], "--split", "train")
    assert done.code == 1 and "there is: validation, test" in done.err


def test_schema(compose, tmp_path: Path):
    printed = json.loads(compose("schema").out)
    Draft202012Validator.check_schema(printed)
    done = compose("schema", "--out", tmp_path / "schema.json")
    assert str(tmp_path / "schema.json") in done.out
    assert json.loads((tmp_path / "schema.json").read_text()) == printed


def test_schema_knows_a_plugin(compose, tmp_path: Path):
    assert compose("new", "part", "fresh", "--role", "net", "--out", tmp_path / "fresh.py").code == 0
    printed = json.loads(compose("schema", "--plugin", tmp_path / "fresh.py").out)
    assert "net.fresh" in printed["$defs"]
    done = compose("check", "vae", "model.stages.0.encoder=fresh", "--plugin", tmp_path / "fresh.py")
    assert done.code == 0 and "fresh" in done.out
