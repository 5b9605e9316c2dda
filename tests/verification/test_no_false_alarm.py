"""On the sound code every check is silent, whatever the weights."""

from __future__ import annotations

import pytest

from compose.recipe.shipped import recipes_root, shipped
from compose.verification import CHECKS, Report, verify_all
from compose.verification.tiny import IMPLICIT

SEEDS = 20
#: What a model may have nothing to say to: no bijection is a stage of it, no term has a closed form, nothing is drawn,
#: or not step by step; it has a likelihood.
SILENT = {
    "round trip", "one likelihood", "log dets", "closed forms", "importance weighting", "polarity", "rounding", "cached"
}  # fmt: skip
#: Why something may not be checked: there is no L; dropout; gradients that are no slopes; sums of mere bounds.
REASONS = (
    IMPLICIT,
    "of its activations is dropped",
    "a part sends a straight-through gradient, which is no slope",
    "L is only a subweight",
    "L is only a bound",
    "which no trace adds up to",
    "a stage or the prior is itself only a bound",
)


#: They take longer than any others; among the slow tests.
LONG = {"fashion/conv_ladder", "flow_augmented"}


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    """Every shipped recipe that does not take long, verified."""
    return verify_all([name for name in shipped() if name not in LONG])


def test_every_shipped_recipe_holds(reports: list[Report]):
    assert len(reports) == len(shipped()) - len(LONG)
    assert {report.name: report.failed for report in reports if not report.held} == {}
    for report in reports:
        assert len(report.findings) == len(CHECKS)
        assert {name for name, found in report.findings.items() if not found} <= SILENT
        unchecked = [each for found in report.findings.values() for each in found if each.verdict == "not checked"]
        assert not [each for each in unchecked if not each.said.endswith(REASONS)]
        assert not report.same_as or report.same_as in {other.name for other in reports}


@pytest.mark.slow
def test_five_seconds_a_recipe(reports: list[Report]):
    """Stated for a quiet core; a busy one may take four times as long."""
    assert max(report.seconds for report in reports) < 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS + 1))
def test_no_false_alarm(seed: int):
    failed = {report.name: report.failed for report in verify_all([recipes_root()], seed=seed) if not report.held}
    assert failed == {}
