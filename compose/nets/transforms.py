"""Invertible networks over vectors: nflows' transforms, with a spline of ours.

The stack maps data to noise. Each layer mixes the coordinates (LU, or a permutation) and then transforms them. The
spline replaces nflows' masked one, which breaks graphs and fails at extreme float32 parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from nflows.nn.nets import ResidualNet
from nflows.transforms import (
    CompositeTransform,
    InverseTransform,
    LULinear,
    RandomPermutation,
    Transform,
)
from nflows.transforms.coupling import CouplingTransform
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compose.core.declare import Misfit
from compose.core.gaussians import bounded
from compose.core.spaces import Real
from compose.nets.autoregressive import MaskedAutoregressive
from compose.nets.spline import rational_quadratic


class TransformOptions(BaseModel):
    """The options of an invertible stack, shared by the flow density and the bijection stage."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    transform: Literal["rq_coupling", "affine_coupling", "maf"] = "rq_coupling"
    """Rational-quadratic spline coupling, affine coupling, or masked autoregressive."""
    layers: Annotated[int, Ge(1), Le(256)] = 6
    """How many transforms are stacked."""
    hidden: Annotated[int, Ge(1), Le(16384)] = 64
    """Width of each conditioner network."""
    blocks: Annotated[int, Ge(1), Le(16)] = 1
    """Residual blocks in each conditioner network."""
    bins: Annotated[int, Ge(2), Le(64)] = 8
    """Bins of a spline."""
    bound: Annotated[float, Gt(0), Le(1000)] = 5.0
    """A spline acts on [-bound, bound] and is the identity outside."""
    mixing: Literal["lu", "permutation", "none"] = "lu"
    """What mixes coordinates before each transform: a learned linear map, or a fixed random order."""
    generative: bool = False
    """Run the transform from noise to data: a maf then samples in one pass and scores in D (an IAF)."""

    def couplings(self, space: Real, origin: str) -> Iterator[Misfit]:
        """A coupling needs two numbers, or nothing is left to steer by."""
        if space.dim < 2 and self.transform != "maf":
            message = f"'{self.transform}' splits the numbers in two halves, but {origin} {space}, a single number"
            yield Misfit(f"{message}; 'maf' takes one.", key="transform", swap=False)


class InvertibleNet(nn.Module):
    """A stack of transforms over vectors of length ``dim``.

    Args:
        dim: Length of a vector.
        options: What to stack.
        context: Length of the vector that conditions every layer; 0 for none.
    """

    def __init__(self, dim: int, options: TransformOptions, context: int = 0) -> None:
        super().__init__()
        layers: list[Transform] = []
        for i in range(options.layers):
            if options.mixing != "none" and dim > 1:
                layers += _mixing(dim, options.mixing)
            layers.append(_layer(i, dim, options, context))
        stack = CompositeTransform(layers)
        self.stack = InverseTransform(stack) if options.generative else stack

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to noise: the value ``(batch, dim)`` and ``log|det dz/dx|`` in nats, ``(batch,)``."""
        return self.stack(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Noise to data: the value ``(batch, dim)`` and ``log|det dx/dz|`` in nats, ``(batch,)``."""
        return self.stack.inverse(z, context)


class LU(LULinear):
    """nflows' LU-factored linear map, with an inverse that does not rest on a removed torch function."""

    def inverse_no_cache(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Solves both triangular systems."""
        lower, upper = self._create_lower_upper()
        half = torch.linalg.solve_triangular(lower, (inputs - self.bias).T, upper=False, unitriangular=True)
        outputs = torch.linalg.solve_triangular(upper, half, upper=True)
        return outputs.T, -self.logabsdet() * inputs.new_ones(inputs.shape[0])


class RationalQuadraticCoupling(CouplingTransform):
    """Splines on one half of the coordinates, parametrised by the other half.

    Args:
        mask: Which coordinates are transformed.
        conditioner: Builds the network from the numbers it takes and gives.
        bins: Bins of each spline.
        bound: Half-width of the interval of each spline.
    """

    def __init__(self, mask: Tensor, conditioner: Callable[[int, int], nn.Module], bins: int, bound: float) -> None:
        self.sizes = [bins, bins, bins - 1]
        self.bound = bound
        super().__init__(mask, conditioner)

    def _transform_dim_multiplier(self) -> int:
        return sum(self.sizes)

    def _spline(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        # The batch innermost, where the processor adds and multiplies whole vectors; twice as quick as the bins there.
        widths, heights, slopes = params.T.unflatten(0, (-1, sum(self.sizes))).split(self.sizes, dim=1)
        y, log_det = rational_quadratic(x.T, widths, heights, slopes, self.bound, inverse, dim=1)
        return y.T, log_det.sum(0)

    def _coupling_transform_forward(self, inputs: Tensor, transform_params: Tensor) -> tuple[Tensor, Tensor]:
        return self._spline(inputs, transform_params, inverse=False)

    def _coupling_transform_inverse(self, inputs: Tensor, transform_params: Tensor) -> tuple[Tensor, Tensor]:
        return self._spline(inputs, transform_params, inverse=True)


class AffineCoupling(CouplingTransform):
    """A shift and a bounded log-scale of one half of the coordinates, from the other half."""

    def _transform_dim_multiplier(self) -> int:
        return 2

    def _coupling_transform_forward(self, inputs: Tensor, transform_params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = transform_params.unflatten(1, (2, -1)).unbind(1)
        log_scale = bounded(raw, 3.0)
        return inputs * log_scale.exp() + shift, log_scale.sum(1)

    def _coupling_transform_inverse(self, inputs: Tensor, transform_params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = transform_params.unflatten(1, (2, -1)).unbind(1)
        log_scale = bounded(raw, 3.0)
        return (inputs - shift) * (-log_scale).exp(), -log_scale.sum(1)


def _mixing(dim: int, name: str) -> Sequence[Transform]:
    return [RandomPermutation(dim)] + ([LU(dim)] if name == "lu" else [])


def _layer(i: int, dim: int, options: TransformOptions, context: int) -> Transform:
    if options.transform == "maf":
        return _maf(dim, options, context)
    mask = torch.arange(dim) % 2 == i % 2

    def conditioner(takes: int, gives: int) -> nn.Module:
        net = ResidualNet(takes, gives, options.hidden, context_features=context or None, num_blocks=options.blocks)
        return _quiet(net, net.final_layer)

    if options.transform == "affine_coupling":
        return AffineCoupling(mask, conditioner)
    return RationalQuadraticCoupling(mask, conditioner, options.bins, options.bound)


def _maf(dim: int, options: TransformOptions, context: int) -> Transform:
    maf = MaskedAutoregressive(dim, options.hidden, options.blocks, context)
    _quiet(maf, maf.last)
    return maf


def _quiet(net: nn.Module, final: nn.Module) -> nn.Module:
    """Starts a flow at the identity, so that a model begins as the same model with the flow's base for its prior."""
    assert isinstance(final, nn.Linear)
    nn.init.normal_(final.weight, std=1e-3)
    nn.init.zeros_(final.bias)
    return net
