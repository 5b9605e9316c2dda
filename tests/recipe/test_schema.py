"""The schema takes every recipe that is shipped, and refuses recipes whose fault is a key or a type."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from compose.core import registry
from compose.core.declare import Part
from compose.core.errors import RecipeError
from compose.recipe.read import read_tree
from compose.recipe.schema import schema
from compose.recipe.shipped import find, recipes_root, shipped
from compose.recipe.text import parse_text
from compose.recipe.validate import read_form

RICH = """
data: {type: idx, folder: there, levels: 4, labels: true}
model:
  stages:
    - {type: latent, dim: 8, encoder: {type: mlp, hidden: [16], activation: gelu}, posterior: {type: flow, bound: 3}}
    - {type: standardize, per: item}
    - bijection
  prior: {type: model, stages: [{type: bijection, transform: maf, generative: true}], prior: {type: mixture}}
train:
  - {objective: {type: elbo, beta: 0.5, mode: path}, epochs: 2, clip: 1, ema: 0.99, trains: [model.prior]}
  - steps: 3
    players:
      - {objectives: [{objective: iwae, weight: 2}], optimizer: {type: sgd, lr: 0.1, betas: [0.5, 0.5]}}
evaluate: {samples: 5}
seed: 3
"""
VALIDATOR = Draft202012Validator(schema())


def _files() -> dict[str, dict[str, Any]]:
    files = {name: Path(str(find(name))) for name in shipped()}
    return {name: parse_text(path.read_text(), str(path)).data for name, path in files.items()}


WHOLE = {"rich": parse_text(RICH, "rich").data, **_files()}


def test_the_schema_is_one():
    Draft202012Validator.check_schema(schema())
    for role in registry.ROLES:
        assert f"{role}.{registry.names(role)[0]}" in schema()["$defs"]


@pytest.mark.parametrize("name", WHOLE)
def test_a_good_recipe_passes(name: str):
    assert [error.message for error in VALIDATOR.iter_errors(WHOLE[name])] == []


def test_recipes_on_disk_were_seen():
    on_disk = [path for path in recipes_root().rglob("*.yaml") if "ablations" not in path.parts]
    assert len(WHOLE) - 1 == len(on_disk) >= 2


@pytest.mark.parametrize(
    "change",
    [
        {"model.prior": "flow"},
        {"model.prior": {"layers": 3}},
        {"model.stages.0.dim": 3},
        {"model.stages.0": {"encoder": "wrap"}},
        {"model": {"prior": {"layers": 3}}, "seed": 1},
        {"train.0": {"steps": 3, "optimizer": {"lr": 1e-4}}, "data.binarize": True},
        {"train": [{"steps": 3}], "evaluate": {"samples": 3}},
        {"train.0": {"batch_size": 7}, "train.0.players.0": {"clip": 1}},
        {"data": {"type": "idx", "levels": 4}},
        {},
    ],
)
def test_a_variant_may_change_anything_by_its_path(change: dict[str, Any]):
    assert [error.message for error in VALIDATOR.iter_errors({"extends": "vae", **change})] == []


@pytest.mark.parametrize(
    "change",
    [
        {"model.priorr": "flow"},
        {"modle.prior": "flow"},
        {"model.prior": "floww"},
        {"model.prior": {"layerss": 3}},
        {"model.stages.0.dim": "3"},
        {"model.stages.x.dim": 3},
        {"model": {"prior": {"type": "flow", "components": 3}}},
        {"train": [{"objective": "elbo"}]},
        {"extends": 3},
    ],
)
def test_a_variant_with_a_faulty_key_or_type_is_refused(change: dict[str, Any]):
    assert not VALIDATOR.is_valid({"extends": "vae", **change})


@pytest.mark.parametrize("missing", ["data", "model", "train"])
def test_only_a_variant_may_lack_a_required_key(missing: str):
    recipe = {key: value for key, value in WHOLE["rich"].items() if key != missing}
    assert not VALIDATOR.is_valid(recipe)
    assert VALIDATOR.is_valid({**recipe, "extends": "vae"})


@pytest.mark.parametrize(
    "phase",
    [
        {},
        {"steps": 1, "epochs": 1},
        {"steps": 1, "objective": "elbo", "players": [{"objectives": [{"objective": "elbo"}]}]},
    ],
)
def test_a_phase_has_one_budget_and_its_keys_or_players(phase: dict[str, Any]):
    assert not VALIDATOR.is_valid({"data": "digits", "model": {}, "train": [phase]})
    assert VALIDATOR.is_valid({"data": "digits", "model": {}, "train": [{"steps": 1, "epochs": None}]})


@pytest.mark.long
def test_every_option_has_a_description_and_every_part_its_source():
    for role in registry.ROLES:
        for name in registry.names(role):
            definition = schema()["$defs"][f"{role}.{name}"]
            part: type[Part] = registry.load(role, name)
            assert part.source and part.source in definition["description"]
            for key, option in definition["properties"].items():
                assert "description" in option or "$ref" in option, (name, key)


# Mutants. Each kind changes one place of a recipe so that a key or a type is at fault there.

Place = tuple[Any, Any]


def _places(value: Any) -> Iterator[Place]:
    """Every (holder, key) of a recipe, from the top down."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _unknown_key(holder: Any, key: Any) -> bool:
    if isinstance(holder[key], dict):
        holder[key]["zzz"] = 1
    return isinstance(holder[key], dict)


