"""What a person reads: where, what came, what was wanted, what fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compose.core.errors import Fault, RecipeError
from compose.nets.mlp import MLP
from compose.parts.densities.model import Model
from compose.parts.densities.normal import Normal
from compose.parts.stages.latent import Latent
from compose.recipe.build import build
from compose.recipe.check import check, check_declared, load_recipe
from compose.recipe.recipe import Phase, Player, Recipe, Term

SOUND = """\
data: {type: digits}
model:
  stages:
    - {type: latent, dim: 16, encoder: {type: mlp, hidden: [64]}, likelihood: categorical}
  prior: {type: flow, layers: 2}
train:
  - {objective: elbo, steps: 10, optimizer: {lr: 1.0e-3}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files are written to, and named in, the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults_of(text: str, *overrides: str) -> list[Fault]:
    Path("r.yaml").write_text(text, encoding="utf-8")
    return check("r.yaml", overrides).faults


def fault_of(text: str, *overrides: str) -> str:
    (fault,) = faults_of(text, *overrides)
    return str(fault)


def said(old: str, new: str) -> str:
    """What is said when one thing of the sound recipe is changed."""
    assert old in SOUND
    return fault_of(SOUND.replace(old, new))


def place(word: str) -> str:
    """Where a word first stands in the file that was checked."""
    before = Path("r.yaml").read_text(encoding="utf-8").partition(word)[0]
    return f"r.yaml:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def test_what_no_gradient_reaches_is_not_to_be_trained():
    half = SOUND.replace("objective: elbo", "objective: reconstruction")
    assert "it names model, and no gradient of 'reconstruction' reaches the prior." in fault_of(half)
    assert not faults_of(half.replace("{objective", "{trains: [model.stages.0], objective"))
    assert not faults_of(half.replace("{type: flow, layers: 2}", "normal")), "that has nothing to train"
    walked = SOUND.replace("{type: flow, layers: 2}", "diffusion").replace("objective: elbo", "objective: denoising")
    assert "no gradient of 'denoising' reaches the stages" in fault_of(walked)
    assert not faults_of(walked.replace("{objective", "{trains: [model.prior], objective"))
    unfit = SOUND.replace("objective: elbo", "objective: denoising")
    assert "this model has none" in fault_of(unfit), "what else it would reach is beside the point"


def test_class_labels_that_no_part_takes():
    """The scores would say that they are given the label."""
    unseen = SOUND.replace("digits}", "digits, labels: true}")
    assert faults_of(unseen) == []
    unseen = unseen.replace("dim: 16,", "dim: 16, labels: false,")
    assert fault_of(unseen) == (
        f"{place('labels: true')} data.labels: no part of this model takes the class label.\n"
        "    Set it on one that does (model.prior.labels=true, say), or leave the labels out."
    )
    assert faults_of(unseen, "model.prior.labels=true") == []
    assert [fault.path for fault in faults_of(unseen, "model.prior.labells=true")] == ["model.prior.labells"]


def test_a_sound_recipe():
    assert faults_of(SOUND) == []
    assert load_recipe("r.yaml").train[0].steps == 10


def test_data_are_asked_for_their_spaces_once(monkeypatch: pytest.MonkeyPatch):
    """They may read the headers of all their files for it."""
    asked: list[str] = []
    spaces = Recipe.spaces
    monkeypatch.setattr(Recipe, "spaces", lambda recipe: asked.append("data") or spaces(recipe))
    assert faults_of(SOUND) == []
    assert asked == ["data"]


def test_what_does_not_fit_and_what_does():
    text = said("{type: flow, layers: 2}", "bernoulli")
    first, second = text.split("\n")
    assert first == "r.yaml:5:3 model.prior: 'bernoulli' takes Codes, but stage 'latent' gives Real(16)."
    assert second.startswith("    Fits here: normal, mixture, vamp, flow")
    assert "bernoulli" not in second and "categorical" not in second


def test_what_fits_a_posterior_is_exact_and_differentiable():
    text = said("likelihood: categorical", "posterior: mixture")
    assert text == (
        f"{place('posterior')} model.stages.0.posterior: a posterior must carry a pathwise gradient, "
        "and samples of 'mixture' carry none.\n    Fits here: normal, flow."
    )


def test_a_misspelt_key():
    assert said("likelihood: categorical", "likelihoud: categorical") == (
        "r.yaml:4:67 model.stages.0.likelihoud: 'likelihoud' is no option of 'latent'.\n"
        "    Did you mean 'likelihood'? It has: dim, encoder, posterior, decoder, likelihood, labels."
    )


def test_a_misspelt_key_beside_the_right_one():
    """An override of what the recipe says already is meant as that, and what the recipe says stands."""
    told = fault_of(SOUND, "model.stages.0.likelihoud=5")
    assert "model.stages.0.likelihoud: 'likelihoud' is no option of 'latent'" in told
    assert "Did you mean 'likelihood'?" in told


def test_what_stands_below_a_misspelt_key_is_checked():
    faults = faults_of(SOUND.replace("likelihood: categorical", "likelihoud: {type: bernoulli, labels: 3}"))
    assert [(fault.path, fault.where) for fault in faults] == [
        ("model.stages.0.likelihoud", place("likelihoud")),
        ("model.stages.0.likelihoud.labels", place("labels")),
    ]
    path = "model.stages.0.encodr.hidden"
    assert [fault.path for fault in faults_of(SOUND.replace("encoder", "encodr").replace("[64]", "64"))] == [
        path[:-7],
        path,
    ]


def test_a_misspelt_part():
    text = said("type: flow", "type: flwo")
    assert text.startswith(
        "r.yaml:5:3 model.prior: there is no density called 'flwo'.\n    Did you mean 'flow'? There is: normal,"
    )


def test_a_part_of_another_role():
    text = said("type: flow", "type: latent")
    assert "there is no density called 'latent'; that is a stage." in text


def test_a_wrong_value():
    assert said("dim: 16", 'dim: "16"') == "r.yaml:4:22 model.stages.0.dim: the text '16' came, wanted a whole number."
    assert said("steps: 10", "steps: 10, batch_size: 2000000").endswith("the number 2000000 came, wanted <= 1000000.")
    assert said("dim: 16", "dim: 0") == "r.yaml:4:22 model.stages.0.dim: the number 0 came, wanted >= 1."
    assert said("lr: 1.0e-3", "type: adan").endswith(
        "the text 'adan' came, wanted 'adamw', 'adam', 'adamax' or 'sgd'.\n    Did you mean 'adam'?"
    )


def test_a_missing_key():
    assert said("data: {type: digits}", "data: idx").startswith(
        "r.yaml:1:1 data.folder: the key 'folder' is missing.\n    Folder "
    )


def test_budgets():
    beginning = "r.yaml:7:5 train.0: a phase has one budget, steps, epochs or seconds, and "
    assert said("steps: 10", "steps: 10, epochs: 2") == f"{beginning}steps and epochs are given; null takes one away."
    assert said(" steps: 10,", "") == f"{beginning}none is given."
    assert (
        said("steps: 10", "steps: ten")
        == f"{place('steps')} train.0.steps: the text 'ten' came, wanted a whole number."
    )


def test_a_change_that_spoils_a_record_is_where_its_fault_stands():
    variant = Path("variant.yaml")
    variant.write_text("extends: vae\nmodel.prior: normal\ntrain.0.steps:\n")
    with_two = check("vae", ["train.0.seconds=30"]).faults
    without = check(variant).faults
    assert [fault.where for fault in with_two] == ["override 'train.0.seconds=30'"]
    assert [fault.where for fault in without] == [f"{variant}:3:1"]


def test_what_to_train():
    text = said("steps: 10", "steps: 10, trains: [model.priors]")
    first, second = text.split("\n")
    assert first == f"{place('model.priors')} train.0.trains.0: there is no part at 'model.priors' to train."
    assert second.startswith("    There is: model, model.prior, model.stages.0,")


def test_a_player_trains_something():
    text = said("steps: 10", "steps: 10, trains: [model.stages.0.posterior, model.stages.0.likelihood]")
    first, second = text.split("\n")
    assert first.startswith("r.yaml:") and first.endswith(
        " train.0.trains: nothing to train: there is no parameter in "
        "model.stages.0.posterior, model.stages.0.likelihood."
    )
    assert second == "    Name a part with weights, or leave the player out."
    before = torch.get_rng_state()
    assert not faults_of(SOUND.replace("steps: 10", "steps: 10, trains: [model.stages.0.posterior, model.prior]"))
    assert torch.equal(before, torch.get_rng_state())


def test_no_part_has_two_players():
    players = """\
  - steps: 10
    players:
      - {objectives: [{objective: elbo}], trains: [model.stages.0.encoder, model.prior]}
      - {objectives: [{objective: elbo}], trains: [model.stages.0.decoder, model.stages.0, model.prior]}
"""
    found = [str(fault) for fault in faults_of(SOUND + players)]
    hint = "\n    Give each part to one player."
    assert found == [
        f"r.yaml:11:76 train.1.players.1.trains.1: players 0 and 1 both train 'model.stages.0.encoder'.{hint}",
        f"r.yaml:11:92 train.1.players.1.trains.2: players 0 and 1 both train 'model.prior'.{hint}",
    ]


def test_faults_come_in_the_order_of_the_file():
    text = SOUND.replace("lr: 1.0e-3", "lr: 0").replace("digits", "digit").replace("type: flow", "type: bernoulli")
    faults = faults_of(text.replace("layers", "laiers"))
    assert [fault.where for fault in faults] == [place(word) for word in ("data", "prior", "laiers", "lr")]
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml")
    assert str(caught.value) == "\n".join(map(str, faults))


def test_a_fault_of_the_base_points_into_the_base():
    Path("base.yaml").write_text(SOUND.replace("layers: 2", "layers: 0"))
    faults = faults_of("extends: base.yaml\nseed: -1\n")
    assert [(fault.path, fault.where) for fault in faults] == [
        ("seed", "r.yaml:2:1"),
        ("model.prior.layers", "base.yaml:5:23"),
    ]


def test_a_fault_of_the_variant_points_into_the_variant():
    Path("base.yaml").write_text(SOUND)
    text = fault_of("extends: base.yaml\nmodel.prior: {type: vamp, components: 0}\n")
    assert text == "r.yaml:2:27 model.prior.components: the number 0 came, wanted >= 1."
    assert fault_of("extends: base.yaml\nmodel: {prior: bernoulli}\n").startswith(
        "r.yaml:2:9 model.prior: 'bernoulli' takes Codes"
    )


def test_a_fault_of_an_override_points_at_the_override():
    where = "override 'model.stages.0.likelihood=normal'"
    text = fault_of(SOUND, where.split("'")[1])
    assert text.startswith(
        f"{where} model.stages.0.likelihood: 'normal' takes Real, but the data give Codes(1x8x8, size 17, ordered)."
    )


def test_what_rests_on_the_unknown_is_not_judged():
    assert faults_of(SOUND.replace("type: digits", "type: nowhere").replace("categorical", "bernoulli"))[1:] == []
    assert (
        faults_of(SOUND.replace("type: latent", "type: nowhere").replace("type: flow, layers: 2", "type: bernoulli"))[
            1:
        ]
        == []
    )
    assert (
        faults_of(SOUND.replace("{type: digits}", "{type: digits, binarize: 1}").replace("categorical", "bernoulli"))[
            1:
        ]
        == []
    )


def test_what_is_wrong_in_any_case_is_found_beside_the_unknown():
    text = SOUND.replace(
        "  prior", "    - nowhere\n    - {type: latent, posterior: mixture, likelihood: normal}\n  prior"
    )
    found = faults_of(text.replace("type: flow, layers: 2", "type: categorical").replace("digits", "nothing"))
    assert [fault.path for fault in found] == ["data", "model.stages.1", "model.stages.2.posterior", "model.prior"]


def test_data_that_cannot_be_read():
    text = said("{type: digits}", "{type: fashion_mnist, folder: nowhere}")
    assert text.startswith(
        "r.yaml:1:1 data: nowhere: no such folder. Wanted, each plain or with .gz: train-images-idx3-ubyte,"
    )


def test_what_suits_unread_data_is_not_told():
    """Whether they are reals or codes is in the file; a part that takes neither of what they may be is told."""
    for prior in ("flow", "categorical"):
        recipe = f"data: {{type: arrays, file: no.npz}}\nmodel: {{prior: {prior}}}\ntrain: [{{steps: 1}}]\n"
        assert [fault.path for fault in faults_of(recipe)] == ["data"]
    recipe = "data: {type: arrays, file: no.npz}\nmodel: {prior: vamp}\ntrain: [{steps: 1}]\n"
    assert [fault.path for fault in faults_of(recipe)] == ["data", "model.prior"]


def test_more_faults_than_anyone_reads():
    with pytest.raises(RecipeError) as caught:
        faults_of(SOUND + "".join(f"key{i}: 1\n" for i in range(300)))
    assert len(caught.value.faults) == 100
    stages = "".join("    - {type: latent, posterior: mixture, likelihood: normal}\n" for _ in range(300))
    assert len(faults_of(SOUND.replace("  prior", f"{stages}  prior"))) == 100


def test_a_recipe_made_in_python():
    recipe = Recipe(
        data="digits",  # pyright: ignore[reportArgumentType]
        model=Model(stages=[Latent(encoder=MLP(hidden=[8]), likelihood=Normal())]),
        train=[Phase(players=[Player(objectives=[Term(objective="elbo")], trains=["model.x"])], steps=1)],  # pyright: ignore
    )
    paths = ["model.stages.0.likelihood", "train.0.players.0.trains.0"]
    assert [(fault.path, fault.where) for fault in check_declared(recipe).faults] == [(path, "") for path in paths]
    with pytest.raises(RecipeError, match=r"model\.stages\.0\.likelihood: 'normal' takes Real"):
        build(recipe)
