"""The same model in Pyro: a judge of the ledger that shares none of its bookkeeping, and a door to SVI and MCMC.

There is a site for each edge that is drawn (``z1``, ``z2``, ...) and one for the data, ``x``. Bijections make no site:
they belong to the density of the edge below them. Items are drawn as the parts draw them; they are scored by Pyro's own
distribution wherever Pyro has the part's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from compose.core.errors import KindError, SpaceError
from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.roles import Density, Stage
from compose.core.spaces import Codes, Space
from compose.core.terms import total

Program = Callable[..., Tensor]

# Pyro keeps parameters by name for the whole process and lets the first of a name stand: a second model of the same
# name would silently never be trained.
_names = (f"compose{i}" for i in count())


def to_pyro(whole: ModelDensity) -> tuple[Program, Program]:
    """Two Pyro programs with the same arguments, ``model(x=None, c=None, n=1)`` and ``guide(x, c=None, n=1)``.

    Raises:
        KindError: the model has no likelihood.
    """
    if whole.kind is Kind.NONE:
        raise KindError("A model without a likelihood has no Pyro program: its data are drawn, never scored.")
    pair = Programs(whole, _links(whole), next(_names))
    return pair.model, pair.guide


@dataclass
class Programs:
    """The pair.

    Args:
        whole: The model.
        links: Its drawn edges, from the data upward.
        name: Of its parameters in Pyro's store.
    """

    whole: ModelDensity
    links: list[Link]
    name: str

    def model(self, x: Tensor | None = None, c: Tensor | None = None, n: int = 1) -> Tensor:
        """From the prior down to the data, which are drawn where none are given."""
        n = next((len(given) for given in (x, c) if given is not None), n)
        self._begin(x, c, n)
        z: Tensor | None = None
        with pyro.plate("data", n, dim=-1):
            for link in reversed(self.links):
                inner: list[Tensor] = []
                for name in link.inner:
                    inner.append(pyro.sample(name, link.given(z, c, n, inner)))
                z = pyro.sample(link.name, link.given(z, c, n, inner), obs=None if link.edge else x)
        assert z is not None
        return z

    def guide(self, x: Tensor, c: Tensor | None = None, n: int = 1) -> Tensor:
        """From the data upward, through each posterior; the number of data is that of ``x``."""
        self._begin(x, c, len(x))
        z = x
        with pyro.plate("data", len(x), dim=-1):
            for link, above in pairwise(self.links):
                drawn: list[Tensor] = []
                names = (above.name, *link.inner)
                for name in reversed(names) if link.rises else names:
                    drawn.append(pyro.sample(name, link.inferred(z, c, drawn)))
                z = drawn[-1 if link.rises else 0]
        return z

    def _begin(self, x: Tensor | None, c: Tensor | None, n: int) -> None:
        condition = self.whole.condition
        if x is not None:
            self.whole.space.check(x)
        if condition is not None:
            if c is None:
                raise SpaceError(f"The model is conditional on {condition}, and no condition was given.")
            _check_rows(c, condition, n, "the condition")
        pyro.module(self.name, self.whole)


@dataclass
class Link:
    """One drawn edge, and what ties it to the next one above.

    Args:
        edge: Its index; 0 is the data.
        top: The stage that draws the next edge, or the prior.
        above: Name of the next edge.
        told: Whether ``top`` is handed the label.
        run: Stages between the edge and ``top`` that draw nothing on the way up, from below, each with whether it is
            handed the label.
    """

    edge: int
    top: Stage | Density
    above: str
    told: bool
    run: list[tuple[Stage, bool]]

    @property
    def name(self) -> str:
        """Of its site."""
        return f"z{self.edge}" if self.edge else "x"

    @property
    def space(self) -> Space:
        """Of its items."""
        stage = self.run[0][0] if self.run else self.top
        return stage.below if isinstance(stage, Stage) else stage.space

    @property
    def inner(self) -> list[str]:
        """Sites of the edges that ``top`` draws inside, from the top down; they are named for the edge above it."""
        count = len(self.top.inner) if isinstance(self.top, Stage) else 0
        return [f"{self.above}.{count - i}" for i in range(count)]

    @property
    def rises(self) -> bool:
        """Whether the way up draws the inner edges first, from below."""
        return isinstance(self.top, Stage) and self.top.rises

    def given(self, z: Tensor | None, c: Tensor | None, n: int, drawn: Sequence[Tensor] = ()) -> Site:
        """The distribution of the edge, or of the next inner one, given the edge above and the inner ones drawn."""
        label = c if self.told else None
        density, condition = self.top, label
        if isinstance(self.top, Stage):
            assert z is not None
            _check_rows(z, self.top.above, n)
            density, condition = self.top.down(z, label, drawn)
            if self.top.inner:
                assert density is not None, "a stage with inner edges came down without a density"
                draw = partial(density.sample, n, condition)
                if len(drawn) < len(self.top.inner):
                    space = self.top.inner[len(drawn)]
                    return Site(space, n, draw, partial(_score, density, condition=condition))
            else:
                draw = partial(self.top.generate, z, label)
        else:
            draw = partial(self.top.sample, n, label)

        def score(x: Tensor) -> Tensor:
            x, passed = self._climb(x, c)
            # A stage that comes down without chance leaves one item possible.
            found = _score(density, x, condition) if isinstance(density, Density) else _certain(draw(), x)
            return found + passed

        return Site(self.space, n, lambda: self._descend(draw(), c), score)

    def inferred(self, x: Tensor, c: Tensor | None, drawn: Sequence[Tensor] = ()) -> Site:
        """The posterior over the next edge, given this one; once that is drawn, over the next inner one."""
        assert isinstance(self.top, Stage)
        n, label = len(x), c if self.told else None
        x, _ = self._climb(x, c)
        density, condition = self.top.up(x, label, drawn)
        if density is None or condition is None:
            step = self.top.infer(x, label)
            minus = [value for term, value in step.terms.items() if term != "log_likelihood"]
            return Site(self.top.above, n, lambda: step.z, lambda z: -torch.stack(minus).sum(0), True, step.z)
        return Site(
            (self.top.above, *self.top.inner)[-1 - len(drawn) if self.rises else len(drawn)],
            n,
            lambda: density.rsample_and_log_prob(condition)[0],
            lambda z: _score(density, z, condition),
            pathwise=True,
        )

    def _climb(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        found = torch.zeros((), device=x.device)
        for stage, told in self.run:
            step = stage.infer(x, c if told else None)
            x, found = step.z, found + total(step.terms)
        return x, found

    def _descend(self, x: Tensor, c: Tensor | None) -> Tensor:
        for stage, told in reversed(self.run):
            x = stage.generate(x, c if told else None)
        return x


class Site(TorchDistribution):
    """A batch of ``n`` independent items.

    Args:
        space: What an item is.
        n: How many.
        draw: Draws all of them.
        score: Their log-probabilities, ``(n,)``.
        pathwise: Whether a draw carries a gradient.
        own: The only value that can be scored, where that is so.
    """

    def __init__(
        self,
        space: Space,
        n: int,
        draw: Callable[[], Tensor],
        score: Callable[[Tensor], Tensor],
        pathwise: bool = False,
        own: Tensor | None = None,
    ) -> None:
        super().__init__(torch.Size([n]), torch.Size(space.shape), validate_args=False)
        self.space, self.draw, self.score, self.has_rsample, self.own = space, draw, score, pathwise, own

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """None: the parts check their own parameters."""
        return {}

    @property
    def support(self) -> Any:
        """All reals, or the codes."""
        space = self.space
        one = constraints.integer_interval(0, space.size - 1) if isinstance(space, Codes) else constraints.real
        return constraints.independent(one, len(space.shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws every item, ``(*sample_shape, n, *space.shape)``."""
        with torch.no_grad():
            return self.rsample(sample_shape).detach()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """As ``sample``, with a gradient where there is one."""
        if not len(sample_shape):
            return self.draw()
        if self.own is not None:
            raise SpaceError(f"{tuple(sample_shape)} draws of a posterior that was drawn already; wanted one.")
        return torch.stack([self.draw() for _ in range(math.prod(sample_shape))]).unflatten(0, sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Of each item, ``(n,)``, in nats."""
        if self.own is not None and value is not self.own:
            raise SpaceError("This posterior is scored only where it was drawn.")
        _check_rows(value, self.space, self.batch_shape[0])
        return self.score(value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Site:
        """Itself: a batch of another shape would be another batch of data."""
        if torch.Size(batch_shape) != self.batch_shape:
            came, wanted = tuple(batch_shape), tuple(self.batch_shape)
            raise SpaceError(f"a batch of {came}; wanted {wanted}: particles cannot be vectorized here.")
        return self


def _links(whole: ModelDensity) -> list[Link]:
    """From the data upward; a model that closes another is laid open."""
    links: list[Link] = []
    run: list[tuple[Stage, bool]] = []
    density, edge, i, told = whole, 0, 0, True
    while True:
        for i, stage in enumerate(density.stack, i + 1):  # noqa: B020 (edges are counted through all models)
            if stage.draws:
                links.append(Link(edge, stage, f"z{i}", told and density.by_label, run))
                edge, run = i, []
            else:
                run.append((stage, told and density.by_label))
        told = told and density.prior.condition is not None
        if not isinstance(density.prior, ModelDensity):
            return [*links, Link(edge, density.prior, "", told, run)]
        density = density.prior


def _score(density: Density, x: Tensor, condition: Tensor | None) -> Tensor:
    known = density.in_pyro(len(x), condition)
    if known is None:
        return density.log_prob(x, condition)
    # Pyro's Bernoulli wants its bits as floats, and scores in their precision; its Categorical does not mind.
    like = next((t for t in (condition, *density.parameters()) if t is not None and t.is_floating_point()), x)
    return known.log_prob(x if x.is_floating_point() else x.to(like.dtype))


def _certain(only: Tensor, x: Tensor) -> Tensor:
    hit = (only == x).reshape(len(x), -1).all(1)
    return torch.zeros(len(x), device=x.device).masked_fill(~hit, -torch.inf)


def _check_rows(x: Tensor, space: Space, n: int, name: str = "the item") -> None:
    space.check(x, name)
    # One row would be spread over all of a batch, and counted once.
    if len(x) != n:
        raise SpaceError(f"{name} has {len(x)} rows beside {n} data.")
