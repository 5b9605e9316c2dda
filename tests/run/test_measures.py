"""Measures without a likelihood, against what is known of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import numpy as np
import pytest
import torch
from torch import Tensor

from compose.core.errors import DataError, RunError
from compose.core.spaces import Codes
from compose.data.arrays import Arrays
from compose.data.digits import Digits
from compose.data.stacked import Stacked
from compose.data.toy import Toy
from compose.recipe.build import build
from compose.recipe.check import load_recipe
from compose.recipe.recipe import Recipe
from compose.run import features as room
from compose.run import measures as measuring
from compose.run.features import Classifier, features
from compose.run.measures import coverage, frechet, measures, sampling, stacked_modes


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def gaussian(n: int, mean: float = 0.0, scale: float = 1.0, d: int = 4) -> Tensor:
    """Features whose mean and covariance are exactly these."""
    x = torch.randn(n, d, dtype=torch.float64)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False).T
    return mean + scale * white


def test_frechet_distance_of_gaussians():
    """Of N(m, s^2 I) from N(0, I) in d dimensions it is ``d (m^2 + (s - 1)^2)``."""
    assert frechet(gaussian(500), gaussian(300, 2.0, 3.0)) == pytest.approx(4 * (4 + 4), rel=1e-9)
    assert frechet(gaussian(500), gaussian(400)) == pytest.approx(0, abs=1e-9)


def test_a_set_covers_itself():
    x = torch.randn(300, 3, dtype=torch.float64)
    found = coverage(x, torch.randn(300, 3, dtype=torch.float64), x)
    assert found["coverage"] == found["precision"] == found["recall"] == 1
    assert found["Frechet distance"] == pytest.approx(0, abs=1e-9)
    assert found["of real from real"] > 0
    assert found["density"] == pytest.approx((300 * 6) / (300 * 5), rel=0.2)  # itself and its 5 neighbours reach it


def test_a_collapsed_model_covers_little():
    real = torch.randn(400, 2, dtype=torch.float64)
    fake = real[:1] + 1e-3 * torch.randn(400, 2, dtype=torch.float64)
    found = coverage(real, torch.randn(400, 2, dtype=torch.float64), fake)
    assert found["coverage"] < 0.05 and found["recall"] < 0.05 and found["precision"] > 0.95


def test_samples_far_away_have_no_precision():
    real = torch.randn(200, 2, dtype=torch.float64)
    found = coverage(real, real, real + 100)
    assert found["coverage"] == found["precision"] == found["recall"] == found["density"] == 0
    assert found["Frechet distance"] == pytest.approx(20_000, rel=1e-6)


def test_the_interval_holds_the_distance_of_other_samples():
    real, fake = (torch.randn(500, 2, dtype=torch.float64) + shift for shift in (0.0, 1.0))
    low, high = coverage(real, real, fake)["interval"]
    assert low < 2.0 < high


def test_points_are_compared_as_they_are():
    data = Toy(train=50, validation=10, test=10)
    known = features(data, data.load())
    assert known is not None
    seen, said = known
    assert torch.equal(seen(torch.ones(3, 2)), torch.ones(3, 2))
    assert said == {"features": "the 2 numbers themselves"}


@pytest.mark.long
def test_a_classifier_is_trained_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMPOSE_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "STEPS", 60)
    data, calls = Digits(), []
    trained = room._trained
    monkeypatch.setattr(room, "_trained", lambda *given: calls.append(1) or trained(*given))
    first, again = features(data, data.load()), features(data, data.load())
    assert first is not None and again is not None
    x = data.load().test.x[:20]
    assert first[0](x).shape == (20, room.WIDTH)
    assert torch.equal(first[0](x), again[0](x)) and calls == [1]
    assert first[1] == again[1] and first[1]["classifier accuracy"] > 0.5
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    mended = features(data, data.load())
    assert mended is not None and calls == [1, 1] and torch.equal(first[0](x), mended[0](x))


def test_where_no_classifier_can_be_kept_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("COMPOSE_CACHE", str(tmp_path / "taken"))
    with pytest.raises(RunError, match=r"taken, where classifiers .* cannot be written: .*COMPOSE_CACHE names another"):
        room.classifier(Digits())


def test_of_one_file_read_as_other_levels_there_is_another_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The levels are the same numbers, and a net sees them divided by how many there are."""
    monkeypatch.setenv("COMPOSE_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "STEPS", 2)
    x = np.random.RandomState(0).randint(4, size=(30, 12, 12))
    np.savez(tmp_path / "x.npz", x=x, labels=np.arange(30) % 3)
    few, many = (Arrays(file=tmp_path / "x.npz", levels=levels) for levels in (4, 256))
    assert few.load().digest == many.load().digest
    (net, said), (other, of_many) = (found for part in (few, many) if (found := room.classifier(part)) is not None)
    assert said["classifier"] != of_many["classifier"]
    assert (net.space, other.space) == (Codes((1, 12, 12), 4), Codes((1, 12, 12), 256))
    assert not all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_of_two_that_need_a_classifier_at_once_one_trains_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMPOSE_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "STEPS", 60)
    data, calls, meet = Digits(), [], Barrier(2)
    read, trained = room._read, room._trained
    monkeypatch.setattr(room, "_trained", lambda *given: calls.append(1) or trained(*given))

    def both_find_none(*given):
        found = read(*given)
        with suppress(BrokenBarrierError):
            meet.wait(10)
        meet.abort()  # the second look of each, behind the lock, waits for nobody
        return found

    monkeypatch.setattr(room, "_read", both_find_none)
    with ThreadPoolExecutor(2) as pool:
        one, other = (later.result() for later in [pool.submit(features, data, data.load()) for _ in range(2)])
    assert one is not None and other is not None and calls == [1]
    x = data.load().test.x[:20]
    assert torch.equal(one[0](x), other[0](x))


