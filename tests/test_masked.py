"""The masked density against all orders written out."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.core.declare import Slot
from compose.core.drawing import Drawing
from compose.core.errors import SpaceError
from compose.core.spaces import Codes
from compose.parts.densities.masked import Masked
from compose.testing.variants import shake


def built(space: Codes, **options: Any) -> Any:
    torch.manual_seed(0)
    part = Masked.model_validate({"layers": 1, "width": 8, "heads": 2, **options})
    return shake(part.build(Slot("prior", space)).double(), 3.0).eval()


def by_order(density: Any, x: Tensor) -> Tensor:
    """``log p_order(x)`` of each item under each order, ``(items, orders)``."""
    tokens, dim = x.flatten(1), density.space.dim
    found = []
    for order in permutations(range(dim)):
        masked, total = torch.ones_like(tokens, dtype=torch.bool), 0.0
        for place in order:
            log_p = density._logits(tokens, masked, None).log_softmax(2)[:, place]
            total = total + log_p.gather(1, tokens[:, place : place + 1])[:, 0]
            masked[:, place] = False
        found.append(total)
    return torch.stack(found, 1)


SPACE = Codes((3,), 3, ordered=False)
ITEMS = torch.tensor(list(product(range(3), repeat=3)))


@torch.no_grad()
def test_in_expectation_it_is_the_mean_over_all_orders():
    density = built(SPACE)
    orders = by_order(density, ITEMS)
    assert float(orders.std(1).mean()) > 0.1, "orders that score alike would show nothing"
    many = 4000
    draws = density.log_prob(ITEMS.repeat_interleave(many, 0)).unflatten(0, (-1, many))
    error = draws.std(1) / many**0.5
    assert bool(((draws.mean(1) - orders.mean(1)).abs() < 5 * error).all())
    assert bool((orders.mean(1) < orders.exp().mean(1).log()).all()), "a bound on the mixture of all orders"


@torch.no_grad()
@pytest.mark.parametrize("known", [0, 1])
def test_one_by_one_it_draws_from_the_mixture_of_all_orders(known: int):
    density = built(SPACE)
    p = by_order(density, ITEMS).exp().mean(1)
    torch.testing.assert_close(p.sum(), torch.ones((), dtype=torch.float64))
    n = 40_000
    how = Drawing(known=torch.full((n, 1), 2)) if known else Drawing()
    x, log_prob = density.draw(n, how=how)
    found = torch.bincount((x * torch.tensor([9, 3, 1])).sum(1), minlength=27) / n
    if known:
        assert bool((x[:, 0] == 2).all())
        first = [order for order in permutations(range(3)) if order[0] == 0]
        assert len(first) == 2
        orders = torch.tensor([order[0] == 0 for order in permutations(range(3))])
        given = by_order(density, ITEMS)[:, orders].exp()
        p = torch.where(ITEMS[:, 0] == 2, (given / _first(density)).mean(1), 0.0)
    assert float((found - p).abs().sum()) < 0.04
    assert bool((log_prob < 0).all())


def _first(density: Any) -> Tensor:
    """The probability of the first code alone, ``(items, 1)``."""
    masked = torch.ones_like(ITEMS, dtype=torch.bool)
    p = density._logits(ITEMS, masked, None).softmax(2)[:, 0]
    return p.gather(1, ITEMS[:, :1])


@torch.no_grad()
def test_fewer_steps_fill_in_all_and_leave_what_is_known():
    space = Codes((2, 4, 4), 5)
    for steps in (1, 3, 8, 31, 32, None):
        density = built(space, steps=steps)
        x, log_prob = density.draw(6)
        space.check_values(x)
        assert bool(log_prob.isfinite().all())
        known = density.beginning(x, 2)
        assert known.shape == (6, 16)
        again, _ = density.draw(6, how=Drawing(known=known))
        assert torch.equal(again[:, :, :2], x[:, :, :2])


@torch.no_grad()
def test_without_noise_the_surest_codes_come_first():
    density = built(Codes((4,), 3), steps=2, spread=0.0)
    masked = torch.ones(1, 4, dtype=torch.bool)
    first = density._logits(torch.zeros(1, 4, dtype=torch.long), masked, None)[0].log_softmax(1).max(1)
    x, _ = density.draw(1, how=Drawing(top_k=1))
    # Of 4 codes floor(4 cos(pi/4)) = 2 stay masked after the first of two steps.
    assert sum(int(x[0, i]) == int(first.indices[i]) for i in range(4)) >= 2


def test_no_step_is_without_a_code():
    space = Codes((2, 2), 3)
    (reason,) = Masked(width=8, heads=2, steps=5).misfits(Slot("prior", space))
    assert reason.key == "steps" and "5 steps are more than the 4 codes" in reason.message
    with pytest.raises(SpaceError, match="5 steps were asked for, and an item has 4 codes"):
        built(space).draw(1, how=Drawing(steps=5))
