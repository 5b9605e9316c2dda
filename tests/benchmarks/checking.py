"""What ``compose check`` costs beside importing torch, for every shipped recipe, process start included.

    python tests/benchmarks/checking.py [--rounds 3]

Printed is the least time of some interleaved rounds by the least of ``import torch`` alone: 1.5 means half as long
again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from compose.recipe.shipped import shipped


def seconds(*words: str) -> float:
    """Of a process of its own."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - began


def main(rounds: int) -> None:
    """Prints a ratio for each recipe, and the largest."""
    ratios = {}
    for name in shipped():
        pairs = [(seconds("-m", "compose", "check", name), seconds("-c", "import torch")) for _ in range(rounds)]
        check, bare = (min(column) for column in zip(*pairs, strict=True))
        ratios[name] = check / bare
        print(f"{name}: {ratios[name]:.2f}   seconds: check {check:.2f}, import torch {bare:.2f}", flush=True)
    print(f"at most {max(ratios.values()):.2f}, by {max(ratios, key=ratios.__getitem__)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