@pytest.mark.long
def test_the_first_model_whose_modes_are_counted_trains_the_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMPOSE_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "STEPS", 60)
    recipe = load_recipe("gan_stacked", ["data.train=30", "data.validation=20", "data.test=10"])
    found = measures(build(recipe).eval(), recipe, recipe.data.load())
    assert 1 <= found["modes"]["found"] < 1000 and found["modes"]["of"] == 1000


@pytest.mark.slow
def test_the_classifier_of_the_digits_is_accurate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMPOSE_CACHE", str(tmp_path))
    monkeypatch.setattr(room, "STEPS", 1500)
    data = Digits()
    known = features(data, data.load())
    assert known is not None and known[1]["classifier accuracy"] > 0.96


def test_data_without_labels_have_no_features(tmp_path: Path):
    np.save(tmp_path / "x.npy", np.random.RandomState(0).randint(4, size=(30, 1, 12, 12)).astype(np.uint8))
    data = Arrays(file=tmp_path / "x.npy", levels=4)
    assert features(data, data.load()) is None


def test_a_classifier_of_vectors_is_an_mlp():
    assert Classifier(Codes((3, 4, 4), 5), 2).features(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)).shape == (2, 64)
    assert math.prod(Classifier(Codes((1, 8, 8), 17), 2).last.weight.shape) == 128


@pytest.mark.parametrize(
    ("shape", "of"), [("ring", 8), ("grid25", 25), ("moons", None), ("spirals", None), ("checkerboard", None)]
)
def test_modes_are_counted_where_they_lie_apart(shape: str, of: int | None):
    data = {"type": "toy", "shape": shape, "train": 20, "validation": 20, "test": 20}
    recipe = Recipe.model_validate({"data": data, "model": {"stages": []}, "train": [{"steps": 1}]})
    found = measures(build(recipe), recipe, recipe.data.load())
    assert found.get("modes", {}).get("of") == of


def test_modes_of_stacks():
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)
    assert stacked_modes(every, 4) == {"found": 64, "of": 64, "reverse KL": pytest.approx(0, abs=1e-6)}
    one = torch.tensor([[1, 2, 3]]).repeat(50, 1)
    assert stacked_modes(one, 4) == {"found": 1, "of": 64, "reverse KL": pytest.approx(math.log(64))}


def test_stacks_are_images_of_their_own_split():
    data = Stacked(train=30, validation=20, test=10)
    source, grey = data.load(), Digits().load()
    assert source.space == Codes((3, 8, 8), 17) and len(source.train) == 30
    for name in ("train", "validation", "test"):
        known = {bytes(image.numpy()) for image in grey.split(name).x}
        assert all(bytes(colour.numpy()) in known for stack in source.split(name).x for colour in stack.split(1))
    assert data.load().digest == source.digest != Stacked(train=30, validation=20, test=10, seed=1).load().digest


@pytest.mark.parametrize("of", [{"type": "toy"}, {"type": "photographs"}, {"type": "digits", "binarize": True}])
def test_only_grey_levels_are_stacked(of):
    with pytest.raises(DataError, match="stacks grey images of levels"):
        Stacked.model_validate({"of": of}).spaces()


@pytest.mark.long
@pytest.mark.parametrize(
    "recipe, calls",
    [
        ("vae", 1),
        ("ar_pixels", 64),  # one for each pixel, from the cache
        ("pixelvae", 65),  # and one of the decoder
        ("vqvae", 5),  # four codes and the decoder
        ("diffusion", 64),
        ("diffusion data.labels=true model.prior.labels=true", 64),
        ("flow_matching data.labels=true model.prior.labels=true model.prior.steps=2", 8),
    ],
)
def test_calls_of_a_network_are_counted_however_it_draws(recipe: str, calls: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "TIMED", 4)  # each call is one of the whole batch
    name, *overrides = recipe.split()
    loaded = load_recipe(name, overrides)
    model = build(loaded).eval()
    assert sampling(model, loaded, 0)["network evaluations"] == calls
    assert sampling(model, loaded, 0)["network evaluations"] == calls
