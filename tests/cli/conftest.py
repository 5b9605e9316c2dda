"""Runs the command line in this process, and one short training for all tests that need a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from compose.cli import main


class Done(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


Compose = Callable[..., Done]


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Compose:
    """Calls ``compose`` with the words given."""

    def call(*words: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["compose", *map(str, words)])
        capsys.readouterr()
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        else:
            code = 0
        said = capsys.readouterr()
        return Done(code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short runs: a VAE, one with a flow prior, one on other data, a flow, whose kind is another, pixels, by label."""
    from compose.run.train import train

    folder = tmp_path_factory.mktemp("runs")
    tiny = ["model.stages.0.dim=4", "train.0.steps=20", "evaluate.samples=3"]
    flow = [
        "model.stages=[dequantize, {type: bijection, transform: affine_coupling, layers: 1}]",
        "train.0.steps=20",
        "evaluate.samples=3",
    ]
    changes = {
        "vae": tiny,
        "flow prior": [*tiny, "model.prior={type: flow, transform: affine_coupling, layers: 1}"],
        "other data": [*tiny, "data.levels=4"],
        "alone": ["model={stages: [], prior: categorical}", "train.0={steps: 20, objective: maximum_likelihood}"],
        "flow": flow,
        "pixels": [
            "model={stages: [], prior: {type: autoregressive, layers: 1, width: 8, heads: 2}}",
            "train.0={steps: 20, objective: maximum_likelihood}",
        ],
        "guided": [
            "data.labels=true",
            "model={stages: [], prior: {type: masked, layers: 1, width: 8, heads: 2, labels: true, unlabelled: 0.2}}",
            "train.0={steps: 20, objective: elbo}",
            "evaluate.samples=1",
        ],
    }
    for name, overrides in changes.items():
        train("vae", folder / name, overrides=overrides, accelerator="cpu", threads=1, progress=False)
    return {name: folder / name for name in changes}
