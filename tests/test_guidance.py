"""Samples guided by their label: against logits mixed by hand, and by what they come to."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.core import random
from compose.core.declare import Slot
from compose.core.drawing import Drawing
from compose.core.errors import SpaceError
from compose.core.roles import ByLabel
from compose.core.spaces import Codes
from compose.parts.densities.autoregressive import Autoregressive, AutoregressiveDensity
from compose.parts.densities.masked import Masked, MaskedDensity
from compose.testing import check_part
from compose.testing.noise import Tape
from compose.testing.variants import shake

LABELS = Codes((), 3, ordered=False)
PARTS = {
    "transformer": Autoregressive(labels=True, layers=1, width=8, heads=2, context=3),
    "rotary": Autoregressive(labels=True, layers=1, width=8, heads=2, context=3, positions="rotary"),
    "causal_conv": Autoregressive(labels=True, network="causal_conv", layers=2, width=8, kernel=3, context=3),
    "masked": Masked(labels=True, layers=1, width=8, heads=2, context=3),
}
SPACE = Codes((1, 2, 2), 3)


def built(name: str, space: Codes = SPACE, unlabelled: float = 0.3) -> ByLabel:
    """A shaken density by label, in float64."""
    part = PARTS[name].model_copy(update={"unlabelled": unlabelled})
    slot = Slot("prior", space, labels=LABELS)
    assert not list(part.misfits(slot))
    with random.region(0):
        density = shake(part.build(slot).double(), 2.0).eval()
    assert isinstance(density, ByLabel)
    return density


def drawn(density: ByLabel, c: Tensor, how: Drawing) -> tuple[Tensor, Tensor]:
    with random.region(1):
        return density.draw(len(c), c, how)


C = torch.arange(60) % 3


@pytest.mark.parametrize("name", PARTS)
def test_guided_once_it_draws_as_it_does(name: str):
    density = built(name)
    with random.region(1):
        plain = density.sample(60, C)
    x, said = drawn(density, C, Drawing(guidance=1.0))
    assert torch.equal(plain, x)
    if name != "masked":
        torch.testing.assert_close(said, density.log_prob(x, C).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PARTS)
def test_guided_by_nothing_it_draws_as_without_a_label(name: str):
    density = built(name)
    without = density.embedding.weight[3].expand(60, -1).unflatten(1, density.shape)
    with random.region(1):
        x, said = density.density.draw(60, without)
    for c in (C, C.flip(0)):
        again, log_prob = drawn(density, c, Drawing(guidance=0.0))
        assert torch.equal(again, x)
        torch.testing.assert_close(log_prob, said, rtol=0, atol=1e-12)


def logits(density: ByLabel, tokens: Tensor, c: int) -> Tensor:
    """Of each code given those before it, at once and without a cache, ``(n, places, size)``."""
    inner = density.density
    features = density.embedding.weight[c].expand(len(tokens), -1).unflatten(1, density.shape)
    if isinstance(inner, MaskedDensity):
        masked = torch.ones_like(tokens, dtype=torch.bool)
        masked[:, 0] = False
        return inner._logits(tokens, masked, features)
    assert isinstance(inner, AutoregressiveDensity)
    return inner.head(inner.network(inner._seen(tokens) + inner._places(features)))


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("guidance", [0.5, 3.0])
@pytest.mark.parametrize("name", PARTS)
def test_it_draws_from_logits_that_are_mixed_by_hand(name: str, guidance: float, temperature: float):
    """All items of two codes; of the masked ones the second code, for the order of both is up to chance."""
    density, n, first = built(name, Codes((2,), 3)), 4000, 1 if name == "masked" else 0
    items = torch.tensor(list(product(range(3), repeat=2)))
    for label in range(3):
        without, given = logits(density, items, 3), logits(density, items, label)
        mixed = ((without + guidance * (given - without)) / temperature).log_softmax(2)
        wanted = mixed.gather(2, items[..., None])[:, first:, 0].sum(1)
        known = torch.zeros(n, first, dtype=torch.long)
        x, said = drawn(density, torch.full((n,), label), Drawing(temperature, known=known, guidance=guidance))
        which = (x * torch.tensor([3, 1])).sum(1)
        torch.testing.assert_close(said, wanted[which], rtol=0, atol=1e-12)
        p = wanted.exp() * (items[:, :first] == 0).all(1)
        assert float(p.sum()) == pytest.approx(1)
        assert float((torch.bincount(which, minlength=9) / n - p).abs().sum()) < 0.08


@pytest.mark.parametrize("name", PARTS)
def test_guided_more_it_draws_more_of_its_class(name: str):
    """Items whose codes are their label's more often than not."""
    part, space = PARTS[name].model_copy(update={"unlabelled": 0.2}), Codes((4,), 3)
    with random.region(0):
        density = part.build(Slot("prior", space, labels=LABELS))
        optimizer = torch.optim.AdamW(density.parameters(), lr=2e-2)
        for _ in range(80):
            c = torch.randint(3, (128,))
            x = torch.where(torch.rand(128, 4) < 0.4, c[:, None], torch.randint(3, (128, 4)))
            optimizer.zero_grad()
            (-density(x, c).mean()).backward()
            optimizer.step()
    assert isinstance(density, ByLabel)
    c = torch.arange(600) % 3
    shares = [
        float((drawn(density.eval(), c, Drawing(guidance=w))[0] == c[:, None]).float().mean()) for w in (0.0, 1.0, 3.0)
    ]
    assert shares[0] < shares[1] - 0.1 and shares[1] < shares[2] - 0.1


