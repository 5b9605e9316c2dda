"""The contracts of every role, for parts of one's own as for the shipped ones.

Example:
    >>> from compose.testing import check_part
    >>> def test_my_part():
    ...     check_part(MyPart)

A part is tried with its defaults in every place that it fits (tiny spaces, with and without condition and labels), and
with every other choice it offers in one place of each kind, in float64 and with shaken weights: fresh ones hide what is
wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from compose.core import random
from compose.core.declare import Part
from compose.core.errors import ComposeError
from compose.testing import data, declarations, densities, modules, nets, objectives, quantizers, stages
from compose.testing.contract import Contract, ContractError
from compose.testing.declarations import Declaration
from compose.testing.subject import Subject
from compose.testing.variants import variants

__all__ = ["Contract", "ContractError", "check_part", "contracts"]

_ROLES: dict[str, tuple[Callable[[Any], Iterator[Subject]], tuple[Contract, ...]]] = {
    "density": (densities.candidates, (*modules.CONTRACTS, *densities.CONTRACTS)),
    "stage": (stages.candidates, (*modules.CONTRACTS, *stages.CONTRACTS)),
    "net": (nets.candidates, (*modules.CONTRACTS, *nets.CONTRACTS)),
    "quantizer": (quantizers.candidates, (*modules.CONTRACTS, *quantizers.CONTRACTS)),
    "objective": (objectives.candidates, objectives.CONTRACTS),
    "data": (data.candidates, data.CONTRACTS),
}


def contracts(role: str) -> list[str]:
    """Names of the contracts of a role."""
    return [each.name for each in (*declarations.CONTRACTS, *_ROLES[role][1])]


def check_part(part: type[Part] | Part, only: Iterable[str] | None = None) -> dict[str, int]:
    """Tries a part against the contracts of its role.

    Args:
        part: A declaration's class, tried in all its forms (a form is the defaults with one other choice); or a
            declaration with the options to try.
        only: Names of contracts; all by default.

    Returns:
        How many times each contract was tried; 0 where the part makes no such promise.

    Raises:
        ContractError: a contract is broken, or the part fits nowhere; says which contract, in which place, and how.
            An error that the part raised is its cause.
    """
    kind = part if isinstance(part, type) else type(part)
    if kind.role not in _ROLES:
        raise ContractError(f"{kind.__name__} has role {kind.role!r}; wanted one of {', '.join(_ROLES)}.")
    known = contracts(kind.role)
    counts = dict.fromkeys(known if only is None else only, 0)
    if unknown := [name for name in counts if name not in known]:
        raise ContractError(f"a {kind.role} has no contract {', '.join(unknown)}; it has {', '.join(known)}.")
    candidates, of_role = _ROLES[kind.role]
    forms = list(variants(part))
    declared = [Declaration(kind, form, tuple(candidates(form))) for form in forms] or [Declaration(kind)]
    places = [place for each in declared for place in each.places]
    fitting = [place for each in declared for place in _telling(each, of_defaults=each is declared[0])]
    if forms and not fitting:
        raise ContractError(
            f"{kind.__name__} fits none of {len(places)} places; of the first it says: {places[0].reasons}"
        )
    for each in declarations.CONTRACTS:
        if each.name in counts:
            counts[each.name] = _try(each, declared)
    for each in of_role:
        if each.name in counts:
            counts[each.name] = _try(each, fitting)
    return counts


def _telling(form: Declaration, of_defaults: bool) -> list[Subject]:
    """Where a form is tried: the defaults wherever they fit, another choice in one place of each kind.

    Of places of a kind one with two numbers says most: a single one has no neighbour, of more no sum can be told.
    """
    fitting = [place for place in form.places if place.fits]
    if of_defaults:
        return fitting
    kinds: dict[Any, Subject] = {}
    for place in sorted(fitting, key=lambda place: place.space.dim != 2):
        slot = place.slot
        kinds.setdefault((type(place.space), slot.use, slot.condition is None, slot.labels is None), place)
    return list(kinds.values())


def _try(each: Contract, subjects: Iterable[Subject | Declaration]) -> int:
    """Tries a contract on every subject in each of its sizes; says how often it makes that promise."""
    tried = 0
    for whole in subjects:
        small = (whole.shrunk(size) for size in each.sizes)
        subject = next((one for one in small if not isinstance(one, Subject) or one.fits), None)
        if subject is None:
            continue
        try:
            with random.region(0, "contract", each.name):
                tried += each.try_on(subject)
        except Exception as error:
            came = str(error) if isinstance(error, ComposeError) else f"{error.__class__.__name__}: {error}"
            raise ContractError(f"{subject}\n    breaks {each.name}: {came}\n    promised: {each.promise}") from error
    return tried
