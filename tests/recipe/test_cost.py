"""Parameters are those of the built model, operations those of its matrix products, and counting takes no memory."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from torch import Tensor, nn

from compose.core import registry
from compose.core.declare import NetPart, Slot
from compose.core.spaces import Real
from compose.nets.wrap import Wrap
from compose.parts.densities.normal import Normal
from compose.recipe.build import build_model
from compose.recipe.check import Checked, check_declared, check_tree
from compose.recipe.cost import cost
from compose.recipe.recipe import Recipe
from compose.recipe.tree import Tree

HIDDEN = {"type": "mlp", "hidden": [32]}
LATENT = {"type": "latent", "dim": 4, "encoder": HIDDEN, "decoder": HIDDEN}
MODELS: dict[str, dict[str, Any]] = {
    "vae": {"stages": [LATENT]},
    "flow prior": {"stages": [LATENT], "prior": {"type": "flow", "layers": 2}},
    "maf posterior": {"stages": [{**LATENT, "posterior": {"type": "flow", "transform": "maf", "layers": 1}}]},
    "vamp": {"stages": [LATENT], "prior": {"type": "vamp", "components": 10}},
    "flow": {"stages": ["dequantize", "standardize", {"type": "bijection", "layers": 1}]},
    "alone": {"prior": "categorical"},
    "nested": {"stages": [LATENT], "prior": {"type": "model", "stages": [{"type": "bijection", "layers": 1}]}},
}


def _checked(model: dict[str, Any]) -> Checked:
    checked = check_tree(Tree({"data": "digits", "model": model, "train": [{"steps": 1}]}, {}, ""))
    assert checked.faults == []
    return checked


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_built_model(name: str):
    checked = _checked(MODELS[name])
    found = cost(checked)
    model = build_model(checked.recipe.model, checked.space)
    assert found.note == ""
    for each in found.parts:
        module = model.get_submodule(each.path.removeprefix("model").removeprefix("."))
        assert each.parameters == sum(parameter.numel() for parameter in module.parameters()), each.path


@pytest.mark.parametrize("name", MODELS)
def test_operations_of_a_whole_are_those_of_its_parts_and_its_own(name: str):
    found = {each.path: each.flops for each in cost(_checked(MODELS[name])).parts}
    children = [path for path in found if path.count(".") == 1 + 1 * path.startswith("model.stages")]
    assert sum(found[path] for path in children) == found["model"]


def test_operations_of_nets_are_twice_their_weights():
    found = {each.path: each.flops for each in cost(_checked(MODELS["vae"])).parts}
    assert found["model.stages.0.encoder"] == 2 * (64 * 32 + 32 * 8)
    assert found["model.stages.0.decoder"] == 2 * (4 * 32 + 32 * 64 * 17)
    assert found["model.stages.0.posterior"] == 0


def test_who_borrows_pays():
    """A vamp encodes all its pseudo-inputs by the encoder of the stage below."""
    found = {each.path: each.flops for each in cost(_checked(MODELS["vamp"])).parts}
    encoder = found["model.stages.0.encoder"]
    assert encoder == 2 * (64 * 32 + 32 * 8)
    assert 10 * encoder <= found["model.prior"] <= 11 * encoder


def test_counting_half_a_billion_parameters_takes_no_memory():
    wide = {"type": "mlp", "hidden": [16384, 16384, 16384]}
    checked = _checked({"stages": [{**LATENT, "encoder": wide}]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert cost(checked).parts[0].parameters > 500_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_module_handed_over_in_python_stays_as_it_is():
    features = Normal().features(Real((4,)))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, features.dim), nn.Unflatten(1, features.shape))
    model = {"stages": [{**LATENT, "encoder": Wrap(module=net)}]}
    checked = check_declared(Recipe.model_validate({"data": "digits", "model": model, "train": [{"steps": 1}]}))
    assert checked.faults == []
    found = {each.path: each for each in cost(checked).parts}
    assert found["model.stages.0.encoder"].parameters == 64 * 8 + 8
    assert all(parameter.device.type == "cpu" and parameter.requires_grad for parameter in net.parameters())


class Stubborn(NetPart):
    """Declares a net that reads a value back, which no meta tensor has."""

    type: ClassVar[str] = "stubborn"

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The net."""
        assert slot.condition is not None
        return StubbornNet(slot.condition.dim, slot.space.shape)


class StubbornNet(nn.Module):
    """A linear map."""

    def __init__(self, takes: int, gives: tuple[int, ...]) -> None:
        super().__init__()
        self.linear, self.shape = nn.Linear(takes, Real(gives).dim), gives

    def forward(self, x: Tensor) -> Tensor:
        """Maps sums that are not negative."""
        assert float(x.sum()) >= 0
        return self.linear(x.flatten(1)).unflatten(1, self.shape)


def test_where_the_meta_device_fails_it_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(registry._plugged["net"], "stubborn", Stubborn)
    found = cost(_checked({"stages": [{**LATENT, "encoder": "stubborn"}]}))
    assert "real weights" in found.note and "meta" in found.note
    by_path = {each.path: each for each in found.parts}
    assert by_path["model.stages.0.encoder"].flops == 2 * 64 * 8
    assert by_path["model.stages.0.encoder"].parameters == 64 * 8 + 8
