"""The equation's terms are those that the built model returns, and its text is right for known models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compose.core.kinds import Kind
from compose.core.spaces import Codes
from compose.core.terms import views
from compose.recipe.build import build_model
from compose.recipe.check import Checked, check, check_tree
from compose.recipe.equation import Equation, Term, equation
from compose.recipe.shipped import shipped
from compose.recipe.tree import Tree

BIJECTION = {"type": "bijection", "transform": "affine_coupling", "layers": 1}
INNER = {"type": "model", "stages": [BIJECTION, {"type": "latent", "dim": 3, "likelihood": "normal"}]}
PIXELS = {"type": "model", "stages": ["dequantize"], "prior": {"type": "flow", "transform": "affine_coupling"}}
MODELS: dict[str, dict[str, Any]] = {
    "vae": {"stages": ["latent"]},
    "vae with a flow prior": {"stages": ["latent"], "prior": "flow"},
    "vae with a vamp": {"stages": ["latent"], "prior": "vamp"},
    "hierarchy": {"stages": ["latent", {"type": "latent", "likelihood": "normal"}], "prior": "mixture"},
    "flow": {"stages": ["dequantize", "standardize", BIJECTION]},
    "flow in a vae": {"stages": ["latent", BIJECTION]},
    "alone": {"prior": "categorical"},
    "model as prior": {"stages": ["latent"], "prior": INNER},
    "model as likelihood": {"stages": [{"type": "latent", "likelihood": PIXELS}]},
    "two deep": {"stages": ["latent"], "prior": {"type": "model", "stages": [BIJECTION], "prior": INNER}},
}


def _checked(model: dict[str, Any], labels: bool = False) -> Checked:
    return check_tree(
        Tree({"data": {"type": "digits", "labels": labels}, "model": model, "train": [{"steps": 1}]}, {}, "")
    )


def _names_of_the_built(checked: Checked) -> list[str]:
    model = build_model(checked.recipe.model, checked.space, checked.labels)
    if model.kind is Kind.NONE:
        return []
    x = torch.zeros(2, *checked.space.shape, dtype=torch.long if isinstance(checked.space, Codes) else None)
    c = None if checked.labels is None else torch.zeros(2, dtype=torch.long)
    return list(model.evaluate_terms(x, c).terms)


# A vamp has no labels for its pseudo-inputs, and of the other two no part takes any, so there are no such models.
LABELLED = [name for name in MODELS if name not in ("vae with a vamp", "flow", "alone")]


@pytest.mark.parametrize(
    ("name", "labels"), [*((name, False) for name in MODELS), *((name, True) for name in LABELLED)]
)
def test_terms_are_named_and_ordered_as_in_the_ledger(name: str, labels: bool):
    checked = _checked(MODELS[name], labels)
    assert checked.faults == []
    found = equation(checked)
    assert [term.name for term in found.terms] == _names_of_the_built(checked)
    assert found.kind is checked.recipe.model.kind(checked.slot)
    assert found.views == views([term.name for term in found.terms])


@pytest.mark.long
@pytest.mark.parametrize("name", shipped())
def test_so_are_those_of_every_shipped_recipe(name: str):
    checked = check(name)
    assert [fault for fault in checked.faults if fault.path != "data"] == []
    assert [term.name for term in equation(checked).terms] == _names_of_the_built(checked)


@pytest.mark.parametrize("name", MODELS)
def test_every_term_leads_to_its_part(name: str):
    checked = _checked(MODELS[name])
    parts = {key: part for key, part, _ in checked.recipe.model.walk(checked.slot, "model")}
    for term in _all_terms(equation(checked)):
        assert parts[term.path].type == term.part
        assert term.part in term.formula.text or "det" in term.formula.text


def _all_terms(found: Equation) -> list[Term]:
    return [*found.terms, *(term for inner in found.where for term in _all_terms(inner))]


def test_texts():
    assert equation(_checked(MODELS["vae with a flow prior"])).text == (
        "L = log p_categorical(x | z1) - log q_normal(z1 | x) + log p_flow(z1)"
    )
    assert equation(_checked(MODELS["flow"])).text == (
        "L = - log q_dequantize(u1 | x) + log|det dz1/du1| + log|det dz2/dz1| + log|det dz3/dz2| + log p_normal(z3)"
    )
    assert equation(_checked(MODELS["alone"])).text == "L = log p_categorical(x)"
    assert equation(_checked(MODELS["vae"], labels=True)).text == (
        "L = log p_categorical(x | z1, y) - log q_normal(z1 | x, y) + log p_normal(z1)"
    )


def test_latex():
    found = equation(_checked({"stages": [{"type": "latent", "likelihood": "discretized_logistic"}, BIJECTION]}))
    assert found.latex == (
        r"L = \log p_{\mathrm{discretized\_logistic}}(x \mid z_{1}) - \log q_{\mathrm{normal}}(z_{1} \mid x)"
        r" + \log\left|\det \frac{\partial z_{2}}{\partial z_{1}}\right| + \log p_{\mathrm{normal}}(z_{2})"
    )


def test_models_inside_have_equations_of_their_own():
    (prior,) = equation(_checked(MODELS["two deep"])).where
    assert prior.text == "log p_model(z1) = log|det dv1/dz1| + log p_model(v1)"
    (innermost,) = prior.where
    assert innermost.text == (
        "log p_model(v1) = log|det dw1/dv1| + log p_normal(w1 | w2) - log q_normal(w2 | w1) + log p_normal(w2)"
    )
    assert (prior.kind, innermost.terms[-1].path) == (Kind.WEIGHT, "model.prior.prior.prior")
    (pixels,) = equation(_checked(MODELS["model as likelihood"], labels=True)).where
    assert pixels.text == (
        "log p_model(x | z1, y) = - log q_dequantize(u1 | x) + log|det dv1/du1| + log p_flow(v1 | z1, y)"
    )
