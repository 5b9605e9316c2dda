"""What is said to fit builds and trains; what is not said to fit does not check."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compose.core import registry
from compose.core.errors import RecipeError
from compose.core.kinds import Kind
from compose.recipe.build import build_model
from compose.recipe.check import check_tree, load_recipe
from compose.recipe.fits import fits, positions, survey
from compose.recipe.tree import Change, Mark, Tree, apply

RECIPES: dict[str, dict[str, Any]] = {
    "vae": {"stages": [{"type": "latent", "dim": 4}], "prior": {"type": "flow", "layers": 2}},
    "hierarchy": {"stages": ["latent", {"type": "latent", "dim": 4, "likelihood": "normal"}], "prior": "vamp"},
    "flow": {"stages": ["dequantize", {"type": "bijection", "layers": 1}], "prior": "normal"},
    "alone": {"prior": "categorical"},
    "codes": {"stages": ["codes"], "prior": "categorical"},
    "nested": {"stages": ["latent"], "prior": {"type": "model", "stages": [{"type": "bijection", "layers": 1}]}},
}


def _tree(model: dict[str, Any], **rest: Any) -> Tree:
    return Tree({"data": "digits", "model": model, "train": [{"steps": 3}], **rest}, {}, "")


def _swapped(tree: Tree, path: str, name: str) -> Tree:
    swapped = Tree({**tree.data, "model": _copied(tree.data["model"]), "train": _copied(tree.data["train"])}, {}, "")
    assert apply(swapped, Change(tuple(path.split(".")), name, {(): Mark("")})) is None
    return swapped


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


PLACES = [(name, path) for name, model in RECIPES.items() for path in positions(check_tree(_tree(model)))]


def test_there_are_places_of_every_role():
    roles = {positions(check_tree(_tree(RECIPES[name])))[path].role for name, path in PLACES}
    assert roles == set(registry.ROLES)
    assert len(PLACES) >= 25


@pytest.mark.long
@pytest.mark.parametrize(("name", "path"), [place for place in PLACES if place[1] != "data"])
def test_what_fits_builds_and_steps_and_what_does_not_is_refused(name: str, path: str):
    tree = _tree(RECIPES[name])
    for fit in survey(tree, path):
        checked = check_tree(_swapped(tree, path, fit.name))
        assert fit.note
        assert bool(checked.faults) is not fit.fits, (fit, checked.faults)
        if fit.fits:
            _takes_three_steps(checked)


def _takes_three_steps(checked: Any) -> None:
    model = build_model(checked.recipe.model, checked.space, checked.labels)
    x = torch.randint(0, 17, (8, 1, 8, 8))
    model.fit_parts(lambda: [(x, None)])
    optimizer = torch.optim.Adam([*model.parameters(), torch.nn.Parameter(torch.zeros(()))], 1e-3)
    for _ in range(3):
        loss = -model.log_prob(x).mean()
        if loss.requires_grad:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert bool(torch.isfinite(loss))


def test_data_fit_where_they_need_no_further_key():
    found = {fit.name: fit for fit in survey(_tree(RECIPES["vae"]), "data")}
    assert found["digits"].fits
    assert not found["idx"].fits and "folder" in found["idx"].note


def test_a_part_counts_with_its_defaults_even_where_it_stands_with_others():
    """A spline coupling, the default, needs two numbers to split; the flow that is written there does not."""
    tree = _tree({"stages": [{"type": "latent", "dim": 1}], "prior": {"type": "flow", "transform": "maf"}})
    assert check_tree(tree).faults == []
    assert [fit.name for fit in fits(tree, "model.prior")] == [
        "normal",
        "mixture",
        "vamp",
        "diffusion",
        "flow_matching",
        "model",
    ]


def test_kinds_are_those_of_the_place():
    found = {fit.name: fit.kind for fit in fits(_tree(RECIPES["vae"]), "model.stages.0")}
    assert found == {"latent": Kind.WEIGHT, "ladder": Kind.WEIGHT, "chain": Kind.WEIGHT, "dequantize": Kind.WEIGHT}
    assert {fit.kind for fit in fits(_tree(RECIPES["vae"]), "model.stages.0.encoder")} == {None}


def test_faults_elsewhere_do_not_count_and_faults_that_arise_elsewhere_do():
    tree = _tree({"stages": [{"type": "latent", "likelihood": "bernoulli"}], "prior": "categorical"})
    assert [fit.name for fit in fits(tree, "model.prior")] == [
        "normal",
        "mixture",
        "vamp",
        "flow",
        "diffusion",
        "flow_matching",
        "model",
    ]
    tree = _tree(RECIPES["nested"], train=[{"steps": 3, "trains": ["model.prior.stages.0"]}])
    assert fits(tree, "model.prior") == []
    notes = {fit.name: fit.note for fit in survey(_tree({"stages": ["latent"], "prior": "vamp"}), "model.stages.0")}
    assert notes["dequantize"].startswith("model.prior: 'vamp' is made of the posterior")


def test_defaults_shorthands_and_long_paths_are_places(tmp_path):
    tree = _tree({})
    assert fits(tree, "model.prior") == fits(_tree({"prior": "categorical"}), "model.prior")
    short = fits(tree, "train.0.objective")
    assert short == fits(tree, "train.0.players.0.objectives.0.objective")
    players = [{"objectives": [{"objective": "elbo"}, {"objective": "elbo"}]}]
    tree = _tree({}, train=[{"steps": 3, "players": players}])
    assert [fit.name for fit in fits(tree, "train.0.players.0.objectives.1.objective")] == [fit.name for fit in short]


def test_parts_stand_inside_objectives_and_data():
    found = {fit.name: fit for fit in survey("gan_digits", "train.0.objective.critic")}
    assert found["mlp"].fits and not found["transformer"].fits
    assert {fit.name for fit in fits("gan_digits", "train.0.players.0.objectives.0.objective.critic")} == {
        name for name, fit in found.items() if fit.fits
    }
    looked_at = {"type": "perceptual", "network": "conv"}
    tree = _tree({"stages": ["latent"]}, train=[{"steps": 3, "players": [{"objectives": [{"objective": looked_at}]}]}])
    assert "mlp" in {fit.name for fit in fits(tree, "train.0.players.0.objectives.0.objective.network")}
    stacked = survey("gan_stacked", "data.of")
    assert "digits" in {fit.name for fit in stacked if fit.fits}
    assert any("stacks grey images" in fit.note for fit in stacked if fit.name == "photographs")


def test_a_recipe_a_file_and_a_tree_answer_alike(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("data: digits\nmodel: {stages: [latent]}\ntrain: [{steps: 3}]\n")
    by_file = fits(file, "model.prior")
    assert by_file == fits(str(file), "model.prior") == fits(load_recipe(file), "model.prior")
    assert by_file == fits(_tree({"stages": ["latent"]}), "model.prior")
    assert fits(load_recipe(file), "train.0.objective") == fits(file, "train.0.objective")


def test_a_place_that_only_a_mended_recipe_has_is_refused():
    with pytest.raises(RecipeError, match=r"'train\.0' is the number 7"):
        fits(Tree({"data": "digits", "model": {}, "train": [7]}, {}, ""), "train.0.objective")


@pytest.mark.parametrize(
    "path", ["model", "model.priorr", "model.stages.1", "train.0", "seed", "", "model.stages.0.dim"]
)
def test_an_unknown_place_lists_the_known_ones(path: str):
    with pytest.raises(RecipeError, match=r"Parts stand at: data, model.stages.0, .*model.prior, train.0.objective"):
        fits(_tree({"stages": ["latent"]}), path)


def test_beside_an_unreadable_part_nothing_is_guessed():
    with pytest.raises(RecipeError, match="there is no stage called 'blorb'") as caught:
        fits(_tree({"stages": ["blorb"]}), "model.prior")
    assert "cannot be told" in str(caught.value)
    found = fits(_tree({"stages": ["blorb"]}), "model.stages.0")
    assert [fit.name for fit in found] == ["latent", "ladder", "chain", "dequantize"]
