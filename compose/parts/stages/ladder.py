"""The stage of a top-down hierarchical VAE: several levels of latents between two edges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, cast

import torch
from annotated_types import Ge, Le, Len
from torch import Tensor, nn

from compose.core.declare import Misfit, Part, Slot, as_real, part_field
from compose.core.kinds import Kind, weakest
from compose.core.roles import (
    Density,
    DensityPart,
    Mode,
    Posterior,
    Stage,
    StagePart,
    Step,
    inside,
    labelled,
    to_features,
    with_label,
)
from compose.core.spaces import Codes, Real, Space
from compose.core.transition import unfitted

Side = Annotated[int, Ge(1), Le(65536)]
Size = Side | Annotated[list[Side], Len(3, 3)]


class Ladder(StagePart):
    """Up ``q(z_L | x) ... q(z_1 | x, z_2 .. z_L)``, down ``p(z_{L-1} | z_L) ... p(x | z_1 .. z_L)``.

    A deterministic pass up shows every level what lies below it; inference and generation then share the pass down,
    whose state carries all levels above to each level and to the likelihood. On both ways a level adds to the state
    that it is handed, where they have one shape, so that the top lies no deeper than the others. The edge above is the
    top level; the others are edges of their own, ``z1.1``, ``z1.2``, ..., from the data upward, each with a rate of its
    own.
    """

    type: ClassVar[str] = "ladder"
    source: ClassVar[str] = (
        "Sonderby et al. 2016, arXiv:1602.02282; Kingma et al. 2016, arXiv:1606.04934; Child 2021, arXiv:2011.10650; "
        "residual posteriors: Vahdat and Kautz 2020, arXiv:2007.03898"
    )
    lends_posterior: ClassVar[bool] = True

    levels: Annotated[list[Size], Len(1, 64)] = [16, 8]
    """Size of each level, from the data upward: how many numbers, or [channels, height, width]."""
    width: Annotated[int, Ge(1), Le(65536)] = 128
    """Numbers (on a grid: channels) of the state that each level hands to the next, up and down."""
    encoder: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Nets of inference: up from level to level, and to the parameters of each posterior."""
    posterior: part_field("density") = "normal"  # type: ignore[valid-type]
    """q of every level; must be exact, since it enters with a minus sign."""
    decoder: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Nets of generation: down from level to level, and to the parameters of the likelihood."""
    between: part_field("net") | None = None  # type: ignore[valid-type]
    """All nets but the two at the data, up and down; by default those of ``encoder`` and ``decoder``."""
    transition: part_field("density") = "normal"  # type: ignore[valid-type]
    """p of every level but the top one, given the levels above."""
    likelihood: part_field("density") = "categorical"  # type: ignore[valid-type]
    """p(x | all levels), over the space below."""
    residual: bool = True
    """Below the top, encoders give what q adds to the parameters of p, so that a q that adds nothing costs nothing."""
    labels: bool = True
    """Whether the nets see the class label, where the data give one."""

    def sees_labels(self) -> bool:
        """As its option says."""
        return self.labels

    @property
    def descends(self) -> bool:
        """Where its likelihood has a centre and every draw between carries a gradient."""
        assert isinstance(self.likelihood, DensityPart) and isinstance(self.transition, DensityPart)
        return self.likelihood.centred and self.transition.gradient == "pathwise"

    def last_nets(self) -> tuple[str, str]:
        """That of the top level's posterior, and that of the likelihood."""
        top = len(self.levels) - 1
        return f"encoder#{top}" if not top or self.between is None else f"between#{top - 1}", "decoder#0"

    def spaces(self) -> list[Real]:
        """The space of each level, from the data upward."""
        return [Real((size,) if isinstance(size, int) else tuple(size)) for size in self.levels]

    def above(self, below: Space) -> Real:
        """The top level."""
        return self.spaces()[-1]

    def terms(self) -> dict[str, str]:
        """One from each density: the likelihood, two for each inner level, and one for the top."""
        top, found = len(self.levels) - 1, {"log_likelihood": "likelihood"}
        for i in range(top):
            found |= {f"{i + 1}.minus_log_q": f"posterior#{i}", f"{i + 1}.log_likelihood": f"transition#{i}"}
        return {**found, "minus_log_q": f"posterior#{top}"}

    def kind(self, slot: Slot) -> Kind:
        """A path weight, or what a density weakens it to."""
        densities = (inner for key, inner in self.nested(slot).items() if key.split("#")[0] not in _NETS)
        return weakest([Kind.WEIGHT, *(part.kind(place) for part, place in densities)])

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """What is split and added must have the same shape, and between levels there must be something."""
        if self.between is not None and len(self.levels) == 1:
            yield Misfit("of one level nothing lies between; leave 'between' out.", key="between", swap=False)
        # The top level has no p of its own.
        for z in self.spaces()[:-1]:
            q, p = self._features(self.posterior, z), self._features(self.transition, z)
            if self.residual and q != p:
                yield Misfit(
                    f"'{self.posterior.type}' takes {q} and '{self.transition.type}' takes {p}, so the one cannot be "
                    "what is added to the other; residual: false would do.",
                    key="residual",
                    swap=False,
                )
                return
            if p.shape[1:] != z.shape[1:]:
                message = f"'{self.transition.type}' on {z} takes {p}, no grid like that; 'normal' does."
                yield Misfit(message, key="transition", swap=False)
                return
        yield from unfitted(self, slot)

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """Encoders up, of the top, and of each posterior below; decoders of the likelihood and down from each level."""
        zs, states = self.spaces(), [Real((self.width, *z.shape[1:])) for z in self.spaces()]
        seen = slot.labels if self.labels else None
        q = [self._features(self.posterior, z) for z in zs]
        p = [self._features(self.transition, z) for z in zs]
        lower = [labelled(as_real(slot.space), seen), *states]
        up = [*states[:-1], q[-1]]
        encoders = [Slot("net", gives, takes) for gives, takes in zip(up, lower, strict=False)]
        encoders += [Slot("net", q[i], joined(state, state)) for i, state in enumerate(states[:-1])]
        likelihood = self.likelihood.features(slot.space) or Real((2, *slot.space.shape))
        down = [likelihood, *(joined(p[i], state) for i, state in enumerate(states[:-1]))]
        known = [joined(state, z) for state, z in zip(states[:-1], zs, strict=False)] + [zs[-1]]
        decoders = [Slot("net", gives, labelled(takes, seen)) for gives, takes in zip(down, known, strict=True)]
        said = "stage 'ladder' gives"
        return {
            **self._nets("encoder", self.encoder, encoders),
            **{
                f"posterior#{i}": (self.posterior, Slot("posterior", z, q[i], slot.labels, said))
                for i, z in enumerate(zs)
            },
            **self._nets("decoder", self.decoder, decoders, len(encoders) - 1),
            **{
                f"transition#{i}": (self.transition, Slot("likelihood", z, p[i], slot.labels, said))
                for i, z in enumerate(zs[:-1])
            },
            "likelihood": (self.likelihood, Slot("likelihood", slot.space, likelihood, slot.labels, slot.origin)),
        }

    def _nets(self, name: str, net: Part, places: list[Slot], before: int = 0) -> dict[str, tuple[Part, Slot]]:
        """Each net by its key path, the one at the data first; ``before`` counts those between levels so far."""
        at_data, *rest = places
        if self.between is None:
            return {f"{name}#{i}": (net, place) for i, place in enumerate(places)}
        inner = {f"between#{before + i}": (self.between, place) for i, place in enumerate(rest)}
        return {f"{name}#0": (net, at_data), **inner}

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage around its parts."""
        return LadderStage(slot.space, self.spaces(), children, self, slot.labels if self.labels else None)

    def _features(self, density: Part, z: Real) -> Real:
        assert isinstance(density, DensityPart)
        return density.features(z) or Real((2 * z.shape[0], *z.shape[1:]))


_NETS = ("encoder", "decoder", "between")


def carried(state: Tensor | None, found: Tensor) -> Tensor:
    """A state that a level hands on: the one that it was handed and what its net found besides.

    Where the two differ in shape, as from grid to grid, there is only what was found.
    """
    return found if state is None or state.shape != found.shape else state + found


def joined(a: Real, b: Real) -> Real:
    """The space of two items joined along the first axis."""
    return Real((a.shape[0] + b.shape[0], *b.shape[1:]))


class LadderStage(Stage):
    """Infers and generates its levels from the top down.

    Args:
        below: Space of x.
        levels: Space of each level, from the data upward; called z_1 to z_L.
        parts: ``likelihood``, and with ``#i`` each ``encoder``, ``decoder``, ``between``, ``posterior`` and
            ``transition``.
        options: Width of the state, and whether posteriors are residual.
        labels: Space of the class label that the nets see; none where they see none.
    """

    draws = True

    def __init__(
        self,
        below: Space,
        levels: Sequence[Real],
        parts: Mapping[str, nn.Module],
        options: Ladder,
        labels: Codes | None,
    ) -> None:
        super().__init__(below, levels[-1])
        self.inner = tuple(reversed(levels[:-1]))
        self.encoder, self.decoder, self.between, self.posterior, self.transition = (
            nn.ModuleList(part for key, part in parts.items() if key.startswith(f"{name}#"))
            for name in (*_NETS, "posterior", "transition")
        )
        likelihood = parts["likelihood"]
        assert isinstance(likelihood, Density)
        self.likelihood: Density = likelihood
        self.width, self.residual, self.labels = options.width, options.residual, labels
        self.top = len(levels) - 1
        self.closed_form = all(self._q(i).closed_form for i in range(len(levels)))
        self.closes = self.closed_form and all(self._p(i).closed_form for i in range(self.top))
        self.needs_fit = likelihood.needs_fit
        # Says which precision the nets have; cheaper to ask in every step than their parameters are.
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Goes up without chance, then draws z_L ... z_1 and scores each, and x, given the levels above it."""
        seen, q_params = self._climb(x, c)
        z, minus_log_q, gaussian = self._q(self.top).infer(q_params, closed)
        top, minus_log_q_top = z, minus_log_q
        p_params, state = self._descend(z, None, self.top, c)
        inner: dict[str, Tensor] = {}
        penalties: dict[str, Tensor] = {}
        for i in reversed(range(self.top)):
            q_params = self._q_params(i, seen[i], p_params, state)
            z, minus_log_q, q = self._q(i).infer(q_params, self.closes and mode != "path")
            p = self._p(i)
            given = None if q is None else p.gaussian(p_params)
            name, paid = f"{i + 1}.log_likelihood", {}
            if q and given:
                log_p = q.expected_log_prob(given)
            else:
                log_p, paid = p.log_prob_and_penalties(z, p_params, mode)
            inner = {f"{i + 1}.minus_log_q": minus_log_q, name: log_p, **inner}
            penalties |= inside(name, paid)
            p_params, state = self._descend(z, state, i, c)
        log_likelihood, paid = self.likelihood.log_prob_and_penalties(x, p_params, mode)
        penalties |= inside("log_likelihood", paid)
        terms = {"log_likelihood": log_likelihood, **inner, "minus_log_q": minus_log_q_top}
        return Step(top, terms, penalties, gaussian=gaussian)

    def relax(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Draws z_{L-1} ... z_1 from the top level down; the middle of p(x | z_1 .. z_L)."""
        params, state = self._descend(z, None, self.top, c)
        for i in reversed(range(self.top)):
            z, _ = self._p(i).rsample_and_log_prob(params)
            params, state = self._descend(z, state, i, c)
        return self.likelihood.centre(params)

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Draws z_{L-1} ... z_1 and x from the top level down."""
        params, state = self._descend(z, None, self.top, c)
        for i in reversed(range(self.top)):
            z = self._p(i).sample(len(z), params)
            params, state = self._descend(z, state, i, c)
        return self.likelihood.sample(len(z), params)

    def up(self, x: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()) -> tuple[Density, Tensor]:
        """The posterior of the highest level not yet drawn, and its parameters."""
        seen, params = self._climb(x, c)
        state, i = None, self.top
        for z in drawn:
            p_params, state = self._descend(z, state, i, c)
            i -= 1
            params = self._q_params(i, seen[i], p_params, state)
        return self._q(i), params

    def down(self, z: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()) -> tuple[Density, Tensor]:
        """The density of the highest level not yet drawn, or of x, and its parameters."""
        params, state, i = *self._descend(z, None, self.top, c), self.top
        for inner in drawn:
            i -= 1
            params, state = self._descend(inner, state, i, c)
        return self._p(i - 1) if i else self.likelihood, params

    def q_features(self, features: Tensor, c: Tensor | None = None) -> Tensor:
        """Parameters of the top level's posterior, from what the encoder sees."""
        return self._up(features, c)[1]

    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Fits a likelihood that is a model with parts to fit."""
        self.likelihood.fit(batches)

    def lend(self) -> Posterior:
        """Lends the features, the encoders and q of the top level."""
        return Posterior(self._features, self.q_features, self._q(self.top))

    def _q(self, i: int) -> Density:
        return cast(Density, self.posterior[i])

    def _p(self, i: int) -> Density:
        return cast(Density, self.transition[i])

    def _encode(self, i: int, h: Tensor) -> Tensor:
        """Through the i-th net of inference."""
        return self.between[i - 1](h) if i and len(self.between) else self.encoder[i](h)

    def _decode(self, i: int, h: Tensor) -> Tensor:
        return self.between[2 * self.top + i - 1](h) if i and len(self.between) else self.decoder[i](h)

    def _features(self, x: Tensor) -> Tensor:
        return to_features(x, self.below, self.like.dtype)

    def _climb(self, x: Tensor, c: Tensor | None) -> tuple[list[Tensor], Tensor]:
        return self._up(self._features(x), c)

    def _up(self, features: Tensor, c: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """What each level below the top sees of x, and the parameters of the top level's posterior."""
        h, seen = with_label(features, c, self.labels), []
        for i in range(self.top):
            h = carried(h if i else None, self._encode(i, h))
            seen.append(h)
        return seen, self._encode(self.top, h)

    def _descend(self, z: Tensor, state: Tensor | None, i: int, c: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """From z_{i+1} and the state above it to the parameters of what lies below, and the state there."""
        known = z if state is None else torch.cat([state, z], 1)
        params = self._decode(i, with_label(known, c, self.labels))
        if not i:
            return params, None
        params, found = params.split([params.shape[1] - self.width, self.width], 1)
        return params, carried(state, found)

    def _q_params(self, i: int, seen: Tensor, p_params: Tensor, state: Tensor | None) -> Tensor:
        assert state is not None
        added = self._encode(self.top + 1 + i, torch.cat([seen, state], 1))
        return p_params + added if self.residual else added
