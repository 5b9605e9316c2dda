"""The evidence from above: p(x) = sum or integral of p(z) p(x | z), which no posterior enters."""

from __future__ import annotations

import torch
from torch import Tensor

from compose.core.kinds import Kind
from compose.core.spaces import Codes, Space
from compose.testing.integrals import integrate, states
from compose.testing.subject import draw
from compose.verification.tiny import MOST_CODES, Tiny

#: States of codes that are scored at once.
ROWS = 256


@torch.no_grad()
def evidence(tiny: Tiny) -> Tensor | None:
    """``log p(x)`` of each item in nats; none where a stage comes down without a density, or only bounds are known.

    Codes are summed over, at most two reals integrated over.
    """
    model = tiny.model
    stages = model.stack
    below = tiny.label(1) if model.by_label else None
    if any(stage.inner for stage in stages):
        return None
    given = [stage.down(draw(stage.above, 1), below)[0] for stage in stages]
    if not all(density is not None and density.kind is Kind.EXACT for density in [*given, model.prior]):
        return None
    spaces = [stage.above for stage in stages]
    codes = [space for space in spaces if isinstance(space, Codes)]
    reals = [space for space in spaces if not isinstance(space, Codes)]
    count = 1
    for space in codes:
        count *= space.size**space.dim
    dims = sum(space.dim for space in reals)
    if dims > 2 or count > MOST_CODES:
        return None
    grids = [states(space) for space in codes]
    index = torch.cartesian_prod(*[torch.arange(len(grid)) for grid in grids]).reshape(count, -1) if grids else None
    if index is not None and not reals:
        parts = index.split(ROWS)
        each = [_joint(tiny, [grid[part[:, j]] for j, grid in enumerate(grids)]).logsumexp(0) for part in parts]
        return torch.stack(each).logsumexp(0)

    def integrand(nodes: Tensor) -> Tensor:
        total = 0
        for k in range(count):
            taken = iter(() if index is None else [grid[index[k, j]] for j, grid in enumerate(grids)])
            numbers = iter(nodes.split([space.dim for space in reals], 1)) if reals else iter(())
            zs = [_latent(space, taken, numbers, len(nodes)) for space in spaces]
            total = total + _joint(tiny, zs).exp()
        assert isinstance(total, Tensor)
        return total

    return integrate(integrand, dims, cells=16).value.log()


def _latent(space: Space, codes: object, numbers: object, n: int) -> Tensor:
    if isinstance(space, Codes):
        return next(codes).expand(n, *space.shape)  # type: ignore[call-overload]
    return next(numbers).reshape(n, *space.shape)  # type: ignore[call-overload]


def _joint(tiny: Tiny, zs: list[Tensor]) -> Tensor:
    """``log p(x, z1, ..., zn)`` of each item, ``(nodes, items)``."""
    model, items, nodes = tiny.model, tiny.items, len(zs[-1]) if zs else 1
    label = tiny.label(nodes)
    below = label if model.by_label else None
    above = model.prior.log_prob(zs[-1], label if model.prior.condition is not None else None)
    for stage, z, lower in zip(model.stack[1:], zs[1:], zs, strict=False):
        density, condition = stage.down(z, below)
        assert density is not None
        above = above + density.log_prob(lower, condition)
    density, condition = model.stack[0].down(zs[0], below)
    assert density is not None and condition is not None
    each = condition.repeat_interleave(len(items), 0)
    many = items.repeat(nodes, *[1] * (items.dim() - 1))
    return density.log_prob(many, each).unflatten(0, (nodes, len(items))) + above[:, None]