@pytest.mark.parametrize("name", ["transformer", "masked"])
def test_in_training_so_many_labels_are_hidden_and_in_evaluation_none(name: str):
    density, tape = built(name, unlabelled=0.3), Tape()
    x = torch.zeros(4000, 1, 2, 2, dtype=torch.long)
    c = torch.ones(4000, dtype=torch.long)
    seen: list[Tensor] = []
    density.embedding.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    with torch.no_grad(), tape.record():
        density.log_prob(x, c)
    assert torch.equal(seen.pop(), c)
    before = len(tape.draws)
    with torch.no_grad(), Tape().record():
        density.train().log_prob(x, c)
    assert set(seen[0].tolist()) == {1, 3}
    assert float((seen.pop() == 3).float().mean()) == pytest.approx(0.3, abs=0.03)
    plain, tape = built(name, unlabelled=0.0).train(), Tape()
    with torch.no_grad(), tape.record():
        plain.log_prob(x, c)
    assert len(tape.draws) == before and len(plain.embedding.weight) == 3


@pytest.mark.parametrize("type", ["autoregressive", "masked"])
def test_it_is_declared(type: str):
    part = {"autoregressive": Autoregressive, "masked": Masked}[type]
    assert not part().training_differs
    assert part(labels=True, unlabelled=0.1).training_differs == "a share of 0.1 of its labels is hidden"
    assert "dropped, a share of 0.1" in part(labels=True, unlabelled=0.1, dropout=0.2).training_differs
    (misfit,) = part(unlabelled=0.1).misfits(Slot("prior", SPACE, labels=LABELS))
    assert misfit.key == "unlabelled" and "takes none (labels: true)" in misfit.message


def test_the_contracts_of_a_part_that_hides_labels():
    part = Autoregressive(labels=True, unlabelled=0.3)
    names = ["gradient_reaches_every_parameter", "values_have_their_shapes", "samples_follow_their_conditions"]
    assert all(check_part(part, names).values())


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf])
def test_impossible_guidance(wrong: float):
    with pytest.raises(SpaceError, match=r"guidance is .*; wanted 0 at least"):
        Drawing(guidance=wrong)


@pytest.mark.parametrize("name", PARTS)
def test_what_was_never_without_its_label_cannot_be_guided(name: str):
    density: Any = built(name, unlabelled=0.0)
    for asked in (density, density.density):
        c = C if asked is density else torch.randn(60, *density.density.condition.shape, dtype=torch.float64)
        with pytest.raises(SpaceError, match=r"train its prior with labels: true and unlabelled: 0\.1"):
            asked.draw(60, c, Drawing(guidance=2.0))
