"""Data of reals, from the batches to the ledger and the pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from compose.core.declare import Slot
from compose.core.spaces import Codes, Real
from compose.data.toy import Toy
from compose.nets.mlp import MLP
from compose.parts.densities.model import Model
from compose.parts.densities.normal import Normal
from compose.parts.stages.bijection import Bijection
from compose.parts.stages.latent import Latent
from compose.recipe.recipe import Recipe
from compose.run.directory import Run
from compose.run.evaluate import evaluate
from compose.run.figures import save_grid
from compose.run.ledger import decimals
from compose.run.plane import _density, _histogram
from tests.docs.blocks import run_compose

pytestmark = pytest.mark.long

TOY = {"train": 2000, "validation": 300, "test": 400}


def _recipe(model: Model | None = None, **phase: object) -> Recipe:
    flow = {"type": "flow", "layers": 2, "hidden": 8}
    phases = [{"steps": 20, "batch_size": 100, "objective": "maximum_likelihood", **phase}]
    return Recipe.model_validate(
        {"data": Toy.model_validate(TOY), "model": model or Model(prior=flow), "train": phases}
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(go, tmp_path_factory) -> Run:
    return go(_recipe(), tmp_path_factory.mktemp("toy") / "run")


def test_scores_have_a_floor_and_no_bits(run):
    source = run.recipe.data.load()
    for name, told in run.scores()["splits"].items():
        assert told["floor"] == source.floor[name]
        assert told["reducible"] == pytest.approx(told["-ELBO"] - told["floor"])
        assert told["reducible"] > 0
        assert told["bits_per_dim"] is None and told["NLL_bits_per_dim"] is None
        assert told["protocol"]["density"] == "moons" and told["protocol"]["values"] == "real"
        assert told["protocol"]["kind"] == "exact" and told["K"] == 1
    assert run.scores()["health"] == []
    assert run.record["data"]["is"] == "toy, real, 2, 2000/300/400"


def test_training_gains_on_the_points(run, go, tmp_path):
    """Of what a standard normal would cost above the true density, 60 steps take most away."""
    source = run.recipe.data.load()
    x = source.test.x.double()
    normal = float((0.5 * x.square().sum(1) + np.log(2 * np.pi)).mean()) - source.floor["test"]
    longer = go(_recipe(steps=60, optimizer={"lr": 1e-2}), tmp_path / "longer")
    assert 0 < longer.scores()["splits"]["test"]["reducible"] < 0.5 * normal


def test_the_train_split_of_reals_has_a_score(run):
    assert evaluate(run, splits=("train",))["splits"]["train"]["examples"] == 2000
    evaluate(run)


def test_double_precision_trains_on_doubles(go, tmp_path):
    assert go(_recipe(steps=3), tmp_path / "run", precision="64-true").scores()["splits"]["test"]["-ELBO"] > 0


def test_the_ledger_names_its_floor(run):
    _, out = run_compose(["show", str(run.path)])
    said = " ".join(out.split())
    told = run.scores()["splits"]["test"]
    assert "L is an exact weight" in said
    assert "floor of the true density" in said and "bits/dim" not in said and "binarisation" not in said
    digits = decimals(told["standard_error"])
    assert digits == 3
    assert (
        f"at most {told['reducible']:.3f} nats are reducible: the true density itself costs {told['floor']:.3f}" in said
    )


@pytest.mark.parametrize(
    ("error", "digits"), [(0.6, 2), (0.1, 2), (0.099, 3), (0.01, 3), (0.0021, 4), (12, 2), (0.0, 2), (float("nan"), 2)]
)
def test_two_digits_of_the_error_are_printed(error, digits):
    assert decimals(error) == digits


def test_runs_on_reals_are_compared_in_nats(run, go, tmp_path):
    other = go(_recipe(steps=40), tmp_path / "other")
    code, out = run_compose(["diff", str(run.path), str(other.path)])
    assert code == 0
    assert "test: the protocols are the same." in out and "-ELBO" in out and "bits/dim" not in out


def _panels(path) -> np.ndarray:
    """The middle panel's pixels against a white page: colours but for black, white and the points' blue."""
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > 2 * picture.height > 400
        return np.asarray(picture.convert("RGB")).astype(int)


def test_the_picture_shows_data_density_and_samples(run, tmp_path):
    pixels = _panels(run.figures / "samples.png")
    left, middle, right = np.array_split(pixels, 3, axis=1)
    for points in (left, right):  # blue points on white
        assert ((points[..., 2] - points[..., 0]) > 40).sum() > 300
    assert ((middle[..., 0] - middle[..., 2]) > 40).sum() > 300  # the warm side of the colour map
    assert not (run.figures / "reconstructions.png").exists()
    _, out = run_compose(["sample", str(run.path), "-n", "50", "--out", str(tmp_path / "few.png")])
    assert "few.png" in out
    few = np.array_split(_panels(tmp_path / "few.png"), 3, axis=1)[2]
    assert 0 < ((few[..., 2] - few[..., 0]) > 40).sum() < ((right[..., 2] - right[..., 0]) > 40).sum()


def test_the_density_that_is_drawn_is_the_models(run):
    """A model that is known: the brightest cell lies at its mode, and the cells add up to its mass."""
    model = Model(prior=Normal()).build(Slot("prior", Real((2,))))
    window = (-4.0, 6.0, -5.0, 5.0)
    found = _density(model, window)  # type: ignore[arg-type]
    assert float(found.sum()) * (10 / len(found)) ** 2 == pytest.approx(1, abs=1e-3)
    row, column = divmod(int(found.argmax()), found.shape[1])
    assert abs(row - len(found) / 2) <= 1 and abs(column - 0.4 * len(found)) <= 1


def test_where_there_is_no_density_the_samples_are_counted(go, tmp_path):
    net = MLP(hidden=[8])
    model = Model(stages=[Latent(dim=2, encoder=net, decoder=net, likelihood="normal")])  # type: ignore[arg-type]
    run = go(_recipe(model, objective="elbo"), tmp_path / "run")
    assert run.scores()["kind"] == "weight"
    assert run.scores()["splits"]["test"]["reducible"] > 0
    assert len(run.scores()["health"]) == 1
    _panels(run.figures / "samples.png")
    x = torch.tensor([[0.1, 0.9], [0.1, 0.9], [0.9, 0.1], [5.0, 5.0]])
    counts = _histogram(x, (0.0, 1.0, 0.0, 1.0))
    assert counts.sum() == 3 and counts[int(0.9 * len(counts)), int(0.1 * len(counts))] == 2


def test_flow_stages_on_reals_reconstruct(go, tmp_path):
    run = go(_recipe(Model(stages=[Bijection(layers=2, hidden=8)])), tmp_path / "run")
    assert run.scores()["kind"] == "exact"
    assert sorted(path.name for path in run.figures.glob("*.png")) == ["curve.png", "samples.png"]


def test_real_images_are_drawn_without_their_outliers(tmp_path):
    x = torch.linspace(-1, 1, 16 * 64).reshape(16, 1, 8, 8)
    x[0, 0, 0, 0], x[-1, 0, -1, -1] = -1000.0, 1000.0
    save_grid(x, Real((1, 8, 8)), tmp_path / "real.png")
    with Image.open(tmp_path / "real.png") as picture:
        levels = np.asarray(picture.convert("L"))
    assert len(np.unique(levels)) > 200


def test_colours_are_drawn_in_colour(tmp_path):
    x = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    for i in range(3):
        x[i, i] = 7
    save_grid(x, Codes((3, 4, 4), 8), tmp_path / "colours.png", columns=3)
    with Image.open(tmp_path / "colours.png") as picture:
        width, height = picture.size
        seen = [picture.getpixel((int((i + 0.4) * width / 3), height // 3)) for i in range(3)]
    assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
