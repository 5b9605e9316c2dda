"""The first twenty steps of every shipped recipe come out as they always did."""

from __future__ import annotations

import pytest

from compose.core.errors import RecipeError
from tests.golden.curves import COMMAND, STEPS, curve, golden, names

#: Of a loss; a matrix product rounds differently from one machine to the next.
TOLERANCE = 1e-5


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


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in names()]
)
def test_golden_curve(name, tmp_path):
    kept = golden().get(name)
    if kept is None:
        pytest.skip("has no golden curve; another test says so")
    try:
        found = curve(name, tmp_path / "run")
    except RecipeError as error:
        if {fault.path for fault in error.faults} == {"data"}:  # not on this machine
            pytest.skip(str(error).splitlines()[0])
        raise
    assert len(found["loss"]) == len(kept["loss"]) >= STEPS
    for key, values in kept.items():
        assert found[key] == pytest.approx(values, rel=TOLERANCE), (
            f"{name} trains otherwise than before. If that is meant, {COMMAND} {name}, "
            "and give the old and the new number in CHANGELOG.md."
        )
