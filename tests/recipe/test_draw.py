"""The drawing shows every part and every edge once, the prior on top."""

from __future__ import annotations

from typing import Any

import pytest

from compose.core.kinds import Kind
from compose.recipe.check import Checked, check_tree
from compose.recipe.draw import described, draw
from compose.recipe.tree import Tree

MAF = {"type": "bijection", "transform": "maf", "layers": 2}
INNER = {"type": "model", "stages": [MAF, {"type": "latent", "likelihood": "normal"}]}
PIXELS = {"type": "model", "stages": ["dequantize"], "prior": {"type": "flow", "transform": "maf"}}
MODELS: dict[str, dict[str, Any]] = {
    "vae": {"stages": ["latent"]},
    "flow": {"stages": ["dequantize", MAF]},
    "alone": {"prior": "categorical"},
    "model as prior": {"stages": ["latent"], "prior": INNER},
    "model as likelihood": {"stages": [{"type": "latent", "likelihood": PIXELS}, MAF]},
}


def _checked(model: dict[str, Any], **data: Any) -> Checked:
    return check_tree(Tree({"data": {"type": "digits", **data}, "model": model, "train": [{"steps": 1}]}, {}, ""))


@pytest.mark.parametrize("name", MODELS)
def test_every_part_is_drawn_once(name: str):
    checked = _checked(MODELS[name])
    assert checked.faults == []
    parts = [key for key, _, _ in checked.recipe.model.walk(checked.slot, "model") if key != "model"]
    drawn = [line.path for line in draw(checked) if line.path]
    assert sorted(drawn) == sorted([*parts, "data"])


def test_a_stack_from_the_prior_down():
    found = [(line.label.strip(), line.what, line.kind) for line in draw(_checked(MODELS["flow"]))]
    assert found == [
        ("prior", "normal", Kind.EXACT),
        ("z2", "Real(1x8x8)", Kind.EXACT),
        ("stage 2", "bijection: transform maf, layers 2", Kind.EXACT),
        ("z1", "Real(1x8x8)", Kind.EXACT),
        ("stage 1", "dequantize", Kind.WEIGHT),
        ("x", "Codes(1x8x8, size 17, ordered)", Kind.WEIGHT),
        ("data", "digits", None),
    ]


def test_the_kind_on_an_edge_is_what_the_model_above_promises():
    edges = {line.label: line.kind for line in draw(_checked(MODELS["model as prior"])) if not line.path}
    assert edges == {
        "    v2": Kind.EXACT,
        "    v1": Kind.WEIGHT,
        "    z1": Kind.WEIGHT,
        "z1": Kind.WEIGHT,
        "x": Kind.WEIGHT,
    }


def test_what_is_inside_is_indented_and_its_datum_is_the_edge_it_scores():
    lines = [line.label for line in draw(_checked(MODELS["model as likelihood"]))]
    inside = lines[lines.index("  likelihood") + 1 : lines.index("x")]
    assert inside == ["    prior", "    v1", "    stage 1", "    x"]


def test_labels_are_drawn_beside_the_data():
    found = [line.what for line in draw(_checked(MODELS["vae"], labels=True)) if line.label in ("y", "data")]
    assert found == ["Codes(scalar, size 10, unordered), the class label", "digits: labels True"]


def test_a_part_is_described_by_what_is_not_its_default():
    stages = _checked({"stages": [{"type": "latent", "dim": 4, "likelihood": "categorical"}]}).recipe.model.stages
    assert described(stages[0]) == "latent: dim 4"
