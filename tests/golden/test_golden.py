"""The first twenty steps of every shipped recipe come out as they always did."""

from __future__ import annotations

import pytest

from compose.recipe.check import load_recipe
from tests.absent import skip_where_absent
from tests.golden.curves import COMMAND, STEPS, curve, golden, names

#: Of a loss; a matrix product rounds differently from one machine to the next.
TOLERANCE = 1e-5
#: Two that learn from each other make more of that rounding with every step.
RIVALRY = 1.5


def test_every_recipe_has_a_golden_curve():
    missing, left_over = set(names()) - set(golden()), set(golden()) - set(names())
    assert len(names()) > 0
    assert not missing, f"no golden curve for {', '.join(sorted(missing))}; write it by: {COMMAND}"
    assert not left_over, f"golden curves of no recipe: {', '.join(sorted(left_over))}; drop them by: {COMMAND}"


#: Twenty steps of these take ten seconds and more.
LONG = {
    "fashion/flow",
    "fashion/conv_ladder",
    "fashion/diffusion",
    "fashion/vqvae",
    "fashion/vqgan",
    "vqgan_photographs",
}


#: One of each family, of a second or two.
QUICK = {"vae", "vae_vamp", "vae_flow_prior", "hvae", "flow_toy", "gan_grid", "diffusion_toy"}


def speed(name: str) -> pytest.MarkDecorator | tuple[()]:
    """How long a recipe takes, as a mark."""
    return pytest.mark.slow if name in LONG else () if name in QUICK else pytest.mark.long


@pytest.mark.parametrize("name", [pytest.param(name, marks=speed(name)) for name in names()])
def test_golden_curve(name, tmp_path):
    kept = golden().get(name)
    if kept is None:
        pytest.skip("has no golden curve; another test says so")
    skip_where_absent(name)
    found = curve(name, tmp_path / "run")
    assert len(found["loss"]) == len(kept["loss"]) >= STEPS
    growth = RIVALRY if rivals(name) else 1.0
    for key, values in kept.items():
        for i, (came, wanted) in enumerate(zip(found[key], values, strict=True)):
            step = min(i, STEPS) if key == "loss" else STEPS
            assert came == pytest.approx(wanted, rel=TOLERANCE * growth**step), (
                f"{name} trains otherwise than before: {key} {i}. If that is meant, {COMMAND} {name}, "
                "and give the old and the new number in CHANGELOG.md."
            )


def rivals(name: str) -> bool:
    """Whether a recipe trains a critic, which learns from what the model does and the other way round."""
    objectives = (
        term.objective for phase in load_recipe(name).train for player in phase.players for term in player.objectives
    )
    return any(objective.type == "adversarial" for objective in objectives)


def test_rivals_are_told():
    assert rivals("gan_grid") and rivals("vqgan") and not rivals("vae")
