"""Codes in any order, each given those that are known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional

from compose.core.coded import CodedPart
from compose.core.declare import Misfit, Slot
from compose.core.drawing import AS_IT_IS, Drawing
from compose.core.errors import SpaceError
from compose.core.kinds import Kind
from compose.core.random import categorical, gumbel, uniform
from compose.core.roles import Density, Mode
from compose.core.spaces import Codes, Space
from compose.nets.causal import Transformer, at_places

#: Attention from each place to each other one.
LONGEST = 16_384


class Masked(CodedPart):
    """``L = D/m sum_{i masked} log softmax(net(x with m of its D codes masked))[x_i]``, with the mask at random.

    In expectation that is the chain rule over all orders alike: a bound on the mixture of them, ``E L <= log p``, and
    what an absorbing diffusion in continuous time comes to. Drawn one by one in a random order, samples are from that
    mixture. Drawn in fewer ``steps`` they are not: codes of one step do not know of each other.
    """

    type: ClassVar[str] = "masked"
    source: ClassVar[str] = (
        "any order: Uria et al. 2014, arXiv:1310.1757; Hoogeboom et al. 2022, arXiv:2110.02037; absorbing diffusion: "
        "Austin et al. 2021, arXiv:2107.03006; few steps by confidence: Chang et al. 2022, arXiv:2202.04200"
    )
    longest: ClassVar[int] = LONGEST

    steps: Annotated[int, Ge(1), Le(LONGEST)] | None = None
    """Steps of the network for a sample, each keeping the codes that it is surest of; by default one for each code."""
    spread: Annotated[float, Ge(0)] = 4.0
    """Of fewer steps: noise in what counts as sure, which falls to 0 over the steps; without it samples are alike."""

    def kind(self, slot: Slot) -> Kind:
        """A bound."""
        return Kind.BOUND

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any density of codes; and no step is without a code to draw."""
        yield from super().misfits(slot)
        if isinstance(slot.space, Codes) and self.steps is not None and self.steps > slot.space.dim:
            message = f"{self.steps} steps are more than the {slot.space.dim} codes that there are to draw."
            yield Misfit(message, key="steps", swap=False)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        assert isinstance(slot.space, Codes)
        return MaskedDensity(slot.space, slot.condition, self)


class MaskedDensity(Density):
    """Codes drawn in any order.

    Args:
        space: Codes of any size.
        condition: ``(context, *grid)``; none for a density that stands alone.
        options: The network, the steps, the size of the context.
    """

    incremental = True

    def __init__(self, space: Codes, condition: Space | None, options: Masked) -> None:
        super().__init__(space, condition, Kind.BOUND)
        self.space: Codes = space
        self.steps, self.spread = options.steps or space.dim, options.spread
        width = options.width
        # One more for what is masked.
        self.codes = nn.Embedding(space.size + 1, width)
        self.place = nn.Parameter(width**-0.5 * torch.randn(space.dim, width))
        self.network = Transformer(options.layers, width, options.heads, space.dim, options.dropout, sees_all=True)
        self.head = nn.Linear(width, space.size)
        self.context = None if condition is None else nn.Linear(options.context, width, bias=False)
        nn.init.normal_(self.codes.weight, std=width**-0.5)

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """A bound from one random mask, in nats; its expectation is that of the chain rule over all orders."""
        tokens, dim = x.flatten(1).long(), self.space.dim
        noise = uniform((len(x), dim + 1), self.place)
        count = (noise[:, :1] * dim).long().clamp_max(dim - 1) + 1
        masked = noise[:, 1:].argsort(1).argsort(1) < count
        each = functional.cross_entropy(self._logits(tokens, masked, c).movedim(2, 1), tokens, reduction="none")
        return -(each * masked).sum(1) * dim / count[:, 0]

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws in ``steps`` of the network."""
        return self.draw(n, c)[0]

    @torch.no_grad()
    def draw(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> tuple[Tensor, Tensor]:
        """Draws in ``steps`` of the network, each given what is known by then.

        The log-probability is that of the order it was drawn in; in fewer steps than codes it is none of the model's.

        Raises:
            SpaceError: what is known is no beginning of the items; or it is guided, with nothing to be guided from;
                or more steps are asked of it than an item has codes, or what only a diffusion does.
        """
        how.refuse("sampler", "eta", by="a prior that fills in codes")
        if how.steps is not None and how.steps > self.space.dim:
            raise SpaceError(f"{how.steps} steps were asked for, and an item has {self.space.dim} codes to draw.")
        known = how.begun(self.space, n).to(self.place.device)
        first = self.space.raster()[: known.shape[1]].to(known.device)
        tokens = torch.zeros(n, self.space.dim, dtype=torch.long, device=self.place.device)
        masked = torch.ones_like(tokens, dtype=torch.bool)
        tokens[:, first], masked[:, first] = known, False
        total = left = self.space.dim - known.shape[1]
        # Where some are known already there may be fewer to draw than steps.
        steps, log_prob = min(how.steps or self.steps, total), self.place.new_zeros(n)
        c, twice = how.conditions(c), (how.passes, 1)
        for step in range(1, steps + 1):
            share = step / steps
            # One by one they come in a random order, so that the network need say what stands in one place alone.
            place = _any(masked, self.place) if steps == total else None
            given = (tokens.repeat(twice), masked.repeat(twice), c)
            logits = self._logits(*given) if place is None else self._logits(*given, place.repeat(twice))
            logits = how.sharpened(logits.flatten(0, 1)).unflatten(0, (n, -1))
            drawn = categorical(logits)
            sure = logits.log_softmax(2).gather(2, drawn[..., None])[..., 0]
            if place is not None:
                tokens, masked = tokens.scatter(1, place, drawn), masked.scatter(1, place, False)
                log_prob += sure[:, 0]
                continue
            left = max(0, min(left - 1, int(total * math.cos(0.5 * math.pi * share))))
            score = sure + self.spread * (1 - share) * gumbel(sure.shape, sure)
            found = masked & ~_lowest(score, masked, left)
            tokens, masked = torch.where(found, drawn, tokens), masked & ~found
            log_prob += (sure * found).sum(1)
        return tokens.reshape(n, *self.space.shape), log_prob

    def beginning(self, x: Tensor, rows: int) -> Tensor:
        """The codes of the uppermost rows; of a sequence its first codes."""
        return x.flatten(1).long()[:, self.space.upper(rows).to(x.device)]

    def _logits(self, tokens: Tensor, masked: Tensor, c: Tensor | None, place: Tensor | None = None) -> Tensor:
        """Of every code, or of that in one ``place`` a row, given those that are not masked, ``(batch, n, size)``."""
        seen = self.codes(torch.where(masked, self.space.size, tokens))
        cells = torch.arange(self.space.dim, device=tokens.device)
        found = self.network(seen + at_places(self.place, self.context, c, cells))
        return self.head(found if place is None else found.take_along_dim(place[..., None], 1))


def _any(among: Tensor, like: Tensor) -> Tensor:
    """One place of each row among some, all of them alike, ``(n, 1)``."""
    return uniform(among.shape, like).masked_fill(~among, -1).argmax(1, keepdim=True)


def _lowest(score: Tensor, among: Tensor, count: int) -> Tensor:
    """Which are the ``count`` lowest of each row among some."""
    return among & (score.masked_fill(~among, torch.inf).argsort(1).argsort(1) < count)
