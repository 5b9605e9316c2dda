"""What a recipe's model costs: parameters and floating-point operations of each part, before any weight exists.

The model is built as always, but its parameters have no memory; buffers stay real until the build is done.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compose.core.declare import in_module, in_recipe
from compose.core.kinds import Kind
from compose.core.meta import without_memory
from compose.core.model import ModelDensity
from compose.core.spaces import Codes, Space
from compose.recipe.build import build_model
from compose.recipe.check import Checked

#: The methods by which models use their parts.
_CALLS = ("forward", "infer", "generate", "sample", "log_prob", "rsample_and_log_prob", "gaussian", "expected_log_prob")


@dataclass(frozen=True)
class Cost:
    """What one part costs, with all that is inside it.

    Args:
        path: Its key path; ``model`` is the whole.
        part: Its name in recipes.
        parameters: How many numbers are trained.
        flops: Operations of matrix products and convolutions in ``log_prob`` of one example, or without a likelihood
            in one sample; a product and a sum count as two. What a part does with what another one lends it, it pays
            itself.
    """

    path: str
    part: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class Costs:
    """What every part costs, owners before what is inside them.

    Args:
        parts: The whole model first.
        note: How it was counted where that was not on the meta device; else empty.
    """

    parts: tuple[Cost, ...]
    note: str = ""


def cost(checked: Checked) -> Costs:
    """Counts the model of a recipe that was checked and has no fault."""
    with without_memory():
        model = _build(checked)
    note = ""
    try:
        flops = _flops(model.to("meta"), checked, "meta")
    except Exception as error:  # Parts of one's own may do what no meta tensor can, and say so in any way.
        reason = str(error).splitlines()[0] if str(error) else error.__class__.__name__
        note = f"counted with real weights and one blank example, since the meta device fails: {reason}"
        flops = _flops(_build(checked), checked, "cpu")
    found: dict[str, Cost] = {}
    for key, part, _ in checked.recipe.model.walk(checked.slot):
        key, path = in_module(key), f"model.{in_recipe(key)}".rstrip(".")
        before = found.get(path, Cost(path, part.type, 0, 0))
        parameters = sum(parameter.numel() for parameter in model.get_submodule(key).parameters())
        own = sum(count for path, count in flops.items() if path == key or not key or path.startswith(f"{key}."))
        found[path] = replace(before, parameters=before.parameters + parameters, flops=before.flops + own)
    return Costs(tuple(found.values()), note)


def _build(checked: Checked) -> ModelDensity:
    # A module handed over in Python stays as it is.
    return build_model(copy.deepcopy(checked.recipe.model), checked.space, checked.labels)


def _flops(model: ModelDensity, checked: Checked, device: str) -> dict[str, int]:
    """Operations by the key path of the part that did them itself."""
    x = _blank(checked.space, device)
    c = None if checked.labels is None else _blank(checked.labels, device)
    model.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        meter = _Meter(counter.get_total_flops)
        for key, _, _ in checked.recipe.model.walk(checked.slot):
            if key:
                meter.watch(model.get_submodule(in_module(key)), in_module(key))
        if model.kind is Kind.NONE:
            model.sample(1, c)
        else:
            model.log_prob(x, c)
        meter.charge()
    return meter.spent


def _blank(space: Space, device: str) -> Tensor:
    dtype = torch.long if isinstance(space, Codes) else torch.get_default_dtype()
    return torch.zeros(1, *space.shape, dtype=dtype, device=device)


class _Meter:
    """Charges what is counted to the part at work.

    Args:
        total: What was counted so far.
    """

    def __init__(self, total: Callable[[], int]) -> None:
        self.total, self.seen = total, 0
        self.working = [""]
        self.spent: dict[str, int] = {}

    def charge(self) -> None:
        """Charges what was counted since the last time to the part at work."""
        now = self.total()
        self.spent[self.working[-1]] = self.spent.get(self.working[-1], 0) + now - self.seen
        self.seen = now

    def watch(self, module: nn.Module, path: str) -> None:
        """Charges what ``module`` does to ``path`` where its owner asks for it, and to whoever borrowed it else."""
        for name in _CALLS:
            if hasattr(module, name):
                setattr(module, name, self._charging(getattr(module, name), path))

    def _charging(self, call: Callable[..., Any], path: str) -> Callable[..., Any]:
        @wraps(call)
        def charged(*args: Any, **kwargs: Any) -> Any:
            owner = self.working[-1]
            if owner and not f"{path}.".startswith(f"{owner}."):
                return call(*args, **kwargs)
            self.charge()
            self.working.append(path)
            try:
                return call(*args, **kwargs)
            finally:
                self.charge()
                self.working.pop()

        return charged
