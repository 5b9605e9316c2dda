"""What a step of a diffusion's samplers costs beside the network's own work.

    python tests/benchmarks/diffusion.py [--rounds 20] [--steps 50]

The network of ``fashion/latent_diffusion`` gives way to one that hands back a tensor of the right shape, and so does
nothing; what is left of a step is ours: the schedule, what the network is told, the sampler, its noise. 64 latents of
40 numbers, one thread. Printed are medians over interleaved rounds, in microseconds a step; beside them a whole step
with the network.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

import compose
from compose.core.drawing import Drawing
from compose.core.samplers import SAMPLERS

BATCH = 64


class Nothing(nn.Module):
    """Hands back what it has.

    Args:
        shape: Of an item.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.given = torch.randn(BATCH, *shape)

    def forward(self, *_: Tensor) -> Tensor:
        """The same numbers each time."""
        return self.given


def microseconds(prior: Any, how: Drawing, steps: int) -> float:
    """Of a step."""
    began = time.perf_counter()
    prior.sample_as(BATCH, None, how)
    return 1e6 * (time.perf_counter() - began) / steps


def main(rounds: int, steps: int) -> None:
    """Prints a line for each sampler."""
    torch.set_num_threads(1)
    recipe = compose.load_recipe("fashion/latent_diffusion", ["data=digits", "model.stages.0.likelihood=categorical"])
    prior: Any = compose.build(recipe).eval().prior
    nets = {"ours": Nothing(prior.latent.shape), "with the network": prior.net}
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds + 2):
        for name in SAMPLERS:
            for which, net in nets.items():
                prior.net = net
                how = Drawing(sampler=name, steps=steps)
                found.setdefault((name, which), []).append(microseconds(prior, how, steps))
    for name in SAMPLERS:
        ours, whole = (statistics.median(found[name, which][2:]) for which in nets)
        print(f"{name}: {ours:.1f} microseconds a step beside the network; with it {whole:.0f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.steps)
