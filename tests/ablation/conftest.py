"""Ablations of a small VAE of the digits, whose cells take a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compose.ablation.results import Study
from tests.ablation.small import go, small

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the file of a small ablation; its axes, seeds, budget and question may be given."""
    return lambda **said: small(tmp_path, **said)


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished ablation of two priors and two seeds; to be read only."""
    folder = tmp_path_factory.mktemp("ablation")
    return go(small(folder), folder / "out")
