"""Checks of gradients: each parameter is reached, and each slope is that of what is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compose.core.declare import in_module
from compose.core.roles import Mode
from compose.testing.noise import Tape
from compose.testing.subject import ROWS
from compose.verification.report import Finding, check, unchecked
from compose.verification.tiny import CALM, MODES, Tiny

STEP = 1e-6
#: Sets of weights that are tried: one of them can cut a part off (dead units, items outside a spline's reach).
TRIES = 10
CROSSINGS = 3


@check
def gradients(tiny: Tiny) -> Iterator[Finding]:
    """A gradient reaches every parameter, and it is the slope of what is computed."""
    reached = _reached(tiny)
    if not reached:
        return
    dead = [name for name, hit in reached.items() if not hit]
    said = f"{len(reached) - len(dead)} of {len(reached)}" + (f"; none reaches {', '.join(dead)}" if dead else "")
    yield Finding("parameters reached", float(len(dead)), 0.0, said)
    of = "gradient against finite differences"
    if any(getattr(part, "gradient", "") == "straight_through" for _, part, _ in tiny.walk()):
        yield unchecked(of, "a part sends a straight-through gradient, which is no slope")
        return
    for mode in MODES if tiny.scored else MODES[:1]:
        # The best of some: in a step that crosses a kink of a network there is no slope to compare with.
        off, came, wanted = min(_slopes(tiny, mode) for _ in range(CROSSINGS))
        yield Finding(f"{of}, mode {mode}", off, 1e-5, f"{came:.6f}, by differences {wanted:.6f}")


def _reached(tiny: Tiny) -> dict[str, bool]:
    """Whether some gradient is not zero, by parameter; those that a part declares untrained count as reached."""
    meant = {f"{in_module(path)}.{name}".lstrip(".") for path, part, _ in tiny.walk() for name in part.untrained}
    reached: dict[str, bool] = {}
    for i in range(TRIES):
        model = replace(tiny, seed=TRIES * tiny.seed + i).build()
        x, c = tiny.data(4 * ROWS)
        value = tiny.computed(model, x, c)
        if tiny.scored:
            value = value + sum(model.evaluate_terms(x, c).penalties.values())
        if value.requires_grad:
            # Random weights: the plain sum of a normalised output has no gradient at all.
            (value * torch.randn_like(value)).sum().backward()
        for name, parameter in model.named_parameters():
            moved = parameter.grad is not None and bool((parameter.grad != 0).any())
            reached[name] = reached.get(name, name in meant) or moved
        if all(reached.values()):
            break
    return reached


def _slopes(tiny: Tiny, mode: Mode) -> tuple[float, float, float]:
    """Along a random direction of all parameters and under the same noise: how far apart; by torch; by differences."""
    model, tape = tiny.build(CALM), Tape()
    x, c = tiny.data(ROWS)
    weights = torch.randn(len(x), dtype=torch.float64)
    parameters = list(model.parameters())
    along = [torch.randn_like(parameter) for parameter in parameters]
    with tape.run():
        value = (tiny.computed(model, x, c, mode) * weights).sum()
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(found, along, strict=True) if g is not None)
    ends = []
    for step in (STEP, -STEP):
        with torch.no_grad(), tape.play():
            _move(parameters, along, step)
            ends.append(float((tiny.computed(model, x, c, mode) * weights).sum()))
            _move(parameters, along, -step)
    wanted = (ends[0] - ends[1]) / (2 * STEP)
    return abs(slope - wanted) / (1 + abs(wanted)), slope, wanted


def _move(parameters: Sequence[Tensor], along: Sequence[Tensor], step: float) -> None:
    for parameter, direction in zip(parameters, along, strict=True):
        parameter.add_(direction, alpha=step)


CHECKS = (gradients,)
