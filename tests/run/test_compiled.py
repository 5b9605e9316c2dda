"""Compiled trainings and samples: the numbers of uncompiled ones, and nothing lost where compiling fails."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compose.core.errors import CompileError
from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.spaces import Codes
from compose.recipe.build import build
from compose.recipe.check import load_recipe
from compose.recipe.shipped import shipped
from compose.run import compiled, stretch
from compose.run.directory import Run
from compose.run.sample import sample
from compose.run.train import resume
from tests.absent import skip_where_absent

pytestmark = pytest.mark.long


def by(backend: Any) -> Any:
    """Compiles with another backend than the one that needs a compiler."""
    return lambda model: torch.compile(model, backend=backend)


def refuse(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("out of registers\nand of patience")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Leaves out the second half of compiling, which takes long; lists the models that were to be compiled."""
    asked: list[Any] = []
    for module in (stretch, compiled):
        monkeypatch.setattr(module, "compiled", lambda model: asked.append(model) or by("eager")(model))
    monkeypatch.setattr("compose.run.sample.compiled", compiled.compiled)
    monkeypatch.setattr("compose.run.train.require_compiler", lambda device, instead: None)
    return asked


#: Sampling takes a step of a network for each code, all in one graph, and the compiler a minute; or many layers.
LONG = {
    *("ar_pixels", "pixelvae", "vqgan_photographs", "fashion/vqvae", "fashion/vqgan"),
    *("flow", "flow_augmented", "fashion/flow", "fashion/conv_ladder", "fashion/diffusion"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in shipped()]
)
def test_a_shipped_model_is_one_graph_in_training_and_in_sampling(name: str):
    skip_where_absent(name)
    model = build(load_recipe(name))
    shape = (3, *model.space.shape)
    x = torch.randint(0, 2, shape) if isinstance(model.space, Codes) else torch.randn(shape)
    trained = {"call": "meet"} if model.kind is Kind.NONE else {"call": "evaluate_terms", "mode": "one_t"}
    # What is found in steps is trained without them.
    trained = {"call": "denoising"} if model.prior.solved else trained
    # A diffusion is sampled as it is: one graph of all steps would take the compiler minutes.
    sampled = [] if _walks(model) else [({"call": "sample"}, [3])]
    for options, args in [(trained, [x]), *sampled]:
        torch._dynamo.reset()
        found = torch._dynamo.explain(model)(*args, **options)
        reasons = [str(each.reason) for each in found.break_reasons]
        assert (found.graph_count, found.graph_break_count) == (1, 0), reasons


def _walks(model: ModelDensity) -> bool:
    return any(getattr(module, "denoises", False) for module in model.modules())


def test_a_run_remembers_that_it_compiles(recipe, go, tmp_path, traced):
    plain, run = go(recipe(steps=4), tmp_path / "plain"), go(recipe(steps=4), tmp_path / "run", compile=True)
    assert plain.record["how"]["compile"] is False
    assert run.record["how"]["compile"] is True and len(traced) == 1
    check_alike(plain, run, 0)
    for name in ("model.safetensors", "scores.json"):
        (run.path / name).unlink()
    assert resume(run.path, progress=False).record["how"]["compile"] is True and len(traced) == 2
    for name in ("model.safetensors", "scores.json"):
        (run.path / name).unlink()
    other = resume(run.path, compile=False, progress=False)
    assert other.record == {**run.record, "how": {**plain.record["how"]}} and len(traced) == 2
    check_alike(plain, other, 0)


def test_without_a_compiler_nothing_is_begun(recipe, go, tmp_path, trained):
    from torch._inductor import config

    missing = {"cpp.cxx": (None, "/no/such/g++"), "force_disable_caches": True}
    torch._dynamo.reset()
    said = r"No working C\+\+ compiler .* apt install g\+\+ .* Or"
    with config.patch(missing):
        with pytest.raises(CompileError, match=rf"{said} leave --compile out"):
            go(recipe(), tmp_path / "run", compile=True)
        assert not (tmp_path / "run").exists()
        half = copytree(trained.path, tmp_path / "half")
        (half / "model.safetensors").unlink()
        with pytest.raises(CompileError, match=rf"{said} go on without: compose train --resume {half} --no-compile"):
            resume(half, compile=True)
        assert Run(half).record == trained.record


def test_where_compiling_fails_at_a_step_nothing_is_lost(recipe, go, tmp_path, traced, monkeypatch):
    monkeypatch.setattr(stretch, "compiled", by(refuse))
    path = tmp_path / "run"
    with pytest.raises(CompileError, match=rf"out of registers\. .*train --resume {path} --no-compile"):
        go(recipe(steps=4), path, compile=True)
    check_alike(go(recipe(steps=4), tmp_path / "plain"), resume(path, compile=False, progress=False), 0)


def test_no_model_is_one_too_many_to_be_compiled(recipe, monkeypatch):
    """All have one forward, of which torch would keep 8 graphs and compile no more."""
    seen: list[dict[str, Any]] = []

    def count(graph: Any, inputs: Any, config_patches: dict[str, Any], **others: Any) -> Any:
        seen.append(config_patches)
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", count)
    models = [build(recipe()) for _ in range(10)]
    for model in models:
        assert compiled.compiled(model)(2, call="sample").shape == (2, *model.space.shape)
    assert seen == [{"fallback_random": True}] * 10


def test_samples_are_those_of_the_model_uncompiled(trained, traced):
    assert torch.equal(sample(trained, 7, seed=3, compile=True), sample(trained, 7, seed=3))
    assert len(traced) == 1


def test_where_compiling_a_sampler_fails_it_is_said(trained, monkeypatch):
    monkeypatch.setattr("compose.run.sample.compiled", by(refuse))
    with pytest.raises(CompileError, match="leave --compile out"):
        sample(trained, 7, compile=True)


FLOW = {"type": "flow", "transform": "rq_coupling", "layers": 2, "hidden": 8}


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["normal", FLOW], ids=["normal", "flow"])
def test_a_compiled_training_is_the_uncompiled_one_up_to_rounding(recipe, go, tmp_path, monkeypatch, prior):
    monkeypatch.setattr(stretch, "LOG_STEPS", 1)
    made = recipe(prior=prior, steps=20, validate_every=10)
    plain, run = go(made, tmp_path / "plain"), go(made, tmp_path / "run", compile=True)
    check_alike(plain, run, 1e-5)
    drawn = [sample(plain, 500, compile=each).double() for each in (False, True)]
    # The same noise, so all but a few pixels whose draw lay on the edge are the same.
    assert float((drawn[0] != drawn[1]).double().mean()) < 1e-3


def check_alike(one: Run, two: Run, tolerance: float) -> None:
    """Log and weights."""
    logs = [[{**line, "seconds": 0} for line in run.metrics()] for run in (one, two)]
    assert len(logs[0]) == len(logs[1]) > 1
    for before, after in zip(*logs, strict=True):
        assert after == pytest.approx(before, rel=tolerance, abs=tolerance)
    first, second = (load_file(Path(run.path) / "model.safetensors") for run in (one, two))
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=10 * tolerance, atol=tolerance, msg=key)
