"""What an ablation costs beside its trainings: two workers against one, a cell's share, a rerun of what is finished.

    python tests/benchmarks/ablation.py [--steps 2400]

Each worker has one thread. Run it on a machine with two idle cores. A second worker takes some seconds to start, so
cells of a few seconds say more of that than of work that is shared; these train for some 20 seconds each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from compose.ablation.study import ablate

QUESTION = """
question: How fast are two workers?
base: vae
changes: {evaluate.samples: 20}
axes: [{at: model.prior, values: [normal, mixture]}]
seeds: 4
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2400)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "speed.yaml").write_text(f"{QUESTION}budget: {{steps: {steps}}}\n")
        # The classifier that samples are compared by is trained once, by whoever comes first.
        ablate(folder / "speed.yaml", folder / "first", overrides=["seeds=1", "budget.steps=5"], progress=False)
        seconds = {}
        for workers in (1, 2):
            began = time.perf_counter()
            found = ablate(folder / "speed.yaml", folder / str(workers), workers=workers, threads=1, progress=False)
            seconds[workers] = time.perf_counter() - began
            records = [found.folder.record(address) or {} for address, _, _ in found.plan.cells]
            trained, wall = (sum(record[key] for record in records) for key in ("trained", "wall"))
            print(
                f"{workers} worker(s): {seconds[workers]:.1f} s for {len(records)} cells, of which training "
                f"{trained:.1f} s, scoring and pictures {wall - trained:.1f} s"
            )
            if workers == 1:
                print(f"beside its own training, scoring and pictures a cell takes {(seconds[1] - wall) / 8:.2f} s")
                print(f"beside its training it takes {(seconds[1] - trained) / 8:.2f} s")
        print(f"two workers are {seconds[1] / seconds[2]:.2f} times as fast as one")
        began = time.perf_counter()
        ablate(folder / "speed.yaml", folder / "1", progress=False)
        print(f"a rerun of what is finished: {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
