"""What our flows cost beside zuko's and nflows': the gradient of a score, and sampling, eager and compiled.

    python tests/benchmarks/flows.py

The same flow on all sides: 8 rational-quadratic couplings of 8 bins on [-5, 5] over 32 numbers. Each layer transforms
one half of them, in turns, and nothing else mixes them. Each conditioner is 16-64-64-64-368, so the parameters are
equally many (printed): for us and nflows a residual net of one block, for zuko an MLP, which adds nothing to itself.
The batch is 512.

zuko's is its coupling proper: ``NSF(passes=2)`` transforms all numbers in each layer and takes about twice as long. Its
distribution is built once; made anew in each call it compiles to several graphs. Beside it stands sampling from masked
autoregressive flows: 5 affine layers over 64 numbers, each by a net 64-128-128-128, the parameters equally many too.

Printed are medians over 5 interleaved rounds of our time by theirs, one thread: 0.5 means that we take half as long.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow
from nflows.nn.nets import ResidualNet
from nflows.transforms import CompositeTransform, PiecewiseRationalQuadraticCouplingTransform
from torch import Tensor, nn
from zuko.flows import MAF
from zuko.flows.coupling import NICE
from zuko.transforms import MonotonicRQSTransform

import compose
from compose.core.spaces import Real
from compose.parts.densities.flow import FlowDensity

ROUNDS = 5
SECONDS = 0.5  # of each side in a round
WARM = 20  # steps before: nflows' graphs are made anew a few times, for other numbers of points inside the interval
BATCH = 512
DIM, LAYERS, HIDDEN, BINS, BOUND = 32, 8, 64, 8, 5.0
MAF_DIM, MAF_LAYERS, MAF_HIDDEN = 64, 5, 128

Step = Callable[[], Any]


class Side(nn.Module):
    """One library's flow: ``log_prob(x)`` and ``sample(n)``."""

    def __init__(self, net: nn.Module, log_prob: Callable[[Tensor], Tensor], draw: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.net, self.log_prob, self.draw = net, log_prob, draw
        # Far from where each library starts, so that all of them bend the line alike.
        for value in net.parameters():
            nn.init.normal_(value, std=0.5 / math.sqrt(value.shape[-1]))

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        return self.draw(n)


def ours(dim: int, **options: Any) -> Side:
    flow = FlowDensity(Real((dim,)), None, compose.Flow(mixing="none", **options), 0)
    return Side(flow, flow.log_prob, flow.sample)


def zuko(flow: Any) -> Side:
    distribution = flow()
    return Side(flow, distribution.log_prob, lambda n: distribution.rsample((n,)))


def nflows() -> Side:
    def conditioner(takes: int, gives: int) -> nn.Module:
        return ResidualNet(takes, gives, HIDDEN, num_blocks=1)

    def layer(i: int) -> nn.Module:
        return PiecewiseRationalQuadraticCouplingTransform(
            torch.arange(DIM) % 2 == i % 2, conditioner, num_bins=BINS, tails="linear", tail_bound=BOUND
        )

    flow = Flow(CompositeTransform([layer(i) for i in range(LAYERS)]), StandardNormal([DIM]))
    return Side(flow, flow.log_prob, flow.sample)


def couplings() -> dict[str, Side]:
    """The three coupling flows."""
    spline = {"univariate": MonotonicRQSTransform, "shapes": [(BINS,), (BINS,), (BINS - 1,)]}
    return {
        "ours": ours(DIM, layers=LAYERS, hidden=HIDDEN, bins=BINS, bound=BOUND),
        "zuko": zuko(NICE(DIM, transforms=LAYERS, hidden_features=[HIDDEN] * 3, **spline)),
        "nflows": nflows(),
    }


def autoregressive() -> dict[str, Side]:
    """The two masked autoregressive flows."""
    return {
        "ours": ours(MAF_DIM, transform="maf", layers=MAF_LAYERS, hidden=MAF_HIDDEN),
        "zuko": zuko(MAF(MAF_DIM, transforms=MAF_LAYERS, hidden_features=[MAF_HIDDEN] * 2)),
    }


def scoring(side: Side, compiled: bool) -> Step:
    """Scores a batch and takes the gradient."""
    log_prob = torch.compile(side.log_prob) if compiled else side.log_prob
    parameters, x = list(side.parameters()), torch.randn(BATCH, DIM)

    def step() -> None:
        (-log_prob(x).mean()).backward()
        for value in parameters:
            value.grad = None

    return step


def sampling(side: Side, compiled: bool) -> Step:
    """Draws a batch."""
    sample = torch.compile(side.sample) if compiled else side.sample
    return lambda: sample(BATCH)


def seconds(step: Step, count: int) -> float:
    """Seconds of a step, the mean of ``count``."""
    began = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - began) / count


def race(what: str, steps: dict[str, Step]) -> dict[str, float]:
    """Prints and returns the median ratio of our time to that of each other side."""
    counts = {}
    for name, step in steps.items():
        seconds(step, WARM)
        counts[name] = max(1, round(SECONDS / seconds(step, 3)))
    rounds = [{name: seconds(step, counts[name]) for name, step in steps.items()} for _ in range(ROUNDS)]
    times = {name: statistics.median(each[name] for each in rounds) for name in steps}
    ratios = {name: sorted(each["ours"] / each[name] for each in rounds) for name in steps if name != "ours"}
    said = [f"ours / {name} {statistics.median(r):.3f} ({r[0]:.3f} to {r[-1]:.3f})" for name, r in ratios.items()]
    milliseconds = ", ".join(f"{name} {1e3 * value:.1f}" for name, value in times.items())
    print(f"{what:39} {'   '.join(said)}   ms: {milliseconds}", flush=True)
    return {name: statistics.median(each) for name, each in ratios.items()}


def main() -> dict[str, dict[str, float]]:
    """Prints and returns every median ratio, by what was measured and by library."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # nflows' breaks make one graph a layer, and with torch's limit of 8 the last of them would not be compiled.
    torch._dynamo.config.recompile_limit = 64
    # torch tells of each of these breaks at length.
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "Error detected in IndexPut")
    found, sides, masked = {}, couplings(), autoregressive()
    for each in (sides, masked):
        print("parameters: " + ", ".join(f"{name} {count(side):,}" for name, side in each.items()))
    found["MAF sampling"] = race("MAF sampling", {name: sampling(side, False) for name, side in masked.items()})
    for kind, compiled in (("eager", False), ("compiled", True)):
        for what, make in (("log_prob + backward", scoring), ("sampling", sampling)):
            name = f"coupling {what}, {kind}"
            found[name] = race(name, {name: make(side, compiled) for name, side in sides.items()})
    return found


def count(side: Side) -> int:
    """How many parameters a side trains."""
    return sum(value.numel() for value in side.net.parameters())


if __name__ == "__main__":
    main()
