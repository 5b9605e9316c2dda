"""What compiling gains: a training step of a shipped recipe, compiled against as it is, and the seconds it costs first.

    python tests/benchmarks/compiled.py [RECIPE ...]

The step as a run takes it: a batch, the loss and its gradient, the optimizer; the model compiled as by ``--compile``.
Printed are medians over interleaved rounds, one thread: 0.5 means that the compiled step takes half as long.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from compose.core import random
from compose.recipe.build import build
from compose.recipe.check import load_recipe
from compose.recipe.recipe import Recipe
from compose.run.batches import Batches
from compose.run.compiled import compiled
from compose.run.player import Actor

RECIPES = ("vae", "vae_flow_prior")
ROUNDS = 10
STEPS = 50


def stepping(recipe: Recipe, compiling: bool) -> Callable[[], None]:
    """Takes training steps, one after the other."""
    phase, model = recipe.train[0], build(recipe)
    batches = Batches(recipe.data.load(), phase.batch_size, 0, 0)
    with torch.no_grad():
        model.fit_parts(batches.all)
    actor = Actor(phase.players[0], recipe, model)
    called: Any = compiled(model) if compiling else model
    done = 0

    def step() -> None:
        nonlocal done
        random.reseed(0, "model noise", 0, 0, done)
        actor.descent.set_rate(done, 0.0)
        loss = actor.loss(called, *batches.at(done), done)
        loss.value.backward()
        actor.descent.step(done, loss.value.detach())
        done += 1

    return step


def seconds(step: Callable[[], None], count: int) -> float:
    """Seconds of so many steps."""
    began = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - began


def main(names: list[str]) -> dict[str, float]:
    """Prints and returns the median ratio of each recipe."""
    torch.set_num_threads(1)
    found = {}
    for name in names or RECIPES:
        recipe = load_recipe(name)
        plain, quick = stepping(recipe, False), stepping(recipe, True)
        first = seconds(quick, 1)
        for warm in (plain, quick):
            seconds(warm, STEPS)
        times = [(seconds(quick, STEPS), seconds(plain, STEPS)) for _ in range(ROUNDS)]
        ratios = sorted(ours / theirs for ours, theirs in times)
        found[name] = statistics.median(ratios)
        fast, slow = (1e3 * statistics.median(column) / STEPS for column in zip(*times, strict=True))
        print(
            f"{name:24} compiled / as it is {found[name]:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})   "
            f"ms a step: {fast:.2f}, {slow:.2f}   first step {first:.1f} s",
            flush=True,
        )
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
