"""A masked autoregressive transform: one pass to noise, and back in one pass's work, spread over the coordinates."""

from __future__ import annotations

import torch
from nflows.transforms import Transform
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from compose.core.gaussians import bounded


class MaskedLinear(nn.Linear):
    """A linear map whose output ``j`` sees input ``i`` where ``gives[j] >= takes[i]``.

    Args:
        takes: How many coordinates one must know to know each input, ``(inputs,)``.
        gives: How many coordinates each output may know, ``(outputs,)``.
    """

    def __init__(self, takes: Tensor, gives: Tensor) -> None:
        super().__init__(len(takes), len(gives))
        self.mask: Tensor
        self.register_buffer("mask", (gives[:, None] >= takes).to(self.weight.dtype), persistent=False)

    @property
    def masked(self) -> Tensor:
        """The weights that count, ``(outputs, inputs)``."""
        return self.weight * self.mask

    def forward(self, input: Tensor) -> Tensor:
        """Maps ``(batch, inputs)`` to ``(batch, outputs)``."""
        return linear(input, self.masked, self.bias)


class MaskedAutoregressive(Transform):
    """``z_i = x_i * exp(s_i) + t_i`` with ``s_i`` and ``t_i`` from the coordinates before i (MAF, arXiv:1705.07057).

    The network is a MADE (arXiv:1502.03509) with residual layers. Its hidden units are sorted by how many coordinates
    they see, so that the inverse can compute each of them once, as soon as these coordinates are known.

    Args:
        dim: Length of a vector.
        hidden: Hidden units; at least as many as there are coordinates, or some would steer nothing.
        blocks: Residual layers.
        context: Length of the vector that steers every coordinate; 0 for none.
    """

    def __init__(self, dim: int, hidden: int, blocks: int, context: int = 0) -> None:
        super().__init__()
        hidden = max(hidden, dim)
        # Without a context, a unit that sees no coordinate could only be a constant, which the biases are already.
        least = 0 if context or dim == 1 else 1
        seen = least + torch.arange(hidden) * (dim - least) // hidden
        self.counts = [int((seen <= i).sum()) for i in range(dim)]
        self.first = MaskedLinear(torch.arange(dim) + 1, seen)
        self.context = nn.Linear(context, hidden, bias=False) if context else None
        self.blocks = nn.Sequential(*(MaskedLinear(seen, seen) for _ in range(blocks)))
        self.last = MaskedLinear(seen, torch.arange(dim).repeat(2))

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to noise: the value ``(batch, dim)`` and the log-det in nats, ``(batch,)``."""
        h = self.first(inputs)
        if self.context is not None:
            h = h + self.context(context)
        for block in self.blocks:
            h = h + block(relu(h))
        shift, log_scale = _split(self.last(relu(h)))
        return inputs * log_scale.exp() + shift, log_scale.sum(1)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Noise to data, coordinate by coordinate."""
        steered = None if self.context is None else self.context(context)
        first, last, first_bias, last_bias = self.first.masked, self.last.masked, self.first.bias, self.last.bias
        blocks = [(block.masked, block.bias) for block in self.blocks if isinstance(block, MaskedLinear)]
        dim, known = inputs.shape[1], 0
        x, log_det = inputs[:, :0], inputs.new_zeros(inputs.shape[0])
        layers = [inputs[:, :0]] * (len(blocks) + 1)
        for i in range(dim):
            new, known = slice(known, self.counts[i]), self.counts[i]
            if new.stop > new.start:
                h = linear(x, first[new, :i], first_bias[new])
                h = h if steered is None else h + steered[:, new]
                for j, (weight, bias) in enumerate(blocks):
                    layers[j] = torch.cat([layers[j], relu(h)], 1)
                    h = h + linear(layers[j], weight[new, :known], bias[new])
                layers[-1] = torch.cat([layers[-1], relu(h)], 1)
            shift, log_scale = _split(linear(layers[-1], last[i::dim, :known], last_bias[i::dim]))
            x = torch.cat([x, (inputs[:, i : i + 1] - shift) * (-log_scale).exp()], 1)
            log_det = log_det - log_scale[:, 0]
        return x, log_det


def _split(params: Tensor) -> tuple[Tensor, Tensor]:
    shift, raw = params.chunk(2, 1)
    return shift, bounded(raw, 3.0)