def _misspelt_key(holder: Any, key: Any) -> bool:
    if isinstance(holder, dict):
        holder[f"{key[:-1]}{key[-1] * 2}"] = holder.pop(key)
        return True
    return False


def _scalar_of_another_type(holder: Any, key: Any) -> bool:
    value = holder[key]
    if isinstance(value, (dict, list)) or value is None:
        return False
    holder[key] = 7 if isinstance(value, str) else "many" if isinstance(value, (bool, int)) else True
    return True


def _container_for_a_scalar(holder: Any, key: Any) -> bool:
    if isinstance(holder[key], (dict, list)):
        return False
    holder[key] = [holder[key]]
    return True


def _another_container(holder: Any, key: Any) -> bool:
    value = holder[key]
    if isinstance(value, dict):
        holder[key] = [value]
    elif isinstance(value, list):
        holder[key] = {"0": value[0]} if value else "none"
    return isinstance(value, (dict, list))


def _unknown_name(holder: Any, key: Any) -> bool:
    named = isinstance(holder, dict) and key in (
        "type",
        "prior",
        "objective",
        "data",
        "likelihood",
        "encoder",
        "posterior",
    )
    if not named or not isinstance(holder[key], str):
        return False
    holder[key] = f"{holder[key]}x"
    return True


def _outside_its_enum(holder: Any, key: Any) -> bool:
    if key not in ("activation", "transform", "mixing", "per", "mode", "schedule"):
        return False
    holder[key] = "nonsense"
    return True


MUTATORS: list[Callable[[Any, Any], bool]] = [
    _unknown_key,
    _misspelt_key,
    _scalar_of_another_type,
    _container_for_a_scalar,
    _another_container,
    _unknown_name,
    _outside_its_enum,
]


def _mutants() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, recipe in WHOLE.items():
        for mutate in MUTATORS:
            for i in range(len(list(_places(recipe)))):
                mutant = copy.deepcopy(recipe)
                if mutate(*list(_places(mutant))[i]):
                    yield f"{name}: {mutate.__name__} {i}", mutant


def _is_faulty(mutant: dict[str, Any], tmp_path: Path) -> bool:
    """Whether the recipe's own reading finds a fault of form; a variant is read with what it extends."""
    file = tmp_path / "mutant.yaml"
    with file.open("w") as out:
        YAML(typ="safe", pure=True).dump(mutant, out)
    try:
        return bool(read_form(read_tree(file)).faults)
    except RecipeError:
        return True


@pytest.mark.long
def test_mutants_are_refused(tmp_path: Path):
    """At least 95 % of all mutants; each of a sample is refused by the recipe's own reading too, so it is a mutant."""
    mutants = list(_mutants())
    assert len(mutants) >= 200
    passed = [name for name, mutant in mutants if VALIDATOR.is_valid(mutant)]
    assert len(passed) <= 0.05 * len(mutants), passed
    sample = random.Random(0).sample(mutants, 150)
    assert [name for name, mutant in sample if not _is_faulty(mutant, tmp_path)] == []
