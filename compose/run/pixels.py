"""Items as pixels: images side by side in one picture."""

from __future__ import annotations

import math

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from compose.core.spaces import Codes, Space


def tiled(x: Tensor, space: Space, columns: int | None = None) -> Tensor:
    """Images as one picture with a thin line between them, ``(height, width, 3)`` of bytes.

    Args:
        x: ``(n, channels, height, width)`` of 1 or 3 channels, or anything that is drawn as rows of numbers.
        space: Space of one image; codes are scaled by their size, reals so that all but the farthest hundredth fit.
        columns: Images in a row; a square by default.
    """
    images = _unit(x, space)
    n = len(images)
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    blank = torch.ones(rows * columns - n, *images.shape[1:])
    framed = torch.nn.functional.pad(torch.cat([images, blank]), (0, 1, 0, 1), value=0.5)
    picture = rearrange(framed, "(r c) k h w -> (r h) (c w) k", c=columns)
    return (picture * 255).round().to(torch.uint8).expand(-1, -1, 3).contiguous()


def _unit(x: Tensor, space: Space) -> Tensor:
    x = x.detach().cpu().float()
    if isinstance(space, Codes):
        x = x / (space.size - 1)
    else:
        # A few far numbers, as samples have them, would leave the rest without contrast.
        low, high = np.quantile(x.numpy(), [0.005, 0.995])
        x = (x - low) / max(high - low, 1e-9)
    if x.dim() != 4 or x.shape[1] not in (1, 3):
        x = x.reshape(len(x), 1, 1, -1)
    return x.clamp(0, 1)
