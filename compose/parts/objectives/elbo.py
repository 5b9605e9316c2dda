"""The negative evidence lower bound, with weights on its rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge
from torch import Tensor, nn

from compose.core.declare import Misfit, ObjectivePart, Slot
from compose.core.kinds import Kind
from compose.core.objective import Loss, Objective, penalised
from compose.core.quantizer import mean_over_devices
from compose.core.roles import DensityPart, Mode, promised, stages_of
from compose.core.spaces import Real, Space
from compose.core.terms import total, views


class ELBO(ObjectivePart):
    """Minimises ``distortion + beta * sum of rates``; with beta 1 that is ``-L``, the negative ELBO."""

    type: ClassVar[str] = "elbo"
    source: ClassVar[str] = "beta: Higgins et al. 2017; warm-up: arXiv:1602.02282; free bits: arXiv:1606.04934"

    beta: Annotated[float, Ge(0)] = 1.0
    """Weight of the rates."""
    warmup: Annotated[int, Ge(0)] = 0
    """Steps over which the weight of the rates rises linearly from 0 to beta."""
    free_bits: Annotated[float, Ge(0)] = 0.0
    """Nats of each rate (mean over the batch) that cost nothing."""
    mode: Mode = "one_t"
    """How terms are taken in training: ``one_t`` uses closed forms where there are any and one link of a diffusion,
    ``kl`` all its links, ``path`` draws everything."""

    prior: Literal["own", "normal"] = "own"
    """What is paid for the last latent: by the model's prior, or by N(0, I) as long as that is not trained."""

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """The model has a likelihood; and what acts on rates finds one."""
        if promised(slot) is Kind.NONE:
            yield Misfit(f"'{self.type}' needs a likelihood, and this model has none.")
        sampled = any("minus_log_q" in stage.terms() for stage, _ in stages_of(slot))
        for key in ("beta", "warmup", "free_bits"):
            if not sampled and getattr(self, key) != ELBO.model_fields[key].default:
                yield Misfit(f"'{key}' weighs a rate, and this model draws no latent.", key=key, swap=False)
        assert isinstance(slot.model, DensityPart)
        if self.mode != "one_t" and slot.model.of_the_bound.startswith("timesteps"):
            message = f"mode '{self.mode}' sees all times, and the prior has 'timesteps: importance'; take 'one_t'."
            yield Misfit(message, key="mode", swap=False)
        if self.prior == "normal" and not stages_of(slot):
            yield Misfit("N(0, I) in its prior's place leaves a model without stages nothing to train.", key="prior")
        elif self.prior == "normal" and not isinstance(space := _top(slot), Real):
            message = f"N(0, I) is of reals, and what comes up to the prior is {space}."
            yield Misfit(message, key="prior", swap=False)

    @property
    def reaches(self) -> tuple[str, ...]:
        """All, or what stands below a prior that is left alone."""
        return ("stages",) if self.prior == "normal" else super().reaches

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The objective."""
        return ELBOObjective(self)


def _top(slot: Slot) -> Space:
    """The space that the model's prior closes."""
    for stage, place in reversed(stages_of(slot)):
        return stage.above(place.space)
    return slot.space


class ELBOObjective(Objective):
    """Weighs the views of the ledger.

    Args:
        options: Weights.
    """

    of_terms = True

    def __init__(self, options: ELBO) -> None:
        super().__init__()
        self.options = options
        self.judged_by = "-ELBO to N(0, I)" if options.prior == "normal" else "-ELBO"
        self.plain = options.beta == 1 and not options.warmup and not options.free_bits

    def forward(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """``-L``, or its weighted form, averaged over the batch."""
        standard = {"standard": True} if self.options.prior == "normal" else {}
        ledger = model(x, c, call="evaluate_terms", mode=self.options.mode, **standard)
        if self.plain:
            # Divided by -n rather than averaged and negated: one operation less on the way back.
            return Loss(penalised(total(ledger.terms).sum() / -x.shape[0], ledger), ledger)
        beta = self.options.beta * (min(1.0, (step + 1) / self.options.warmup) if self.options.warmup else 1.0)
        free = self.options.free_bits
        value = x.new_zeros((), dtype=next(iter(ledger.terms.values())).dtype)
        for view, names in views(ledger.terms).items():
            cost = -total({name: ledger.terms[name] for name in names}).mean()
            if view != "distortion":
                # What is free is so many nats of the whole batch's mean, over all devices.
                cost = beta * (mean_over_devices(cost) if free else cost).clamp_min(free)
            value = value + cost
        return Loss(penalised(value, ledger), ledger)
