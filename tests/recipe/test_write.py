"""What is written reads back to an equal recipe, and reads well."""

from __future__ import annotations

from pathlib import Path

import pytest

from compose.recipe.check import load_recipe
from compose.recipe.recipe import Recipe
from compose.recipe.write import plain, to_yaml

MODELS = [
    {},
    {"stages": ["latent"], "prior": "flow"},
    {"stages": [{"type": "latent", "dim": 8, "encoder": {"type": "mlp", "hidden": []}, "likelihood": "categorical"}]},
    {"stages": ["dequantize", "standardize", {"type": "bijection", "layers": 2}], "prior": "mixture"},
    {
        "stages": ["latent"],
        "prior": {"type": "model", "stages": [{"type": "bijection", "bound": 3}], "prior": "normal"},
    },
    {"stages": [{"type": "latent", "decoder": "wrap", "posterior": {"type": "flow", "transform": "maf"}}]},
]
PHASES = [
    [{"steps": 10}],
    [{"epochs": 0.5, "objective": {"type": "elbo", "beta": 0.5}, "clip": 1.0, "optimizer": {"lr": 1e-5}}],
    [{"seconds": 3, "objective": {"type": "iwae", "samples": 3}, "trains": ["model.prior"], "ema": 0.99}],
    [{"steps": 1, "players": [{"objectives": [{"objective": "elbo", "weight": 0.5}, {"objective": "iwae"}]}]}],
    [
        {
            "steps": 1,
            "players": [{"objectives": [{"objective": "elbo"}], "trains": [path]} for path in ("model.a", "b")],
        },
        {"steps": 2, "batch_size": 7},
    ],
]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("phases", PHASES)
@pytest.mark.parametrize("model", MODELS)
def test_a_written_recipe_reads_back_equal(model, phases, full, tmp_path):
    data = {"type": "idx", "folder": "~", "levels": 4}
    recipe = Recipe.model_validate({"data": data, "model": model, "train": phases, "seed": 3})
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(recipe, full))
    assert _read(file) == recipe


def _read(file: Path) -> Recipe:
    from compose.recipe.read import read_tree

    return Recipe.model_validate(read_tree(file).data)


def test_defaults_are_left_out_unless_asked_for():
    recipe = Recipe.model_validate({"data": "digits", "model": {"stages": ["latent"]}, "train": [{"steps": 10}]})
    assert to_yaml(recipe) == ("data: digits\nmodel:\n  stages: [latent]\ntrain:\n  - {objective: elbo, steps: 10}\n")
    whole = plain(recipe, full=True)
    assert whole["model"]["prior"] == {"type": "normal", "labels": False}
    assert whole["evaluate"] == {"samples": 100, "seed": 0, "sampler": None, "steps": None}
    assert "players" not in whole["train"][0]


def test_a_text_that_looks_like_something_else_is_quoted():
    recipe = Recipe.model_validate(
        {
            "data": {"type": "idx", "folder": "1e3"},
            "model": {},
            "train": [{"steps": 1, "trains": ["null", "a: b", "x"]}],
        }
    )
    assert 'folder: "1e3"' in to_yaml(recipe)
    assert '["null", "a: b", x]' in to_yaml(recipe)


def test_a_part_with_options_of_its_own_is_not_taken_for_the_default(tmp_path):
    file = tmp_path / "recipe.yaml"
    recipe = Recipe.model_validate(
        {"data": "digits", "model": {"prior": {"type": "categorical"}}, "train": [{"steps": 1, "objective": "elbo"}]}
    )
    file.write_text(to_yaml(recipe))
    assert load_recipe(file) == recipe
    assert "prior: categorical" in file.read_text()
