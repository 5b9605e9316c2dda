"""A cluster of two nodes on this machine, one of which is killed in the middle: nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compose.ablation import on_ray
from compose.ablation.folder import Folder
from compose.ablation.results import Study
from compose.core.errors import AblationError
from tests.ablation.small import go, small
from tests.ablation.test_execute import numbers


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without cores, and two nodes of one core each."""
    ray = pytest.importorskip("ray")
    utils = pytest.importorskip("ray.cluster_utils")
    made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AblationError, match=r"pip install 'compose-models\[ray\]'"):
        go(small(tmp_path), tmp_path / "out", ray="local")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_that_is_killed_midway_loses_nothing(cluster: Any, done: Study, tmp_path: Path):
    out, said = tmp_path / "out", []

    def kill() -> None:
        while not (out / "plan.json").is_file() or len(list((out / "cells").glob("*.beat"))) < 2:
            time.sleep(0.05)
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    found = go(small(tmp_path), out, ray=cluster.address, tell=said.append)
    killer.join()
    assert not found.missing
    assert not any(outcome.failed for outcome in found.outcomes)
    assert any("was lost" in text for text in said)
    assert numbers(found.folder) == numbers(done.folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cell_that_no_node_has_room_for_is_said_at_once(cluster: Any, done: Study):
    """Two nodes of one core each are no machine of two."""
    with pytest.raises(AblationError, match="no machine of the cluster has 2 cores"):
        on_ray.on_cluster(Folder(done.folder.path), cluster.address, lambda text: None, {}, cpus=2)
