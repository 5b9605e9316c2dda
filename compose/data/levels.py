"""From stored grey levels to the codes that are scored.

Shapes: ``x`` is ``(n, ...)`` of uint8, levels ``0 .. stored-1``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Levels = NDArray[np.uint8]


def quantise(x: Levels, stored: int, levels: int) -> Levels:
    """The code ``k * levels // stored`` of each stored level ``k``: ``levels`` bins of equal width."""
    return (x.astype(np.uint16) * levels // stored).astype(np.uint8)


def binarise(x: Levels, stored: int, random: np.random.RandomState) -> Levels:
    """One Bernoulli draw for each level ``k``, with ``p = k / (stored - 1)``; uniforms in the order of ``x``'s rows."""
    return (random.rand(*x.shape) < x / (stored - 1)).astype(np.uint8)


def binarise_afresh(x: Tensor, stored: int, count: int, start: int, generator: torch.Generator) -> Tensor:
    """Binarises rows ``start ...`` of a batch of ``count``, as if the whole batch were drawn.

    An integer ``u`` uniform on ``0 .. stored-2`` is below ``k`` with probability ``k / (stored - 1)``: exact, where a
    float32 uniform rounds, and quicker to draw.
    """
    u = torch.randint(
        stored - 1, (count, *x.shape[1:]), generator=generator, dtype=torch.uint8, device=generator.device
    )
    return (u[start : start + len(x)].to(x.device) < x).view(torch.uint8)


def binarisation_floor(x: Levels, stored: int) -> float:
    """Mean entropy of the binarisation of ``x``, in nats per example: no model's -log p is below it on average."""
    counts = torch.bincount(torch.from_numpy(x).flatten(), minlength=stored)
    p = torch.arange(stored, dtype=torch.float64) / (stored - 1)
    entropy = torch.special.entr(p) + torch.special.entr(1 - p)
    return float(counts.double() @ entropy) / len(x)
