"""A scaffold of every role keeps its contracts, checks, and trains as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import compose
from compose.core import registry
from compose.core.errors import ComposeError
from compose.recipe.build import build_model
from compose.recipe.check import Checked, check_tree
from compose.recipe.scaffold import ROLES, scaffold
from compose.recipe.tree import Tree
from compose.testing import check_part, contracts

SMALL = {"type": "latent", "dim": 4}
USES: dict[str, dict[str, Any]] = {
    "density": {"model": {"stages": [{**SMALL, "posterior": "fresh_density"}], "prior": "fresh_density"}},
    "stage": {"model": {"stages": [SMALL, "fresh_stage"]}},
    "net": {"model": {"stages": [{**SMALL, "encoder": "fresh_net", "decoder": {"type": "fresh_net", "width": 8}}]}},
    "quantizer": {"model": {"stages": [{"type": "codes", "quantizer": "fresh_quantizer"}], "prior": "categorical"}},
    "objective": {"model": {"stages": [SMALL]}, "train": [{"steps": 3, "objective": "fresh_objective"}]},
}


@pytest.fixture(scope="module", params=ROLES)
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """A role, and the two files of a new part of it, which is loaded."""
    role: str = request.param
    plugin, test = scaffold(f"fresh_{role}", role, tmp_path_factory.mktemp("plugin") / "parts" / "mine.py")
    registry.load_plugin(plugin)
    return role, plugin, test


@pytest.mark.long
def test_it_keeps_the_contracts(fresh: tuple[str, Path, Path]):
    role, _, _ = fresh
    assert sum(check_part(registry.load(role, f"fresh_{role}")).values()) > 10


@pytest.mark.long
def test_its_own_test_runs_every_contract(fresh: tuple[str, Path, Path]):
    """Of one role the test is run, of the others only collected: the contracts themselves are tried above."""
    role, _, test = fresh
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(test.parent), str(test)]
    command += [] if role == "density" else ["--collect-only"]
    env = {**os.environ, "PYTHONPATH": str(Path(compose.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=test.parent, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    said = "passed" if role == "density" else "tests collected"
    assert f"{len(contracts(role))} {said}" in done.stdout


@pytest.mark.long
def test_it_checks_and_trains(fresh: tuple[str, Path, Path]):
    role, _, _ = fresh
    checked = check_tree(Tree({"data": "digits", "train": [{"steps": 3}], **USES[role]}, {}, ""))
    assert checked.faults == []
    before, after = _three_steps(checked)
    assert all(torch.isfinite(torch.tensor([before, after])))
    assert after < before


def _three_steps(checked: Checked) -> tuple[float, float]:
    """The loss before and after three steps on the same few examples."""
    torch.manual_seed(0)
    model = build_model(checked.recipe.model, checked.space)
    term = checked.recipe.train[0].players[0].objectives[0]
    objective: Any = term.objective.build(checked.slot)
    x = torch.randint(0, 17, (64, 1, 8, 8))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for step in range(4):
        loss = objective(model, x, None, step).value
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[0], losses[-1]


@pytest.mark.long
def test_its_text_is_clean(fresh: tuple[str, Path, Path]):
    _, plugin, test = fresh
    for file in (plugin, test):
        text = file.read_text()
        assert "$" not in text
        assert max(map(len, text.splitlines())) <= 120
        assert text.endswith("\n")


@pytest.mark.parametrize(
    ("name", "role", "message"),
    [
        ("Mine", "density", "cannot name a part"),
        ("my-part", "density", "cannot name a part"),
        ("class", "net", "cannot name a part"),
        ("flow", "density", "already"),
        ("mine", "data", "wanted one of density, stage, net, quantizer, objective"),
    ],
)
def test_a_bad_name_or_role_is_refused(name: str, role: str, message: str, tmp_path: Path):
    with pytest.raises(ComposeError, match=message):
        scaffold(name, role, tmp_path / "mine.py")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path):
    (tmp_path / "test_mine.py").write_text("mine")
    with pytest.raises(ComposeError, match="exists already"):
        scaffold("mine", "net", tmp_path / "mine.py")
    assert [file.name for file in tmp_path.iterdir()] == ["test_mine.py"]
    with pytest.raises(ComposeError, match=r"does not end in \.py"):
        scaffold("mine", "net", tmp_path / "mine.txt")
