"""What composing costs: a training step of a composed VAE against the same step written by hand in plain torch.

    python tests/benchmarks/overhead.py

Prints, for two sizes, the ratio of dispatched aten operations and the median ratio of time over interleaved rounds. The
same mathematics, the same optimizer, one thread. A ratio of 1.03 means that composing costs 3 %.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import compose
from compose.parts.objectives.elbo import ELBOObjective
from compose.recipe.build import build_model

ROUNDS = 20
#: The models are built anew so often: where their weights come to lie in memory makes a few per cent, by luck.
PAIRS = 20
STEPS = 30
BATCH = 128
SIZES = ((784, 400, 40), (784, 64, 8))


class HandWritten(nn.Module):
    """The VAE of Kingma and Welling with a bounded posterior scale, as one would write it for one paper."""

    def __init__(self, pixels: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * dim))
        self.decoder = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, pixels))

    def forward(self, x: Tensor) -> Tensor:
        """The negative ELBO of a batch of integer pixels, in nats."""
        x = x.float()
        loc, raw = self.encoder(x).chunk(2, dim=1)
        log_scale = 6 * torch.tanh(raw / 6)
        scale = log_scale.exp()
        logits = self.decoder(loc + scale * torch.randn_like(loc))
        distortion = functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        rate = (0.5 * (loc * loc + scale * scale - 1) - log_scale).sum(1)
        return (distortion + rate).mean()


class Count(TorchDispatchMode):
    """Counts dispatched aten operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts one and goes on."""
        self.operations += 1
        return func(*args, **(kwargs or {}))


def steps(pixels: int, hidden: int, dim: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """One training step, composed and by hand, on the same data with the same optimizer."""
    x = (torch.rand(BATCH, pixels) < 0.3).to(torch.uint8)
    net = compose.MLP(hidden=[hidden])
    model = build_model(
        compose.Model(stages=[compose.Latent(dim=dim, encoder=net, decoder=net, likelihood=compose.Bernoulli())]),
        compose.Codes((pixels,), 2),
    )
    objective, by_hand = ELBOObjective(compose.ELBO()), HandWritten(pixels, hidden, dim)
    ours = torch.optim.AdamW(model.parameters(), fused=True)
    theirs = torch.optim.AdamW(by_hand.parameters(), fused=True)

    def composed() -> None:
        objective(model, x, None, 0).value.backward()
        ours.step()
        ours.zero_grad(set_to_none=True)

    def plain() -> None:
        by_hand(x).backward()
        theirs.step()
        theirs.zero_grad(set_to_none=True)

    return composed, plain


def operations(step: Callable[[], None]) -> int:
    """Aten operations of one step, backward and optimizer included."""
    step()
    with Count() as counter:
        step()
    return counter.operations


def ratio(composed: Callable[[], None], plain: Callable[[], None]) -> float:
    """Of the seconds of a round. The two take turns step by step: a machine's speed wanders within a tenth of one."""
    spent = [0.0, 0.0]
    for _ in range(STEPS):
        for i, step in enumerate((composed, plain)):
            began = time.perf_counter()
            step()
            spent[i] += time.perf_counter() - began
    return spent[0] / spent[1]


def main() -> dict[tuple[int, int, int], tuple[float, float]]:
    """Prints and returns, by size, the ratio of operations and the median ratio of time."""
    torch.set_num_threads(1)
    found = {}
    for size in SIZES:
        counts, ratios = [operations(step) for step in steps(*size)], []
        for _ in range(PAIRS):
            composed, plain = steps(*size)
            ratio(composed, plain)
            ratios += [ratio(composed, plain) for _ in range(ROUNDS // PAIRS)]
        found[size] = counts[0] / counts[1], statistics.median(ratios)
        name = "-".join(map(str, size))
        quartiles = statistics.quantiles(ratios, n=4)
        message = (
            f"{name:12} operations {counts[0]} / {counts[1]} = {found[size][0]:.3f}   "
            f"time {found[size][1]:.3f} (quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f}, {ROUNDS} rounds)"
        )
        print(message)
    return found


if __name__ == "__main__":
    main()
