"""The public names: lazy, complete, and enough to build a model by hand."""

from __future__ import annotations

import importlib
import subprocess
import sys
from time import perf_counter

import pytest
import torch

import compose


def _seconds(code: str) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return perf_counter() - start


def test_importing_brings_no_torch_and_is_quick():
    heavy = "torch", "numpy", "pydantic", "typer", "rich", "ruamel"
    subprocess.run(
        [sys.executable, "-c", f"import sys, compose; assert not set(sys.modules) & {set(heavy)}"], check=True
    )
    # The least of each: what other processes take of the machine only adds. It takes 0.02.
    plain, imported = ([_seconds(code) for _ in range(7)] for code in ("pass", "import compose"))
    assert min(imported) - min(plain) < 0.2


def test_every_public_name_is_there_and_only_once():
    assert sorted(compose.__all__) == sorted(compose._HOME)
    assert set(compose.__all__) <= set(dir(compose))
    for name, home in compose._HOME.items():
        assert getattr(compose, name) is getattr(importlib.import_module(home), name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Flows'"):
        _ = compose.Flows  # type: ignore[attr-defined]


def test_by_hand():
    model = compose.Model(
        stages=[compose.Latent(dim=16, encoder=compose.MLP(hidden=[256]))],
        prior=compose.Flow(layers=6),
    )
    phase = compose.Phase(objective=compose.ELBO(), steps=100, optimizer=compose.Optimizer(lr=1e-3))  # type: ignore[call-arg]
    recipe = compose.Recipe(data=compose.Digits(), model=model, train=[phase])
    built = compose.build(recipe)
    x = torch.zeros(2, 1, 8, 8, dtype=torch.long)
    assert built.log_prob(x).shape == (2,)
    assert (built.space, built.kind) == (compose.Codes((1, 8, 8), 17), compose.Kind.WEIGHT)
    assert [fit.name for fit in compose.fits(recipe, "model.prior")] == [
        "normal",
        "mixture",
        "vamp",
        "flow",
        "diffusion",
        "flow_matching",
        "model",
    ]


def test_by_hand_with_a_fault():
    recipe = compose.Recipe(
        data=compose.Digits(),
        model=compose.Model(stages=[compose.Bijection()], prior=compose.Bernoulli()),
        train=[compose.Phase(steps=1)],  # type: ignore[call-arg]
    )
    with pytest.raises(compose.RecipeError) as caught:
        compose.build(recipe)
    assert [fault.path for fault in caught.value.faults] == ["model.stages.0", "model.prior"]
