"""Invertible maps of the channels of an image: actnorm, 1x1 convolution, coupling (Glow, arXiv:1807.03039)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from einops import rearrange
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from compose.core.gaussians import bounded
from compose.nets.spline import rational_quadratic

Net = Callable[[Tensor], Tensor]
Mixing = Literal["conv1x1", "permutation", "none"]
_LEAST_SCALE = 1e-3


class GlowOptions(BaseModel):
    """The options of a step: what it does to half of the channels, and what comes before."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    transform: Literal["affine", "rq_spline"] = "affine"
    """A shift and a bounded scale, or a rational-quadratic spline, of every number of the second half."""
    mixing: Mixing = "conv1x1"
    """What mixes channels before a coupling: a learned linear map, a fixed random order; without, halves alternate."""
    actnorm: bool = True
    """Shift and scale each channel first; they start where the data have mean 0 and variance 1."""
    bins: Annotated[int, Ge(2), Le(64)] = 8
    """Bins of a spline."""
    bound: Annotated[float, Gt(0), Le(1000)] = 5.0
    """A spline acts on [-bound, bound] and is the identity outside."""

    def parameters_each(self) -> int:
        """How many numbers steer the transform of one."""
        return 2 if self.transform == "affine" else 3 * self.bins - 1


class GlowStep(nn.Module):
    """Actnorm, mixing, and a coupling whose first half of channels steers the second by a network.

    The network is lent at each call. What it says is scaled channel by channel, from 0 on: so a step starts at the
    identity, whatever the network.

    Args:
        channels: At least 2.
        options: What it does.
        odd: Whether the halves change places where nothing mixes them.
    """

    def __init__(self, channels: int, options: GlowOptions, odd: bool) -> None:
        super().__init__()
        self.sizes = [channels - channels // 2, channels // 2]
        self.actnorm = ActNorm(channels) if options.actnorm else None
        self.mixing = ChannelMixing(channels, options.mixing, odd)
        self.gain = nn.Parameter(torch.zeros(options.parameters_each() * self.sizes[1], 1, 1))
        self.options = options

    def forward(self, x: Tensor, net: Net) -> tuple[Tensor, Tensor]:
        """Data to noise: the value ``(batch, channels, height, width)`` and the log-det in nats, ``(batch,)``."""
        log_det = x.new_zeros(())
        if self.actnorm is not None:
            x, log_det = self.actnorm(x)
        x, more = self.mixing(x)
        steers, moved = x.split(self.sizes, 1)
        moved, each = self._transform(moved, self.gain * net(steers))
        return torch.cat([steers, moved], 1), each.flatten(1).sum(1) + log_det + more

    def inverse(self, y: Tensor, net: Net) -> Tensor:
        """Noise to data."""
        steers, moved = y.split(self.sizes, 1)
        moved, _ = self._transform(moved, self.gain * net(steers), inverse=True)
        x = self.mixing.inverse(torch.cat([steers, moved], 1))
        return x if self.actnorm is None else self.actnorm.inverse(x)

    def _transform(self, x: Tensor, params: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        if self.options.transform == "affine":
            shift, raw = params.chunk(2, 1)
            log_scale = bounded(raw, 3.0)
            return ((x - shift) * (-log_scale).exp() if inverse else x * log_scale.exp() + shift), log_scale
        bins = self.options.bins
        each = rearrange(params, "b (p c) h w -> b c h w p", c=x.shape[1])
        widths, heights, slopes = each.split([bins, bins, bins - 1], -1)
        return rational_quadratic(x, widths, heights, slopes, self.options.bound, inverse)


class ActNorm(nn.Module):
    """``y = (x + shift) * exp(log_scale)``, by channel.

    Args:
        channels: How many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value, and the log-det, a scalar: it is the same for every row."""
        return (x + self.shift) * self.log_scale.exp(), self.log_scale.sum() * _pixels(x)

    def inverse(self, y: Tensor) -> Tensor:
        """Undoes it."""
        return y * (-self.log_scale).exp() - self.shift

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Gives ``x`` mean 0 and variance 1 in every channel; one that never varies is scaled by 1000 at most."""
        wide = x.double()
        self.shift.copy_(-wide.mean((0, 2, 3))[:, None, None])
        self.log_scale.copy_(-wide.std((0, 2, 3), correction=0).clamp_min(_LEAST_SCALE).log()[:, None, None])


class ChannelMixing(nn.Module):
    """Puts the channels in another order and, where that is learned, maps them linearly.

    The linear map is kept as its triangular factors, whose log-det costs nothing, packed in one matrix: below the
    diagonal the lower one, which has ones on its own, then the upper one with the logarithm of its diagonal.

    Args:
        channels: How many.
        kind: As the option says.
        odd: Whether ``none`` reverses the order.
    """

    def __init__(self, channels: int, kind: Mixing, odd: bool) -> None:
        super().__init__()
        order = torch.arange(channels)
        order = (order.flip(0) if odd else order) if kind == "none" else torch.randperm(channels)
        self.order: Tensor
        self.register_buffer("order", order)
        self.factors = nn.Parameter(_rotation(channels)) if kind == "conv1x1" else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value, and the log-det, a scalar: it is the same for every row."""
        x = x[:, self.order]
        if self.factors is None:
            return x, x.new_zeros(())
        lower, upper = _unpacked(self.factors)
        return functional.conv2d(x, (lower @ upper)[..., None, None]), self.factors.diagonal().sum() * _pixels(x)

    def inverse(self, y: Tensor) -> Tensor:
        """Undoes it."""
        if self.factors is not None:
            lower, upper = _unpacked(self.factors)
            half = torch.linalg.solve_triangular(lower, y.flatten(2), upper=False, unitriangular=True)
            y = torch.linalg.solve_triangular(upper, half, upper=True).reshape(y.shape)
        return y[:, self.order.argsort()]


def _unpacked(factors: Tensor) -> tuple[Tensor, Tensor]:
    diagonal = factors.diagonal()
    lower = factors.tril(-1) + torch.ones_like(diagonal).diag_embed()
    return lower, factors.triu(1) + diagonal.exp().diag_embed()


def _rotation(channels: int) -> Tensor:
    """The factors of a random rotation, but for the order and the signs of its rows."""
    packed = torch.linalg.lu_factor(nn.init.orthogonal_(torch.empty(channels, channels))).LU
    sign = packed.diagonal().sign()
    upper = sign[:, None] * packed.triu()
    return sign[:, None] * packed.tril(-1) * sign + upper.triu(1) + upper.diagonal().log().diag_embed()


def _pixels(x: Tensor) -> int:
    return x.shape[-2] * x.shape[-1]
