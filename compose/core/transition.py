"""What is asked of the densities between latents of one stage."""

from __future__ import annotations

from collections.abc import Iterator

from compose.core.declare import Misfit, Part, Slot
from compose.core.meta import without_memory


def unfitted(stage: Part, slot: Slot) -> Iterator[Misfit]:
    """A transition between latents that would start at the scale of its data: only what lies on an edge is fitted."""
    for key, (part, place) in stage.nested(slot).items():
        if not key.startswith("transition#") or any(any(each.misfits(at)) for _, each, at in part.walk(place)):
            continue
        with without_memory():
            fitted = getattr(part.build(place), "needs_fit", False)
        if fitted:
            message = f"'{part.type}' starts something in it at the scale of its data, which no transition is shown"
            yield Misfit(f"{message}; actnorm: false, or no 'standardize', would do.", key="transition", swap=False)
            return
