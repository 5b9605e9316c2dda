"""Contracts of every declaration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from compose.core import registry
from compose.core.declare import Misfit, Part, Slot
from compose.testing.contract import contract, require
from compose.testing.densities import DensitySubject
from compose.testing.stages import StageSubject
from compose.testing.subject import Subject


@dataclass(frozen=True)
class Declaration:
    """A declaration, with every place that its role is tried in.

    Args:
        kind: The declaration's class.
        part: One form of it; none where it has no defaults.
        places: Candidates, fitting or not.
    """

    kind: type[Part]
    part: Part | None = None
    places: Sequence[Subject] = ()

    def shrunk(self, most: int | None) -> Declaration:
        """Itself: a declaration has no size."""
        return self

    def __str__(self) -> str:
        return f"{self.kind.role} {self.kind.type or self.kind.__name__}"


@contract(None)
def it_says_what_it_is(subject: Declaration) -> bool:
    """It has a type, a known role, a source and a docstring, and every option has a meaning."""
    part = subject.kind
    require(bool(part.type), f"{part.__name__} has no 'type', its name in recipes")
    require(part.role in registry.ROLES, f"its role is {part.role!r}, wanted one of {', '.join(registry.ROLES)}")
    require(bool(part.source.strip()), "it has no 'source': where the idea comes from")
    require(bool((part.__dict__.get("__doc__") or "").strip()), "it has no docstring")
    mute = [name for name, field in part.model_fields.items() if not (field.description or "").strip()]
    require(not mute, f"no docstring stands under {', '.join(mute)}")
    return True


@contract(None)
def it_survives_a_dump(subject: Declaration) -> bool:
    """Dumped to plain data and read again, it is equal; an unknown option is refused; it cannot be changed."""
    part = subject.part
    if part is None:
        return False
    options = json.loads(json.dumps(part.model_dump()))
    require(options.pop("type", None) == part.type, "its dump does not open with its type")
    require(type(part).model_validate(options) == part, f"read back from {options} it is another")
    try:
        type(part).model_validate({**options, "no such option": 1})
    except ValidationError:
        pass
    else:
        require(False, "it takes an option that it does not have")
    for name in type(part).model_fields:
        try:
            setattr(part, name, getattr(part, name))
        except ValidationError:
            continue
        require(False, f"its option {name} can be set after the fact")
    return True


@contract(None)
def misfits_are_told(subject: Declaration) -> bool:
    """Every refusal is a sentence about an option that exists; one for the space alone names the space that came."""
    for place in subject.places:
        for reason in place.part.misfits(place.slot):
            _check_reason(reason, place.part)
    for place in subject.places:
        if (
            isinstance(place, (DensitySubject, StageSubject))
            and not place.fits
            and _only_the_space(place, subject.places)
        ):
            for _, part, slot in place.part.walk(place.slot):
                _check_space_is_named(place, slot, [reason.message for reason in part.misfits(slot)])
    return bool(subject.places)


def _check_space_is_named(place: Subject, slot: Slot, told: list[str]) -> None:
    """The part, or one inside it that is handed other spaces, names what it was handed."""
    named = any(str(space) in message for space in (slot.space, slot.condition) for message in told)
    require(named or not told, f"{place} is refused by {' '.join(told)!r}, which does not name the space that came")


def _check_reason(reason: Misfit, part: Part) -> None:
    require(len(reason.message.split()) > 3, f"a refusal says only {reason.message!r}")
    require(
        not reason.key or reason.key.split(".")[0] in type(part).model_fields,
        f"a refusal is about no option: {reason.key!r}",
    )


def _only_the_space(place: DensitySubject | StageSubject, places: Sequence[Subject]) -> bool:
    """Whether the same place with another space would do, so that only the space can be at fault."""
    if isinstance(place, DensitySubject) and place.lender is not None:
        return False

    def rest(of: Subject) -> tuple[object, ...]:
        return (of.slot.use, of.slot.labels)

    return any(other.fits and rest(other) == rest(place) for other in places)


CONTRACTS = (it_says_what_it_is, it_survives_a_dump, misfits_are_told)
