"""Codes one after another, each given those before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn import functional

from compose.core.coded import CodedPart
from compose.core.declare import Misfit, Slot
from compose.core.drawing import AS_IT_IS, Drawing
from compose.core.errors import SpaceError
from compose.core.random import categorical
from compose.core.roles import Density, Mode
from compose.core.spaces import Codes, Space
from compose.nets.causal import Causal, CausalConv, Transformer, at_places

#: Longer sequences would take a cache, and an attention, of gigabytes.
LONGEST = 65_536


class Autoregressive(CodedPart):
    """``log p(x) = sum_i log softmax(net(x_1 .. x_{i-1}))[x_i]``.

    Codes go row by row, the channels of a pixel together. A sample takes one step of the network a code, from a cache
    of all before it. Under a condition a net gives ``context`` numbers to each place, which its code is drawn from too.
    """

    type: ClassVar[str] = "autoregressive"
    source: ClassVar[str] = (
        "van den Oord et al. 2016, arXiv:1601.06759, arXiv:1606.05328; transformer: Parmar et al. 2018, "
        "arXiv:1802.05751; rotary: Su et al. 2021, arXiv:2104.09864; as a likelihood: Gulrajani et al. 2017, "
        "arXiv:1611.05013"
    )
    longest: ClassVar[int] = LONGEST

    network: Literal["transformer", "causal_conv"] = "transformer"
    """Attention to all earlier codes, or gated convolutions over the earlier rows and the row so far."""
    positions: Literal["learned", "rotary"] = "learned"
    """Of a transformer: numbers learned for each place, or queries and keys turned by how far along they are."""
    kernel: Annotated[int, Ge(1), Le(31)] = 5
    """Of convolutions: how many columns, and how many rows above, a layer sees."""
    order: list[Annotated[int, Ge(0), Le(LONGEST - 1)]] | None = None
    """Of a transformer: the places in the order in which they are drawn, counted in the flattened item."""

    @property
    def attends(self) -> bool:
        """Where it is a transformer."""
        return self.network == "transformer"

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any density of codes; and what is of a transformer is asked of one, the order one of all places."""
        yield from super().misfits(slot)
        if self.positions == "rotary" and not self.attends:
            message = f"'{self.network}' knows its places by itself; rotary positions are for 'transformer'."
            yield Misfit(message, key="positions", swap=False)
        elif self.positions == "rotary" and self.width % self.heads == 0 and self.width // self.heads % 2:
            message = f"rotary positions turn pairs, and each of {self.heads} heads is {self.width // self.heads} wide."
            yield Misfit(message, key="positions", swap=False)
        if not isinstance(slot.space, Codes):
            return
        if self.order is not None:
            if not self.attends:
                message = f"'{self.network}' goes row by row; an order of one's own is for 'transformer'."
                yield Misfit(message, key="order", swap=False)
            elif sorted(self.order) != list(range(slot.space.dim)):
                message = f"an order names each of the {slot.space.dim} places, 0 to {slot.space.dim - 1}, once."
                yield Misfit(message, key="order", swap=False)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        assert isinstance(slot.space, Codes)
        return AutoregressiveDensity(slot.space, slot.condition, self)


class AutoregressiveDensity(Density):
    """Codes drawn one after another.

    Args:
        space: Codes of any size.
        condition: ``(context, *grid)``; none for a density that stands alone.
        options: The network, the order, the size of the context.
    """

    incremental = True

    def __init__(self, space: Codes, condition: Space | None, options: Autoregressive) -> None:
        super().__init__(space, condition)
        self.space: Codes = space
        width = options.width
        self.codes = nn.Embedding(space.size, width)
        # Turned by where they are, places need no numbers of their own, but for the first one, before which nothing is.
        places = space.dim if options.positions == "learned" else 1
        self.place = nn.Parameter(width**-0.5 * torch.randn(places, width))
        self.network = _network(options, _rows_and_columns(space))
        self.head = nn.Linear(width, space.size)
        self.context = None if condition is None else nn.Linear(options.context, width, bias=False)
        nn.init.normal_(self.codes.weight, std=width**-0.5)
        order = torch.tensor(options.order) if options.order is not None else space.raster()
        self.order: Tensor
        self.back: Tensor
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Exact log-probability of each row, in nats."""
        tokens = x.reshape(x.shape[0], -1).long()[:, self.order]
        logits = self.head(self.network(self._seen(tokens) + self._places(c)))
        return -functional.cross_entropy(logits.movedim(2, 1), tokens, reduction="none").sum(1)

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws code by code, from the cache of all before."""
        return self.draw(n, c)[0]

    @torch.no_grad()
    def draw(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> tuple[Tensor, Tensor]:
        """Draws code by code, each with one step of the network from the cache of all before.

        Raises:
            SpaceError: what is known is no beginning of the items; or it is guided, with nothing to be guided from;
                or what only a diffusion does is asked of it.
        """
        how.refuse("sampler", "steps", "eta", by="a prior that draws code by code")
        places, known = self._places(how.conditions(c)), how.begun(self.space, n)
        tokens = torch.zeros(n, self.space.dim, dtype=torch.long, device=self.place.device)
        first = known.shape[1]
        tokens[:, :first] = known
        rows, log_prob = n * how.passes, self.place.new_zeros(n)
        cache = self.network.begin(rows, self.place)
        for i in range(self.space.dim):
            before = self.codes(tokens[:, i - 1]).repeat(how.passes, 1) if i else 0.0
            h = self.network.step((before + places[:, i]).expand(rows, -1), i, cache)
            if i >= first:
                logits = how.sharpened(self.head(h))
                tokens[:, i] = categorical(logits)
                log_prob += logits.log_softmax(1).gather(1, tokens[:, i : i + 1])[:, 0]
        return tokens[:, self.back].reshape(n, *self.space.shape), log_prob

    def beginning(self, x: Tensor, rows: int) -> Tensor:
        """The codes of the uppermost rows; of a sequence its first codes."""
        upper = self.space.upper(rows).to(x.device)
        if not torch.equal(self.order, self.space.raster().to(self.order.device)):
            raise SpaceError("this model draws in an order of its own, so it cannot go on from the upper rows.")
        return x.flatten(1).long()[:, upper]

    def _seen(self, tokens: Tensor) -> Tensor:
        """At each place the code before it; at the first nothing."""
        return functional.pad(self.codes(tokens[:, :-1]), (0, 0, 1, 0))

    def _places(self, c: Tensor | None) -> Tensor:
        """What each place is, and what the condition says there, ``(batch or 1, n, width)``."""
        place = functional.pad(self.place, (0, 0, 0, self.space.dim - len(self.place)))
        return at_places(place, self.context, c, self.order)


def _network(options: Autoregressive, grid: tuple[int, int]) -> Causal:
    if options.attends:
        rotary, places = options.positions == "rotary", grid[0] * grid[1]
        return Transformer(options.layers, options.width, options.heads, places, options.dropout, rotary=rotary)
    return CausalConv(options.layers, options.width, options.kernel, grid, options.dropout)


def _rows_and_columns(space: Codes) -> tuple[int, int]:
    """The grid that convolutions go through, the channels of a pixel side by side."""
    rows = space.shape[-2] if len(space.shape) > 1 else 1
    return rows, space.dim // rows
