"""Samples and pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from compose.core.errors import RunError, SpaceError
from compose.core.model import ModelDensity
from compose.core.spaces import Codes, Real
from compose.parts.densities.model import Model
from compose.parts.stages.latent import LatentStage
from compose.recipe.build import build
from compose.recipe.check import load_recipe, model_slot
from compose.run import sample as room
from compose.run.directory import Run
from compose.run.figures import SIDE, curve, save_grid
from compose.run.sample import CHUNK, sample, sample_with_means


@pytest.fixture(scope="module")
def good(recipe, go, tmp_path_factory) -> Run:
    """A run that has learnt something of the digits."""
    return go(recipe(steps=800, optimizer={"lr": 3e-3}), tmp_path_factory.mktemp("good") / "run")


def test_samples_lie_in_the_space(trained):
    x = sample(trained, 30)
    trained.model().space.check_values(x)
    assert x.shape == (30, 1, 8, 8)
    assert x.unique().numel() > 3


def test_samples_belong_to_their_seed(trained):
    torch.manual_seed(3)
    first = sample(trained.path, 20, seed=5)
    torch.rand(7)
    assert torch.equal(first, sample(trained.model(), 20, seed=5))
    assert not torch.equal(first, sample(trained, 20, seed=6))


def test_sampling_leaves_the_global_stream_alone(trained):
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    sample(trained, 3)
    assert torch.equal(torch.rand(2), wanted)


def test_many_samples_come_in_chunks(trained, monkeypatch):
    monkeypatch.setattr(room, "CHUNK", 7)
    assert sample(trained, 20).shape == (20, 1, 8, 8)


@pytest.mark.long
def test_samples_follow_the_model(good):
    """Their mean is near that of the training images, pixel by pixel; black images would be 4.9 away."""
    images = good.recipe.data.load().train.x.float().mean(0)
    assert (sample(good, 500).float().mean(0) - images).abs().mean() < 1


def test_means_are_samples_without_the_noise_of_the_likelihood(good):
    """The same latents decoded twice: draws scatter about the means, which say the same each time."""
    model = good.model()
    z = model.prior.sample(1).expand(400, -1)
    means, drawn = model.generate(z, means=True), model.generate(z)
    model.space.check_values(means.round().long())
    assert (means == means[0]).all() and not (drawn == drawn[0]).all()
    middle = drawn.double().mean(0)
    assert (means[0] - middle).abs().max() < 2 and (means[0] - middle).abs().mean() < 0.3
    assert (means[0] != means[0].round()).any(), "a mean of levels lies between them"
    shown, plain = sample(good, 50, means=True), sample(good, 50)
    roughness = [x.double().diff(dim=-1).abs().mean() for x in (shown, plain)]
    assert roughness[0] < roughness[1]


@pytest.mark.parametrize("recipe", ["vae", "mhvae", "hvae", "ladder"])
def test_samples_come_with_the_means_of_the_same_latents(recipe: str):
    """Those of ``sample`` to the bit, though stages in between draw for the means too."""
    model = build(load_recipe(recipe)).eval()
    n = CHUNK + 40  # the second chunk goes on where the first left the stream
    drawn, means = sample_with_means(model, n, seed=3)
    assert torch.equal(drawn, sample(model, n, seed=3))
    assert means is not None and means.shape == drawn.shape
    assert isinstance(model.space, Codes)
    model.space.check_values(means.round().long())
    _, again = sample_with_means(model, CHUNK, seed=3)
    assert again is not None and torch.equal(means[:CHUNK], again)


@torch.no_grad()
def test_the_mean_of_bits_is_their_probability():
    """A picture of it is grey, not black and white."""
    part = Model.model_validate({"stages": [{"type": "latent", "likelihood": "bernoulli"}], "prior": "normal"})
    model = part.build(model_slot(Codes((1, 4, 4), 2), None)).eval()
    assert isinstance(model, ModelDensity)
    z = torch.randn(5, *model.prior.space.shape)
    stage = model.stack[0]
    assert isinstance(stage, LatentStage)
    torch.testing.assert_close(model.generate(z, means=True), torch.sigmoid(stage.down(z)[1]))


def test_samples_come_alone_where_there_are_no_means():
    model = build(load_recipe("ar_pixels")).eval()
    drawn, means = sample_with_means(model, 4, seed=3)
    assert torch.equal(drawn, sample(model, 4, seed=3)) and means is None


def test_means_of_what_has_none_are_refused(trained):
    for recipe, why in (("ar_pixels", "the prior draws the data themselves"), ("flow", "there is no likelihood")):
        with pytest.raises(SpaceError, match=why):
            sample(build(load_recipe(recipe)), 1, means=True)


def test_labels_come_where_the_model_is():
    model = build(load_recipe("vae", ["data.labels=true"]))
    turns = room._labels(model, 12, None)
    assert turns is not None and turns.tolist() == [*range(10), 0, 1]
    for label in (None, 3):
        labels = room._labels(model.to("meta"), 2, label)
        assert labels is not None and labels.is_meta


def test_impossible_samples_are_refused(recipe, go, tmp_path, trained):
    with pytest.raises(SpaceError, match="0 samples"):
        sample(trained, 0)
    with pytest.raises(SpaceError, match=r"label 3 .* unconditional; train with data\.labels=true"):
        sample(trained, 2, label=3)
    with pytest.raises(RunError, match="is no run"):
        sample(tmp_path)
    labelled = go(recipe(data={"labels": True}, steps=1), tmp_path / "run")
    for label in (-1, 10):
        with pytest.raises(SpaceError, match=f"label {label} .* classes are 0 to 9"):
            sample(labelled, 2, label=label)


def test_without_a_label_the_classes_take_turns(recipe, go, tmp_path, monkeypatch):
    run = go(recipe(data={"labels": True}, steps=1), tmp_path / "run")
    model = run.model()
    seen: list[torch.Tensor] = []
    real = model.sample
    monkeypatch.setattr(model, "sample", lambda n, c: seen.append(c) or real(n, c))
    sample(model, 25)
    sample(model, 3, label=7)
    assert seen[0].tolist() == [i % 10 for i in range(25)]
    assert seen[1].tolist() == [7, 7, 7]


@pytest.mark.parametrize("name", ["samples", "reconstructions", "curve"])
def test_pictures_are_there_and_of_a_sensible_size(trained, name):
    with Image.open(trained.figures / f"{name}.png") as picture:
        picture.verify()
    with Image.open(trained.figures / f"{name}.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 200 and max(picture.size) <= 1600
        assert len(picture.convert("L").getcolors(10**6) or []) > 4


def test_a_grid_shows_every_image_where_it_belongs(tmp_path):
    """Images of one grey each: the middle of each cell has its grey."""
    x = torch.arange(6).reshape(6, 1, 1, 1).expand(6, 1, 5, 5)
    path = save_grid(x, Codes((1, 5, 5), 6), tmp_path / "deep" / "grid.png", columns=3)
    with Image.open(path) as picture:
        width, height = picture.size
        assert (width, height) == (18 * (SIDE // 12), 12 * (SIDE // 12))
        for i in range(6):
            row, column = divmod(i, 3)
            pixel = picture.getpixel((int((column + 0.4) * width / 3), int((row + 0.4) * height / 2)))
            assert pixel == (51 * i,) * 3


def test_a_grid_takes_colours_and_what_is_no_image(tmp_path):
    save_grid(torch.rand(5, 3, 4, 4), Real((3, 4, 4)), tmp_path / "colours.png")
    save_grid(torch.randn(5, 7), Real((7,)), tmp_path / "rows.png")
    for name in ("colours", "rows"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) >= 1


def test_reconstructions_lie_below_their_originals(good):
    with Image.open(good.figures / "reconstructions.png") as picture:
        grey = torch.from_numpy(np.array(picture.convert("L"))).long()
    scale = grey.shape[1] // (8 * 9)
    cells = grey[scale // 2 :: scale, scale // 2 :: scale].reshape(8, 9, 8, 9)[:, :8, :, :8].permute(0, 2, 1, 3)
    images = (good.recipe.data.load().test.x[:32, 0] / 16 * 255).round().long().reshape(4, 8, 8, 8)
    assert torch.equal(cells[::2], images)
    own, another = ((cells[1::2] - other).float().square().mean() for other in (images, images.flip(1)))
    assert own < 0.8 * another


def test_few_test_images_are_drawn_too(recipe, go, tmp_path, monkeypatch):
    from compose.data.digits import Digits
    from compose.data.source import Source, Split

    real = Digits.load

    def few(self: Digits) -> Source:
        source = real(self)
        return Source("digits", source.space, None, source.train, source.validation, Split(source.test.x[:5]))

    monkeypatch.setattr(Digits, "load", few)
    run = go(recipe(steps=1), tmp_path / "run")
    with Image.open(run.figures / "reconstructions.png") as picture:
        assert picture.width / picture.height == 5 / 2


def test_the_curve_of_two_phases_and_players(recipe, go, tmp_path):
    players = [{"trains": [path], "objectives": [{"objective": "elbo"}]} for path in ("model.stages.0", "model.prior")]
    phases = [{"steps": 4, "batch_size": 50, "players": players}, {"steps": 3, "batch_size": 50}]
    run = go(recipe(prior="mixture", train=phases), tmp_path / "run")
    assert curve(run).stat().st_size > 5000


def test_what_phases_are_judged_by_is_told_apart(recipe, go, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *given, **how: drawn.append(figure))
    autoencoder = {"type": "elbo", "prior": "normal"}
    phases = [{"steps": 3, "batch_size": 50, "objective": each} for each in (autoencoder, "elbo")]
    curve(go(recipe(train=phases), tmp_path / "run"))
    (axes,) = drawn[-1].axes
    looks = {line.get_label(): line.get_marker() for line in axes.get_lines() if "validation" in line.get_label()}
    assert looks.keys() == {"validation -ELBO", "validation -ELBO to N(0, I)"} and len(set(looks.values())) == 2


@pytest.mark.long
def test_the_curve_keeps_what_is_no_nats_apart(recipe, go, tmp_path, monkeypatch):
    """A denoising loss has an axis of its own, and a bound that a solver found has its tilde."""
    prior = {"type": "flow_matching", "net": {"type": "resmlp", "width": 8, "blocks": 1}}
    phases = [{"steps": 4, "batch_size": 50, "objective": "denoising"}]
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *given, **how: drawn.append(figure))
    curve(go(recipe(stages=["dequantize"], prior=prior, train=phases), tmp_path / "run"), "~")
    left, right = drawn[-1].axes
    said = [line.get_label() for line in left.get_lines()]
    assert "validation ~-ELBO" in said and "loss" not in said and left.get_ylabel() == "nats per example"
    (line,) = right.get_lines()
    assert len(line.get_ydata()) >= 1 and "no nats" in right.get_ylabel()
