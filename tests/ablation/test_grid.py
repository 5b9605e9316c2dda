"""What a file asks, and the cells that follow from it: each checked, each with an address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compose.ablation import grid as room
from compose.ablation.grid import Grid, address_of, expand, within
from compose.ablation.question import Budget, read_ablation, shipped_ablations
from compose.core.errors import RecipeError
from compose.data.idx import FashionMNIST
from compose.recipe.check import load_recipe
from compose.recipe.cost import Cost
from compose.recipe.fits import fits
from compose.recipe.read import read_tree

FASHION = FashionMNIST().folder

Write = Callable[..., Path]


def grid(file: Path, *overrides: str) -> Grid:
    return expand(read_ablation(file, overrides))


def faults(file: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        grid(file, *overrides)
    return str(error.value)


def test_all_combinations_times_seeds_seed_by_seed(write: Write):
    axes = "[{at: model.prior, values: [normal, mixture]}, {at: train.0.optimizer.lr, values: [1.0e-3, 3.0e-3]}]"
    found = grid(write(axes=axes, seeds="[3, 5]"))
    assert list(found.variants) == [
        "prior=normal, lr=0.001",
        "prior=normal, lr=0.003",
        "prior=mixture, lr=0.001",
        "prior=mixture, lr=0.003",
    ]
    assert found.base == "prior=normal, lr=0.001"
    assert [cell.seed for cell in found.cells] == [3] * 4 + [5] * 4
    assert [cell.recipe.seed for cell in found.cells] == [3] * 4 + [5] * 4
    assert len({cell.id for cell in found.cells}) == 8


def test_two_axes_of_one_name_are_refused(write: Write):
    """Their values would overwrite each other."""
    nets = "{at: model.stages.0.encoder.hidden, values: [[8], [9]]}, {at: model.stages.0.decoder.hidden, values: [[8]]}"
    said = faults(write(axes=f"[{nets}]"))
    assert "two axes are called hidden" in said and "Give one another name" in said
    named = nets.replace("decoder.hidden,", "decoder.hidden, name: decoder,")
    assert list(grid(write(axes=f"[{named}]")).variants)[1:] == ["hidden=[8], decoder=[8]", "hidden=[9], decoder=[8]"]


def test_parts_of_installed_packages_are_part_of_the_address(write: Write, monkeypatch: pytest.MonkeyPatch):
    recipe = load_recipe("vae")
    before = address_of(recipe)
    monkeypatch.setattr(room.registry, "installed", lambda: {"package.parts": "a digest"})
    assert address_of(recipe) != before


def test_a_base_that_no_combination_equals_is_added_under_its_name(write: Write):
    found = grid(write(axes="[{at: model.prior, values: [flow]}]"))
    assert list(found.variants) == ["vae", "prior=flow"]
    assert found.base == "vae"


@pytest.mark.long
def test_fits_is_every_part_that_type_checks_there(write: Write):
    file = write(axes="[{at: model.prior, values: fits, leave_out: [model, diffusion]}]")
    listed = [fit.name for fit in fits(read_tree("vae"), "model.prior") if fit.name not in ("model", "diffusion")]
    assert list(grid(file).variants) == [f"prior={name}" for name in listed]
    assert len(listed) > 3


def test_values_may_be_named_and_take_several_changes_or_another_recipe(tmp_path: Path):
    file = tmp_path / "families.yaml"
    wide = "{model.stages.0.encoder.hidden: [64], model.stages.0.decoder.hidden: [64]}"
    values = f"{{wide: {wide}, codes: {{recipe: vqvae_fsq, train.0.steps: 7}}}}"
    file.write_text(f"question: Which?\nbase: vae\naxes: [{{name: family, values: {values}}}]\n")
    found = grid(file)
    assert list(found.variants) == ["vae", "family=wide", "family=codes"]
    stage: Any = found.variants["family=wide"].recipe.model.stages[0]
    assert stage.encoder.hidden == stage.decoder.hidden == [64]
    codes = found.variants["family=codes"].recipe
    assert codes.model.stages[0].type == "codes"
    assert codes.train[0].steps == 7
    assert found.variants["family=wide"].counted().parameters > 0


def test_a_mapping_of_values_at_a_path_names_them(write: Write):
    found = grid(write(axes="[{at: model.prior, name: p, values: {deep: {type: flow, layers: 3}, plain: normal}}]"))
    assert list(found.variants) == ["p=plain", "p=deep"]
    assert found.variants["p=deep"].recipe.model.prior.layers == 3  # type: ignore[attr-defined]


def test_a_value_is_called_by_its_options(write: Write):
    found = grid(write(axes="[{at: model.prior, values: [{type: flow, layers: 2}, {type: mixture, components: 3}]}]"))
    assert list(found.variants)[1:] == ["prior=flow (layers 2)", "prior=mixture (components 3)"]


def test_a_variant_file_extends_another(write: Write, tmp_path: Path):
    write()
    other = tmp_path / "other.yaml"
    other.write_text("extends: small.yaml\nseeds: 1\naxes.0.values: [flow]\n")
    found = grid(other)
    assert list(found.variants) == ["vae", "prior=flow"]
    assert [cell.seed for cell in found.cells] == [0, 0]


def test_the_base_is_looked_for_beside_the_file_that_names_it(write: Write, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("extends: vae\nmodel.prior: mixture\n")
    file = write()
    file.write_text(file.read_text().replace("base: vae", "base: mine.yaml"))
    found = grid(file)
    assert found.base == "prior=mixture"


@pytest.mark.parametrize(
    "change, wanted",
    [
        ({"axes": "[{at: model.priro, values: [normal, flow]}]"}, "'priro' is no option of 'model'"),
        ({"axes": "[{at: model.stages.3.dim, values: [2]}]"}, "has no entry '3'"),
        ({"axes": "[{at: model.prior, values: [flow, flow]}]"}, "two values are called flow"),
        ({"axes": "[{at: model.dim, values: fits}]"}, "there is no part at 'model.dim'."),
        ({"axes": "[{at: model.prior, values: [categorical]}]"}, "takes Codes"),
        ({"axes": "[{values: [normal]}]"}, "without 'at' the values are named"),
        ({"axes": "[{name: a, values: {b: 3}}]"}, "the number 3 came, wanted changes"),
        ({"axes": "[{at: model.prior, values: []}]"}, "an axis has no values"),
        ({"axes": "[]"}, "axes"),
        ({"axes": "[{at: model.prior, values: [normal], leave_out: [flow]}]"}, "'leave_out' is of 'values: fits'"),
        ({"seeds": "0"}, "seeds"),
        ({"seeds": "[]"}, "seeds"),
        ({"seeds": "[-1]"}, "seeds"),
        ({"budget": "{}"}, "none is given"),
        ({"budget": "{steps: 3, seconds: 4}"}, "steps and seconds are given"),
        ({"budget": "{minutes: 3}"}, "It has: steps, seconds, flops"),
        ({"question": "''"}, "question"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(write: Write, change: dict[str, str], wanted: str):
    file = write(**change)
    said = faults(file)
    assert wanted in said
    assert "small.yaml:" in said


def test_a_fault_of_every_cell_is_said_once(write: Write):
    said = faults(write(axes="[{at: model.stages.0.dimm, values: [1, 2, 3]}]"))
    assert said.count("'dimm' is no option of 'latent'") == 1
    said = faults(write(axes="[{at: model.prior, values: [flow]}]"), "changes={train.0.stepz: 3}")
    assert said.count("is no option of 'phase'") == 1


def test_an_unknown_key_of_the_file_is_refused(write: Write):
    file = write()
    file.write_text(file.read_text() + "seedz: 3\n")
    assert "It has: question, base, changes, axes, seeds, budget, judged_by" in faults(file)


def test_beside_an_unknown_key_all_else_is_said_too(write: Write):
    file = write(axes="[{at: model.prior, values: normal, valeus: fits}]", seeds="0")
    file.write_text(file.read_text() + "seedz: 3\n")
    said = faults(file)
    assert all(wanted in said for wanted in ("'seedz' is no option", "'valeus' is no option", "axes.0.values", "seeds"))


def test_a_missing_file_names_what_is_shipped():
    with pytest.raises(RecipeError, match="prior"):
        read_ablation("no_such_ablation")


def test_cells_that_do_not_type_check_are_named_beside_those_that_do(write: Write):
    found = grid(write(axes="[{at: model.prior, values: [normal, categorical, flow]}]"))
    assert list(found.variants) == ["prior=normal", "prior=flow"]
    assert list(found.faulty) == ["prior=categorical"]
    assert "takes Codes" in found.faulty["prior=categorical"][0].message
    assert "small.yaml:" in found.faulty["prior=categorical"][0].where


def test_two_values_that_are_the_same_recipe_are_told_apart_or_refused(write: Write):
    """An option that a value leaves out stays as the base has it, so that nothing would be compared."""
    values = "{one: normal, two: {type: flow, layers: 2}, again: {type: flow, layers: 2}}"
    found = grid(write(axes=f"[{{at: model.prior, values: {values}}}]"))
    assert list(found.variants) == ["prior=one", "prior=two"]
    (fault,) = found.faulty["prior=again"]
    assert "that of prior=two" in fault.message and "small.yaml:" in fault.where and "write out" in fault.hint


def test_an_address_is_of_all_that_numbers_depend_on(monkeypatch: pytest.MonkeyPatch):
    recipe = load_recipe("vae")
    address = address_of(recipe)
    assert address == address_of(load_recipe("vae"))
    others = ["seed=1", "train.0.steps=3", "model.prior=flow", "data.levels=2", "evaluate.samples=3"]
    assert len({address, *(address_of(load_recipe("vae", [change])) for change in others)}) == 6
    monkeypatch.setattr(room, "code_digest", lambda: "other code")
    assert address_of(recipe) != address


def never() -> Cost:
    """A budget that needs no count asks for none."""
    raise AssertionError("counted")


def test_a_budget_in_steps_is_shared_as_the_phases_have_it():
    recipe = within(load_recipe("latent_diffusion"), Budget(steps=420), counted=never)
    assert [phase.steps for phase in recipe.train] == [120, 300]


def test_a_budget_in_seconds_takes_the_place_of_steps():
    recipe = within(load_recipe("latent_diffusion"), Budget(seconds=42.0), counted=never)
    assert [(phase.steps, phase.seconds) for phase in recipe.train] == [(None, 12.0), (None, 30.0)]


def test_a_budget_in_flops_gives_the_cheaper_model_more_steps(write: Write):
    found = grid(write(axes="[{at: model.prior, values: [normal, flow]}]", budget="{flops: 1.0e9}"))
    plain, flow = (found.variants[f"prior={name}"] for name in ("normal", "flow"))
    for each in (plain, flow):
        phase = each.recipe.train[0]
        assert phase.steps == pytest.approx(1e9 / (3 * each.counted().flops * phase.batch_size), abs=0.5)
    assert plain.recipe.train[0].steps > flow.recipe.train[0].steps  # type: ignore[operator]


def test_phases_with_budgets_of_two_units_share_no_equal_one():
    recipe = load_recipe("latent_diffusion", ["train.0.steps=null", "train.0.seconds=3"])
    with pytest.raises(RecipeError, match="seconds and steps"):
        within(recipe, Budget(steps=10), counted=never)


@pytest.mark.long
@pytest.mark.parametrize("name", shipped_ablations())
def test_shipped_ablations_type_check(name: str):
    if name.startswith("fashion/") and not FASHION.is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    found = expand(read_ablation(name))
    assert not found.faulty
    assert len(found.variants) > 1
