"""The order of the data and its noise: functions of seed, phase and step, and of nothing else."""

from __future__ import annotations

import pytest
import torch

from compose.core import random
from compose.data.digits import Digits
from compose.data.source import Source
from compose.recipe.build import build
from compose.run.batches import Batches
from compose.run.stretch import Stretch


@pytest.fixture(scope="module")
def grey() -> Source:
    return Digits(labels=True).load()


@pytest.fixture(scope="module")
def binary() -> Source:
    return Digits(binarize=True).load()


def rows(batches: Batches, steps: int) -> torch.Tensor:
    """Which training examples the first steps take, in order."""
    source = batches.source
    marked = Source(
        source.name,
        source.space,
        source.condition,
        type(source.train)(source.train.x, torch.arange(len(source.train))),
        source.validation,
        source.test,
    )
    batches.source = marked
    taken = [batches.at(step)[1] for step in range(steps)]
    batches.source = source
    return torch.cat([part for part in taken if part is not None])


@pytest.mark.parametrize("size", [1, 32, 50, 300, 1000, 2300])
def test_every_epoch_is_a_permutation_without_a_gap(grey, size):
    steps = -(-3000 // size)
    order = rows(Batches(grey, size, seed=0, phase=0), steps)
    assert len(order) == steps * size
    epochs = order[:3000].view(3, 1000)
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(1000))
    assert not torch.equal(epochs[0], epochs[1])


def test_the_order_belongs_to_seed_and_phase(grey):
    first = rows(Batches(grey, 100, seed=0, phase=0), 10)
    assert torch.equal(first, rows(Batches(grey, 100, seed=0, phase=0), 10))
    assert not torch.equal(first, rows(Batches(grey, 100, seed=1, phase=0), 10))
    assert not torch.equal(first, rows(Batches(grey, 100, seed=0, phase=1), 10))


@pytest.mark.parametrize("which", ["grey", "binary"])
def test_a_step_is_the_same_whatever_came_before(which, request):
    """Backwards, from the middle, and with other draws in between."""
    source = request.getfixturevalue(which)
    forward = Batches(source, 300, seed=3, phase=0)
    wanted = [forward.at(step)[0] for step in range(12)]
    for step in reversed(range(12)):
        torch.rand(step + 1)
        found = Batches(source, 300, seed=3, phase=0).at(step)[0]
        assert torch.equal(found, wanted[step])


def test_binarisation_is_fresh_each_step_and_has_the_right_mean(binary):
    batches = Batches(binary, 1000, seed=0, phase=0)
    order = rows(batches, 50).view(50, 1000)
    drawn = torch.stack([batches.at(step)[0] for step in range(50)])
    expected = binary.train.x.float().mean((0, 1)) / 16
    # 50,000 draws a pixel: a standard error of at most 0.0023.
    assert (drawn.float().mean((0, 1, 2)) - expected).abs().max() < 0.012
    # Where two steps in a row have grey 8, p = 1/2, at the same place of the batch, they agree half of the time.
    even = binary.train.x[order] == 8
    both = even[1:] & even[:-1]
    agreed = (drawn[1:] == drawn[:-1])[both].float()
    assert len(agreed) > 1000
    assert agreed.mean() == pytest.approx(0.5, abs=4 * 0.5 / len(agreed) ** 0.5)


def test_shards_are_the_parts_of_the_batch(binary):
    whole = Batches(binary, 60, seed=0, phase=0)
    parts = [Batches(binary, 60, seed=0, phase=0, shard=(rank, 3)) for rank in range(3)]
    for step in (0, 16, 17):
        assert torch.equal(whole.at(step)[0], torch.cat([part.at(step)[0] for part in parts]))


def test_the_whole_set_comes_once_in_order(grey, binary):
    images = torch.cat([x for x, _ in Batches(grey, 50, seed=0, phase=0).all(300)])
    assert torch.equal(images, grey.train.x)
    again = [torch.cat([x for x, _ in Batches(binary, 50, seed=0, phase=0).all()]) for _ in range(2)]
    assert torch.equal(*again)


def test_an_extra_draw_in_one_stream_shifts_no_other():
    """Each stream of the names that a training uses, with and without a draw in every other."""
    names = [
        ("initialisation",),
        ("data order", 0, 0),
        ("data noise", 0, 0),
        ("model noise", 0, 0, 0),
        ("evaluation", 0),
    ]

    def draws(extra: int) -> list[torch.Tensor]:
        found = []
        for name in names:
            with random.region(0, *name):
                found.append(torch.rand(3))
                torch.rand(extra)
        return found

    assert all(torch.equal(*pair) for pair in zip(draws(0), draws(7), strict=True))
    assert len({tuple(values.tolist()) for values in draws(0)}) == len(names)


def test_an_extra_draw_of_the_model_shifts_neither_data_nor_later_steps(recipe, go, tmp_path, monkeypatch):
    made = recipe(data={"binarize": True}, steps=6)
    plain = go(made, tmp_path / "plain")
    real = Stretch._reseed

    def greedy(self: Stretch, player: int, step: int) -> None:
        real(self, player, step - 1)
        torch.rand(5 + step)
        real(self, player, step)

    monkeypatch.setattr(Stretch, "_reseed", greedy)
    torch.manual_seed(12345)
    noisy = go(made, tmp_path / "noisy")
    assert (plain.path / "model.safetensors").read_bytes() == (noisy.path / "model.safetensors").read_bytes()


def test_the_seed_decides_weights_and_the_data_do_not(recipe):
    first, same, other = (build(recipe(seed=seed)).state_dict() for seed in (0, 0, 1))
    torch.rand(3)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["stages.0.encoder.layers.0.weight"], other["stages.0.encoder.layers.0.weight"])


def test_training_leaves_the_global_stream_to_its_user(recipe):
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    build(recipe())
    assert torch.equal(torch.rand(2), wanted)
