"""Every registered part keeps the contracts of its role."""

from __future__ import annotations

import pytest

from compose.core import registry
from compose.testing import ContractError, check_part, contracts

#: Densities that promise only a bound: nothing of theirs sums to 1.
BOUNDS = {"masked"}
#: Contracts that no part of the role is excused from, though in some places they cannot be told.
EVERYWHERE = {"mass_is_one_and_samples_are_from_it", "terms_are_as_declared", "gradient_reaches_the_model"}


def test_every_role_has_parts_and_contracts():
    assert {role: len(registry.names(role)) for role in registry.ROLES if not registry.names(role)} == {}
    assert min(len(contracts(role)) for role in registry.ROLES) >= 4


#: Contracts that are soon told of all parts.
QUICK = {"it_says_what_it_is", "it_survives_a_dump", "codes_are_as_declared", "examples_lie_in_the_declared_spaces"}


@pytest.mark.parametrize(
    ("role", "contract"),
    [
        pytest.param(role, name, marks=() if name in QUICK else pytest.mark.long)
        for role in registry.ROLES
        for name in contracts(role)
    ],
)
def test_parts_keep(role: str, contract: str):
    """All parts are tried even where one fails; and the contract is tried at all."""
    counts, broken = {}, []
    for name in registry.names(role):
        part = registry.load(role, name)
        assert (part.role, part.type) == (role, name)
        try:
            counts[name] = check_part(part, [contract])[contract]
        except ContractError as error:
            broken.append(str(error))
    assert not broken, "\n".join(broken)
    assert sum(counts.values()) > 0
    excused = BOUNDS if contract == "mass_is_one_and_samples_are_from_it" else set()
    assert contract not in EVERYWHERE or {name for name, tried in counts.items() if not tried} <= excused, counts
