"""On the sound code every check is silent, whatever the weights."""

from __future__ import annotations

import pytest

from compose.recipe.shipped import shipped
from compose.verification import CHECKS, verify_all
from compose.verification.tiny import IMPLICIT
from tests.absent import absent, skip_where_absent

SEEDS = 20
#: What a model may have nothing to say to: no bijection is a stage of it, no term has a closed form, nothing is drawn,
#: or not step by step; it has a likelihood.
SILENT = {
    "round trip", "one likelihood", "log dets", "closed forms", "importance weighting", "polarity", "rounding", "cached"
}  # fmt: skip
#: Why something may not be checked: there is no L; dropout; gradients that are no slopes; sums of mere bounds, or over
#: reals with much noise; draws of a bound inside a likelihood.
REASONS = (
    IMPLICIT,
    "of its activations is dropped",
    "a part sends a straight-through gradient, which is no slope",
    "L is only a subweight",
    "L is only a bound",
    "which no trace adds up to",
    "a stage or the prior is itself only a bound",
    "numbers of noise a datum",
    "numbers of noise are too many to integrate out",
    "so no two programs draw alike",
)


#: They take longer than any others; among the slow tests.
LONG = {
    "diffusion", "diffusion_decoder", "fashion/conv_ladder", "flow", "flow_augmented", "vdm"
}  # fmt: skip
#: These stand for all others among the quick ones.
QUICK = {"vae", "gan_grid"}


def speed(name: str) -> pytest.MarkDecorator | tuple[()]:
    """How long a recipe takes, as a mark."""
    return pytest.mark.slow if name in LONG else () if name in QUICK else pytest.mark.long


NAMES = [pytest.param(name, marks=speed(name)) for name in shipped()]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_holds(name: str):
    skip_where_absent(name)
    (report,) = verify_all([name])
    assert report.failed == [] and report.held
    assert len(report.findings) == len(CHECKS)
    assert {check for check, found in report.findings.items() if not found} <= SILENT
    unchecked = [each for found in report.findings.values() for each in found if each.verdict == "not checked"]
    assert not [each for each in unchecked if not each.said.endswith(REASONS)]


def here() -> list[str]:
    """The shipped recipes whose data are on this machine."""
    return [name for name in shipped() if not absent(name)]


@pytest.mark.slow
def test_no_recipe_takes_twenty_seconds():
    """On a quiet core five; a busy one may take four times as long."""
    reports = verify_all([name for name in here() if name not in LONG])
    assert max(report.seconds for report in reports) < 20
    assert all(not report.same_as or report.same_as in {other.name for other in reports} for report in reports)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS + 1))
def test_no_false_alarm(seed: int):
    failed = {report.name: report.failed for report in verify_all(here(), seed=seed) if not report.held}
    assert failed == {}
