"""An ablation that is killed again and again comes to the same table; and its memory does not grow with its cells."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compose.ablation.folder import Folder
from compose.ablation.results import Study
from tests.ablation.small import small
from tests.ablation.test_execute import numbers

KILLS = 20
CLOCK = ("seconds a sample, s", "training s")


def table(folder: Path) -> list[dict[str, str]]:
    """The table less what a clock says."""
    rows = csv.DictReader((folder / "table.csv").open())
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def start(file: Path, out: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "compose", "ablate", str(file), "--out", str(out), "-q", "--accelerator", "cpu"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _wait_for_plan(out: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits until it has begun to work; what comes before is much alike."""
    plan, began = out / "plan.json", time.time()
    while not (plan.is_file() and plan.stat().st_mtime > began):
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_20_moments_it_loses_nothing(done: Study, tmp_path: Path):
    file, out = small(tmp_path), tmp_path / "out"
    draw, reached = random.Random(0), []
    while len(reached) < KILLS:
        process = start(file, out)
        _wait_for_plan(out, process)
        try:
            process.wait(draw.uniform(0.0, 8.0))
            # It came to its end between two kills: begin it anew, so that every kill meets it at work.
            assert process.returncode == 0
            for record in out.glob("cells/*.json"):
                record.unlink()
                for name in ("scores.json", "model.safetensors"):
                    (out / "cells" / record.stem / name).unlink()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            reached.append(sum(Folder(out).done(address) for address, _, _ in Folder(out).plan.cells))
    last = start(file, out)
    _, errors = last.communicate()
    assert last.returncode == 0, errors.decode()
    assert len(set(reached)) > 1, f"every kill met it at the same place: {reached}"
    assert numbers(Folder(out)) == numbers(done.folder)
    assert table(out) == table(done.folder.path)
    assert not list(out.glob("cells/*.broken-*"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_is_flat_over_fifty_cells(tmp_path: Path):
    file = small(tmp_path, axes="[{at: model.prior, values: [normal, mixture]}]", seeds="25", budget="{steps: 2}")
    code = (
        "import os, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from compose.ablation import execute\n"
        "from compose.ablation.study import ablate\n"
        "finish, seen = execute.finish, []\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGESIZE') / 2**20\n"
        "def spy(*args):\n"
        "    came = finish(*args)\n"
        "    seen.append(resident())\n"
        "    return came\n"
        "execute.finish = spy\n"
        f"ablate({str(file)!r}, {str(tmp_path / 'out')!r}, progress=False, accelerator='cpu', threads=1)\n"
        "print(seen[9], seen[-1], len(seen))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    early, late, count = map(float, done.stdout.split())
    assert count == 50
    # In MiB. A cell's model is far smaller; what it left behind would show over forty of them.
    assert late - early < 40, f"{early:.0f} MiB after 10 cells, {late:.0f} after 50"
