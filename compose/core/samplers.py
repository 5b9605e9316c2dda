"""How a chain of denoising steps is walked down, from noise to the first latent, by one network of the noise.

Each sampler goes through times of falling noise, given as ``gamma = log(sigma^2 / alpha^2)``. Numbers of a schedule are
plain floats here: a step costs a few operations beside the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from compose.core.random import standard_normal

#: The noise that a network sees in ``z`` at the i-th of the times.
Predict = Callable[[Tensor, int], Tensor]
Samplers = Literal["ancestral", "ddim", "dpm_solver_pp", "heun"]
#: Fewer steps than these end on one of first order.
FEW = 15


def alpha(gamma: float) -> float:
    """What is left of the signal."""
    return (1 + math.exp(gamma)) ** -0.5


def sigma(gamma: float) -> float:
    """The scale of the noise."""
    return (1 + math.exp(-gamma)) ** -0.5


def ancestral(
    predict: Predict, z: Tensor, gammas: Sequence[float], eta: float = 1.0, wider: Sequence[Tensor] | None = None
) -> Tensor:
    """Draws from each link; with ``eta`` 1 these are the links of the scored chain, with 0 nothing is drawn (DDIM).

    Args:
        predict: The noise in ``z`` at a time.
        z: Noise, ``(n, ...)``.
        gammas: From noise to data.
        eta: Share of a link's standard deviation that is drawn.
        wider: Factors of that standard deviation, for each step by number; none where it is that of the posterior.

    Source: Ho et al. 2020, arXiv:2006.11239; Song et al. 2020, arXiv:2010.02502.
    """
    for i, (t, s) in enumerate(pairwise(gammas)):
        share = -math.expm1(s - t)
        kept = alpha(s) / alpha(t)
        along = sigma(s) * math.sqrt(1 - eta * eta * share) - kept * sigma(t)
        z = torch.add(z * kept, predict(z, i), alpha=along)
        if eta:
            e, spread = standard_normal(z.shape, z), eta * sigma(s) * math.sqrt(share)
            z = z.add_(e, alpha=spread) if wider is None else z.addcmul_(e, wider[i], value=spread)
    return z


def ddim(predict: Predict, z: Tensor, gammas: Sequence[float], eta: float = 0.0) -> Tensor:
    """As ``ancestral``, without noise by default."""
    return ancestral(predict, z, gammas, eta)


def dpm_solver_pp(predict: Predict, z: Tensor, gammas: Sequence[float]) -> Tensor:
    """DPM-Solver++(2M): the data that each step sees are extrapolated along the log of signal over noise.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2.
    """
    before, wide, steps = None, 0.0, len(gammas) - 1
    for i, (t, s) in enumerate(pairwise(gammas)):
        seen = torch.sub(z, predict(z, i), alpha=sigma(t)).div_(alpha(t))
        h = 0.5 * (t - s)
        ahead = seen
        if before is not None and not (i == steps - 1 and steps < FEW):
            ahead = torch.lerp(seen, before, -0.5 * h / wide)
        z = torch.add(z * (sigma(s) / sigma(t)), ahead, alpha=-alpha(s) * math.expm1(-h))
        before, wide = seen, h
    return z


def heun(predict: Predict, z: Tensor, gammas: Sequence[float]) -> Tensor:
    """Heun's method, of second order, on ``z / alpha`` by ``sigma / alpha``; two networks a step, one in the last.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1.
    """
    for i, (t, s) in enumerate(pairwise(gammas)):
        far = math.exp(0.5 * s) - math.exp(0.5 * t)
        noise = predict(z, i)
        z, start = torch.add(z / alpha(t), noise, alpha=far).mul_(alpha(s)), z
        if i < len(gammas) - 2:
            noise = noise + predict(z, i + 1)
            z = torch.add(start / alpha(t), noise, alpha=0.5 * far).mul_(alpha(s))
    return z


SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpm_solver_pp": dpm_solver_pp,
    "heun": heun,
}
