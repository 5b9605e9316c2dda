"""Points of the plane: their density is a density, and they are from it."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compose.core import registry
from compose.core.spaces import Real
from compose.data.planar import PLANAR, Gaussians, Squares
from compose.data.toy import Toy

#: Half the side of a window that holds the mass, and how many cells a side are finer than its detail.
WINDOWS = {
    "ring": (2.2, 1100),
    "grid25": (4.4, 900),
    "moons": (5.0, 400),
    "checkerboard": (5.0, 400),
    "spirals": (4.2, 400),
}


def _on_a_grid(shape: str) -> tuple[torch.Tensor, float, torch.Tensor]:
    """The log-density at the middle of each cell, the area of a cell, and the middles."""
    half, cells = WINDOWS[shape]
    axis = ((torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 - 1) * half
    at = torch.cartesian_prod(axis, axis)
    return PLANAR[shape]().log_prob(at), (2 * half / cells) ** 2, at


@pytest.mark.parametrize("shape", WINDOWS)
def test_the_density_is_one_and_the_samples_are_from_it(shape: str) -> None:
    """Mass, entropy and moments of a grid against those of a sample of 20,000."""
    log_p, area, at = _on_a_grid(shape)
    p = log_p.exp()
    assert float(p.sum()) * area == pytest.approx(1, abs=1e-6)
    entropy = float(torch.special.entr(p).sum()) * area
    x = torch.from_numpy(PLANAR[shape]().sample(20_000, np.random.RandomState(3)))
    cost = -PLANAR[shape]().log_prob(x)
    # The checkerboard's density has one value: then there is no spread, and only rounding.
    assert abs(float(cost.mean()) - entropy) < 4 * float(cost.std()) / math.sqrt(len(cost)) + 1e-6
    for of in (lambda v: v, lambda v: v**2, lambda v: v[:, :1] * v[:, 1:], lambda v: torch.sin(3 * v)):
        wanted = (p[:, None] * of(at)).sum(0) * area
        came = of(x)
        assert ((came.mean(0) - wanted).abs() < 4.5 * came.std(0) / math.sqrt(len(came)) + 1e-6).all()


def test_every_shape_is_offered() -> None:
    assert set(get_args(Toy.model_fields["shape"].annotation)) == set(PLANAR) == set(WINDOWS)
    assert registry.load("data", "toy") is Toy


@pytest.mark.parametrize("shape", WINDOWS)
def test_loaded_as_declared_with_the_floor_of_each_split(shape: str) -> None:
    part = Toy.model_validate({"shape": shape, "train": 300, "validation": 200, "test": 100})
    source = part.load()
    assert part.spaces() == (source.space, source.condition) == (Real((2,)), None)
    assert source.describe() == "toy, real, 2, 300/200/100"
    assert source.floor is not None and source.floor_of == "the true density"
    for name, count in (("train", 300), ("validation", 200), ("test", 100)):
        x = source.split(name).x
        assert x.dtype == torch.float32 and x.shape == (count, 2) and x.isfinite().all()
        assert source.floor[name] == pytest.approx(-float(part.density().log_prob(x).mean()), rel=1e-12)
        assert math.isfinite(source.floor[name])
    assert source.protocol("test") == {
        "data": "toy",
        "split": "test",
        "digest": source.test.digest,
        "data digest": source.digest,
        "examples": 100,
        "density": shape,
        "seed": 0,
        "values": "real",
    }


def test_draws_belong_to_their_seed_and_their_split() -> None:
    first, same, other = (Toy(train=50, validation=50, test=50, seed=seed).load() for seed in (1, 1, 2))
    assert first.digest == same.digest != other.digest
    assert not torch.equal(first.train.x, first.test.x)
    longer = Toy(train=80, validation=60, test=50, seed=1).load()
    assert torch.equal(longer.test.x, first.test.x)
    assert first.protocol("test")["seed"] == 1


def test_batches_are_rows_of_the_training_split() -> None:
    source = Toy(train=50, validation=2, test=2).load()
    index = torch.tensor([7, 0, 7, 49])
    x, y = source.train_batch(index, torch.Generator())
    assert torch.equal(x, source.train.x[index]) and y is None
    halves = [source.train_batch(index, torch.Generator(), (rank, 2))[0] for rank in range(2)]
    assert torch.equal(torch.cat(halves), x)


def test_reals_take_the_precision_that_is_asked_for() -> None:
    source = Toy(train=5, validation=5, test=5).load()
    assert source.to("cpu", torch.float64).test.x.dtype == torch.float64
    assert source.to("cpu").test.x.dtype == torch.float32


def test_densities_against_their_formulas() -> None:
    x = torch.tensor([[0.3, -0.2], [1.0, 2.0]], dtype=torch.float64)
    one = Gaussians(np.array([[1.0, -1.0], [0.0, 0.5]]), 0.7).log_prob(x)
    parts = [
        torch.distributions.MultivariateNormal(torch.tensor(mean, dtype=torch.float64), 0.49 * torch.eye(2).double())
        for mean in ([1.0, -1.0], [0.0, 0.5])
    ]
    torch.testing.assert_close(one, torch.stack([part.log_prob(x) for part in parts]).logsumexp(0) - math.log(2))
    squares = Squares(np.array([[0.0, 0.0], [3.0, 0.0]]), 2.0).log_prob(torch.tensor([[0.0, 2.0], [2.5, 1.0], [4, 1]]))
    assert squares.tolist() == [-math.log(8), -math.inf, -math.log(8)]


@pytest.mark.parametrize("options", [{"shape": "star"}, {"train": 0}, {"test": 2.5}, {"seed": -1}, {"labels": True}])
def test_options_that_do_not_hold_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as error:
        Toy.model_validate(options)
    assert len(error.value.errors()) == 1
