"""How an item is drawn step by step: how sharply, from what is known, guided by what, in how many steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from compose.core.errors import SpaceError
from compose.core.samplers import SAMPLERS
from compose.core.spaces import Codes

#: No path is walked in more steps than these.
MOST = 10_000


@dataclass(frozen=True)
class Drawing:
    """How an item is drawn step by step.

    Args:
        temperature: Divides the logits; towards 0 the likeliest code is taken, above 1 all come closer together.
        top_k: Only so many of the likeliest codes are drawn.
        top_p: Only the likeliest codes are drawn that make up this share.
        known: The codes that come first, ``(n, m)``, in the order in which codes are drawn.
        guidance: What the label changes in the logits is taken so many times: 0 is without the label, 1 as it is.
        without: The condition where the label is hidden, ``(n, ...)``; a density by label gives it.
        sampler: How a diffusion is walked down: ancestral, ddim, dpm_solver_pp, heun; by default it draws each link.
        steps: In how many steps; by default the density's own.
        eta: Of ddim, the share of a link's noise that is drawn.

    Raises:
        SpaceError: a temperature of 0 or below, a guidance below 0, a limit that leaves nothing, no step or more than
            10,000, or a sampler that there is not.

    Source: top_p: Holtzman et al. 2020, arXiv:1904.09751; guidance: Ho and Salimans 2022, arXiv:2207.12598.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    known: Tensor | None = None
    guidance: float = 1.0
    without: Tensor | None = None
    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None

    def __post_init__(self) -> None:
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise SpaceError(f"there is no sampler called {self.sampler!r}; there are {', '.join(SAMPLERS)}.")
        if self.steps is not None and not (type(self.steps) is int and 1 <= self.steps <= MOST):
            raise SpaceError(f"{self.steps} steps were asked for; wanted a whole number, 1 to {MOST:,}.")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise SpaceError(f"eta is {self.eta:g}; wanted 0 (no noise) to 1 (a link's own).")
        if not self.temperature > 0:
            raise SpaceError(f"temperature is {self.temperature:g}; wanted above 0 (0.01 is as good as greedy).")
        if self.top_k is not None and self.top_k < 1:
            raise SpaceError(f"top_k is {self.top_k}, which leaves no code to draw; wanted 1 at least.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SpaceError(f"top_p is {self.top_p:g}; wanted above 0 and at most 1.")
        if not 0 <= self.guidance < math.inf:
            raise SpaceError(f"guidance is {self.guidance:g}; wanted 0 at least (1 is none, 3 is strong).")

    def refuse(self, *names: str, by: str) -> None:
        """Refuses what means nothing to one way of drawing.

        Raises:
            SpaceError: one of these is set.
        """
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise SpaceError(f"'{field.name}' was given, and {by} draws by no such thing.")

    def begun(self, space: Codes, n: int) -> Tensor:
        """What is known of each of ``n`` items from the start, ``(n, m)``; where nothing is, m is 0.

        Raises:
            SpaceError: it is not so many rows of codes of the space, or more codes than an item has.
        """
        if self.known is None:
            return torch.zeros(n, 0, dtype=torch.long)
        many = self.known.shape[1] if self.known.dim() > 1 else space.dim
        Codes((many,), space.size).check_values(self.known, "what is known")
        if len(self.known) != n:
            raise SpaceError(f"{n} items are to be drawn, and {len(self.known)} rows are known; wanted one for each.")
        if many > space.dim:
            raise SpaceError(f"{many} codes are known, and an item has {space.dim}.")
        return self.known.long()

    @property
    def passes(self) -> int:
        """How many rows a step computes for each item: guided, one with the label and one without."""
        return 1 if self.guidance == 1 else 2

    def conditions(self, c: Tensor | None) -> Tensor | None:
        """The condition of each row that a step computes: all with the label, then all without.

        Raises:
            SpaceError: it is guided, and what is conditioned on is never hidden.
        """
        if self.passes == 1:
            return c
        if c is None or self.without is None:
            raise SpaceError(
                f"guidance is {self.guidance:g}, but this model does not know how it draws without a label; train its "
                "prior with labels: true and unlabelled: 0.1."
            )
        return torch.cat([c, self.without])

    def sharpened(self, logits: Tensor) -> Tensor:
        """Logits of what is drawn from, ``(n, size)``: minus infinity for what is not drawn.

        Args:
            logits: ``(passes * n, size)``, all with the label before all without.
        """
        if self.passes == 2:
            given, without = logits.chunk(2)
            logits = without + self.guidance * (given - without)
        if self.temperature != 1:
            # The likeliest stays at 0 however small the temperature, where a quotient would overflow.
            logits = logits - logits.amax(1, keepdim=True)
            logits = logits / max(self.temperature, torch.finfo(logits.dtype).tiny)
        if self.top_k is not None and self.top_k < logits.shape[1]:
            kept = logits.topk(self.top_k, dim=1).indices
            logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).scatter(1, kept, False), -math.inf)
        if self.top_p is not None and self.top_p < 1:
            likely, index = logits.sort(dim=1, descending=True)
            share = likely.softmax(1)
            # A code is drawn as long as those likelier than it make up less than the share.
            beyond = share.cumsum(1) - share >= self.top_p
            logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, index, beyond), -math.inf)
        return logits


AS_IT_IS = Drawing()
