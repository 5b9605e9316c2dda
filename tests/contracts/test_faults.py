"""A fault planted in a part makes a contract speak, and that contract says where and what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from compose.core import registry
from compose.core.declare import Part, Slot
from compose.testing import ContractError, check_part

Method = Callable[..., Any]


def planted(role: str, name: str, method: str, fault: Callable[[Method], Method]) -> type[Part]:
    """The part, with one method of its module replaced by ``fault(method)``."""

    class Faulty(registry.load(role, name)):
        """A part with a planted fault."""

        def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
            module = super().make(slot, children)
            kind = type(module)
            module.__class__ = type(kind.__name__, (kind,), {method: fault(getattr(kind, method))})
            return module

    return Faulty


def scaled(method: Method) -> Method:
    """A mean over the numbers of an item where a sum belongs."""
    return lambda self, x, *rest: method(self, x, *rest) / x[0].numel()


def leaking(method: Method) -> Method:
    """Rows that see each other."""
    return lambda self, x, *rest: method(self, x, *rest) + 1e-6 * x.flatten(1).double().mean()


def unconditional(method: Method) -> Method:
    """A condition that is the same for all."""
    return lambda self, n, c=None: method(self, n, None if c is None else c[:1].expand(c.shape))


def deaf(method: Method) -> Method:
    """A condition that only half counts."""

    def half(self: Any, x: torch.Tensor, c: torch.Tensor | None = None, mode: str = "path") -> torch.Tensor:
        if c is None or not c.is_floating_point():
            return method(self, x, c, mode)
        kept = torch.ones_like(c)
        kept.flatten(1)[:, 0] = 0
        return method(self, x, c * kept, mode)

    return half


def too_wide(method: Method) -> Method:
    """Samples from another distribution than the one that is scored."""
    return lambda self, n, c=None: 1.1 * method(self, n, c)


def off_by_noise(method: Method) -> Method:
    """A draw scored as if it were another."""
    return lambda self, c: (method(self, c)[0] * 1.001, method(self, c)[1])


def cut(method: Method) -> Method:
    """No gradient through a draw."""
    return lambda self, c: tuple(value.detach() + 0 * c.sum() for value in method(self, c))


def with_terms(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Method], Method]:
    """Changes the terms that a stage writes down."""

    def fault(method: Method) -> Method:
        def infer(self: Any, *args: Any) -> Any:
            step = method(self, *args)
            return step._replace(terms=change(step.terms))

        return infer

    return fault


no_log_det = with_terms(lambda terms: {**terms, "log_det": torch.zeros_like(terms["log_det"])})
wrong_sign = with_terms(lambda terms: {**terms, "minus_log_q": -terms["minus_log_q"]})
unnamed = with_terms(lambda terms: {"bonus": terms["log_det"]})


def half_open(method: Method) -> Method:
    """Dequantises each level over half of its cell."""

    def infer(self: Any, x: torch.Tensor, *args: Any) -> Any:
        step = method(self, x, *args)
        z = torch.logit((x + 0.5 * (torch.sigmoid(step.z) * self.levels - x)) / self.levels)
        log_det = (torch.log(torch.sigmoid(z) * torch.sigmoid(-z) * self.levels)).sum(self.axes)
        return step._replace(z=z, terms={**step.terms, "log_det": -log_det})

    return infer


def shifted(method: Method) -> Method:
    """Comes down somewhere else than where it went up."""
    return lambda self, z, c=None: method(self, z, c) + 1e-6


def unscaled(method: Method) -> Method:
    """An entropy that forgets the scale."""
    return lambda self, q: method(self, q._replace(scale=torch.ones_like(q.scale)))


def detached(method: Method) -> Method:
    """Cuts what a net gives from its weights."""
    return lambda self, x: method(self, x).detach() + 0 * x.sum()


def summed(method: Method) -> Method:
    """A loss that is no scalar."""
    return lambda self, *args: method(self, *args)._replace(value=method(self, *args).value[None])


FAULTS = [
    ("density", "bernoulli", "log_prob", scaled, "mass_is_one_and_samples_are_from_it"),
    ("density", "normal", "log_prob", leaking, "rows_are_independent"),
    ("density", "mixture", "sample", too_wide, "mass_is_one_and_samples_are_from_it"),
    ("density", "categorical", "sample", unconditional, "samples_follow_their_conditions"),
    ("density", "discretized_logistic", "log_prob", deaf, "the_condition_conditions"),
    ("density", "flow", "rsample_and_log_prob", off_by_noise, "draws_carry_a_gradient"),
    ("density", "normal", "rsample_and_log_prob", cut, "draws_carry_a_gradient"),
    ("density", "normal", "expected_log_prob", unscaled, "closed_forms_are_right"),
    ("stage", "bijection", "infer", no_log_det, "bijections_invert"),
    ("stage", "standardize", "infer", no_log_det, "bijections_invert"),
    ("stage", "bijection", "generate", shifted, "bijections_invert"),
    ("stage", "bijection", "infer", unnamed, "terms_are_as_declared"),
    ("stage", "dequantize", "infer", no_log_det, "weights_sum_to_one_and_samples_are_from_them"),
    ("stage", "dequantize", "infer", half_open, "weights_sum_to_one_and_samples_are_from_them"),
    ("stage", "latent", "infer", wrong_sign, "weights_sum_to_one_and_samples_are_from_them"),
    ("net", "mlp", "forward", detached, "gradient_reaches_every_parameter"),
    ("objective", "elbo", "forward", summed, "losses_are_finite_scalars"),
]


@pytest.mark.parametrize(
    ("role", "name", "method", "fault", "speaks"), FAULTS, ids=lambda of: getattr(of, "__name__", of)
)
def test_a_fault_is_heard(role: str, name: str, method: str, fault: Callable[[Method], Method], speaks: str):
    with pytest.raises(ContractError) as raised:
        check_part(planted(role, name, method, fault), [speaks])
    assert isinstance(raised.value.__cause__, ContractError)  # and not an error in the planted code
    said = str(raised.value)
    assert said.startswith(f"{role} {name}(") and f"breaks {speaks}: " in said and "promised: " in said


def test_a_part_that_fits_nowhere_is_told():
    class Nowhere(registry.load("density", "normal")):
        """Takes nothing."""

        takes = ()

    with pytest.raises(ContractError, match="Nowhere fits none of"):
        check_part(Nowhere)


def test_a_contract_that_does_not_exist_is_told():
    with pytest.raises(ContractError, match="a net has no contract bijections_invert; it has it_says"):
        check_part(registry.load("net", "mlp"), ["bijections_invert"])


def test_a_declaration_is_held_to_its_form():
    class Mute(registry.load("density", "normal")):
        """Says too little."""

        secret: int = 3

    class Sourceless(registry.load("density", "normal")):
        """From nowhere."""

        source = ""

    for part, said in ((Mute, "no docstring stands under secret"), (Sourceless, "no 'source'")):
        with pytest.raises(ContractError, match=said):
            check_part(part, ["it_says_what_it_is"])


def test_options_that_were_handed_over_are_the_ones_tried():
    part = registry.load("net", "mlp").model_validate({"hidden": [3]})
    counts = check_part(part, ["rows_are_independent", "it_survives_a_dump"])
    assert counts == {"rows_are_independent": 6, "it_survives_a_dump": 1}
