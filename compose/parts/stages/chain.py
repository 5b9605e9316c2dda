"""The stage of a Markovian hierarchical VAE: a chain of latents, each inferred from the one below it alone."""

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


class Chain(StagePart):
    """Up ``q(z_1 | x) q(z_2 | z_1) ... q(z_T | z_{T-1})``, down ``p(z_{T-1} | z_T) ... p(z_1 | z_2) p(x | z_1)``.

    Each of the T links is a VAE of what lies below it. The edge above is ``z_T``; the others are edges of their own,
    ``z1.1``, ``z1.2``, ..., from the data upward, each with a rate of its own. A diffusion model is such a chain with
    many links, whose way up is fixed.
    """

    type: ClassVar[str] = "chain"
    markov: ClassVar[bool] = True
    source: ClassVar[str] = "Rezende et al. 2014, arXiv:1401.4082; Markovian: Luo 2022, arXiv:2208.11970"

    links: Annotated[int, Ge(1), Le(64)] = 4
    """How many latents follow each other."""
    dim: Side | Annotated[list[Side], Len(3, 3)] = 16
    """Size of each latent: how many numbers, or [channels, height, width]."""
    encoder: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Nets up: from what lies below to the parameters of q of the first latent, and from each latent to the next."""
    posterior: part_field("density") = "normal"  # type: ignore[valid-type]
    """q of every latent; must be exact, since it enters with a minus sign."""
    decoder: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Nets down: to the parameters of the likelihood, and from each latent to those of p of the one below it."""
    between: part_field("net") | None = None  # type: ignore[valid-type]
    """All nets but the two at the data, up and down; by default those of ``encoder`` and ``decoder``."""
    transition: part_field("density") = "normal"  # type: ignore[valid-type]
    """p of every latent but the last, given the next one."""
    likelihood: part_field("density") = "categorical"  # type: ignore[valid-type]
    """p(x | z_1), over the space below."""
    shared: bool = False
    """Whether the links above the first share one net up and one down, which are told the link."""
    labels: bool = True
    """Whether the nets see the class label, where the data give one."""

    def sees_labels(self) -> bool:
        """As its option says."""
        return self.labels

    @property
    def descends(self) -> bool:
        """Where its likelihood has a centre and every draw between carries a gradient."""
        assert isinstance(self.likelihood, DensityPart) and isinstance(self.transition, DensityPart)
        return self.likelihood.centred and (self.links == 1 or self.transition.gradient == "pathwise")

    def last_nets(self) -> tuple[str, str]:
        """That of the last latent's posterior, and that of the likelihood."""
        top = min(self.links - 1, 1) if self.shared else self.links - 1
        return f"encoder#{top}" if not top or self.between is None else f"between#{top - 1}", "decoder#0"

    def above(self, below: Space) -> Real:
        """The last latent, of the size of all."""
        return Real((self.dim,) if isinstance(self.dim, int) else tuple(self.dim))

    def terms(self) -> dict[str, str]:
        """The likelihood's, two for each latent but the last, and one for that."""
        top, found = self.links - 1, {"log_likelihood": "likelihood"}
        for i in range(top):
            found |= {f"{i + 1}.minus_log_q": f"posterior#{i}", f"{i + 1}.log_likelihood": f"transition#{i}"}
        return {**found, "minus_log_q": f"posterior#{top}"}

    def kind(self, slot: Slot) -> Kind:
        """A path weight, or what a density weakens it to."""
        return weakest([Kind.WEIGHT, *(part.kind(at) for part, at in self.nested(slot).values() if _scores(part))])

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """What lies between the links, or is shared by them, is there."""
        if self.between is not None and self.links == 1:
            yield Misfit("of one link nothing lies between; leave 'between' out.", key="between", swap=False)
        if self.shared and self.links < 3:
            message = f"of {self.links} links no two above the first could share a net; wanted 3 at least."
            yield Misfit(message, key="shared", swap=False)
        yield from unfitted(self, slot)

    def narrowed(self) -> Part:
        """With three links where some share a net: of fewer none would."""
        return self.model_copy(update={"links": 3}) if self.shared and self.links < 3 else self

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """A net up and one down for each link, or for all above the first together; a q and a p for each."""
        z, top, seen = self.above(slot.space), self.links - 1, slot.labels if self.labels else None
        q = self._features(self.posterior, z)
        p = [self._features(self.likelihood, slot.space), self._features(self.transition, z)]
        known = labelled(self._told(z), seen)
        nets = 1 if self.shared else top
        up = [Slot("net", q, labelled(as_real(slot.space), seen)), *[Slot("net", q, known)] * nets]
        down = [Slot("net", p[0], labelled(z, seen)), *[Slot("net", p[1], known)] * nets]
        posterior = Slot("posterior", z, q, slot.labels, "stage 'chain' gives")
        transition = Slot("likelihood", z, p[1], slot.labels, "stage 'chain' gives")
        return {
            **self._nets("encoder", self.encoder, up),
            **{f"posterior#{i}": (self.posterior, posterior) for i in range(self.links)},
            **self._nets("decoder", self.decoder, down, nets),
            **{f"transition#{i}": (self.transition, transition) for i in range(top)},
            "likelihood": (self.likelihood, Slot("likelihood", slot.space, p[0], slot.labels, slot.origin)),
        }

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage around its parts."""
        return ChainStage(slot.space, self.above(slot.space), children, self, slot.labels if self.labels else None)

    def _nets(self, name: str, net: Part, places: list[Slot], before: int = 0) -> dict[str, tuple[Part, Slot]]:
        """Each net by its key path, the one at the data first; ``before`` counts those between links so far."""
        at_data, *rest = places
        if self.between is None:
            return {f"{name}#{i}": (net, place) for i, place in enumerate(places)}
        return {f"{name}#0": (net, at_data), **{f"between#{before + i}": (self.between, s) for i, s in enumerate(rest)}}

    def _told(self, z: Real) -> Real:
        """What a shared net sees of a latent: which link it serves stands beside it."""
        return labelled(z, Codes((), self.links - 1)) if self.shared else z

    def _features(self, density: Part, space: Space) -> Real:
        assert isinstance(density, DensityPart)
        return density.features(space) or Real((2 * (space.shape or (1,))[0], *space.shape[1:]))


def _scores(part: Part) -> bool:
    return isinstance(part, DensityPart)


class ChainStage(Stage):
    """Infers its latents from the data upward, and generates them from the last one down.

    Args:
        below: Space of x.
        above: Space of each latent.
        parts: ``likelihood``, and with ``#i`` each ``encoder``, ``decoder``, ``between``, ``posterior`` and
            ``transition``.
        options: How many links, and whether they share nets.
        labels: Space of the class label that the nets see; none where they see none.
    """

    draws = rises = True

    def __init__(
        self, below: Space, above: Real, parts: Mapping[str, nn.Module], options: Chain, labels: Codes | None
    ) -> None:
        super().__init__(below, above)
        self.top = options.links - 1
        self.inner = (above,) * self.top
        self.encoder, self.decoder, self.between, self.posterior, self.transition = (
            nn.ModuleList(part for key, part in parts.items() if key.startswith(f"{name}#"))
            for name in ("encoder", "decoder", "between", "posterior", "transition")
        )
        likelihood = parts["likelihood"]
        assert isinstance(likelihood, Density)
        self.likelihood: Density = likelihood
        self.labels, self.which = labels, Codes((), self.top) if options.shared else None
        self.closed_form, self.needs_fit = self._q(self.top).closed_form, likelihood.needs_fit
        # Says which precision the nets have; cheaper to ask in every step than their parameters are.
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Draws z_1 ... z_T, each given the one below it, and scores each, and x, given the one above it."""
        z, terms, penalties, gaussian = x, {}, {}, None
        for i in range(self.top + 1):
            above, minus_log_q, gaussian = self._q(i).infer(self._rising(i, z, c), closed and i == self.top)
            log_p, paid = self._p(i).log_prob_and_penalties(z, self._falling(i, above, c), mode)
            name = f"{i}.log_likelihood" if i else "log_likelihood"
            terms |= {name: log_p}
            penalties |= inside(name, paid)
            terms |= {f"{i + 1}.minus_log_q" if i < self.top else "minus_log_q": minus_log_q}
            z = above
        return Step(z, terms, penalties, gaussian=gaussian)

    def rise(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Draws z_1 ... z_T with a pathwise gradient."""
        for i in range(self.top + 1):
            x, _ = self._q(i).rsample_and_log_prob(self._rising(i, x, c))
        return x

    def relax(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Draws z_{T-1} ... z_1; the middle of p(x | z_1)."""
        for i in range(self.top, 0, -1):
            z, _ = self._p(i).rsample_and_log_prob(self._falling(i, z, c))
        return self.likelihood.centre(self._falling(0, z, c))

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Draws z_{T-1} ... z_1 and x."""
        for i in range(self.top, -1, -1):
            z = self._p(i).sample(len(z), self._falling(i, z, c))
        return z

    def up(self, x: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()) -> tuple[Density, Tensor]:
        """The posterior of the lowest latent not yet drawn, and its parameters."""
        i = len(drawn)
        return self._q(i), self._rising(i, drawn[-1] if drawn else x, c)

    def down(self, z: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()) -> tuple[Density, Tensor]:
        """The density of the highest latent not yet drawn, or of x, and its parameters."""
        i = self.top - len(drawn)
        return self._p(i), self._falling(i, drawn[-1] if drawn else z, c)

    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Fits a likelihood that is a model with parts to fit."""
        self.likelihood.fit(batches)

    def _q(self, i: int) -> Density:
        """Of z_{i+1}."""
        return cast(Density, self.posterior[i])

    def _p(self, i: int) -> Density:
        """Of z_i; of x at 0."""
        return cast(Density, self.transition[i - 1]) if i else self.likelihood

    def _rising(self, i: int, z: Tensor, c: Tensor | None) -> Tensor:
        """Parameters of q of z_{i+1}, from z_i."""
        return self._net(self.encoder, 0, i)(self._seen(i, z if i else self._features(z), c))

    def _falling(self, i: int, z: Tensor, c: Tensor | None) -> Tensor:
        """Parameters of p of z_i, from z_{i+1}."""
        return self._net(self.decoder, 1, i)(self._seen(i, z, c))

    def _net(self, at_data: nn.ModuleList, way: int, i: int) -> nn.Module:
        i = min(i, 1) if self.which else i
        if not i or not len(self.between):
            return at_data[i]
        return self.between[way * len(self.between) // 2 + i - 1]

    def _seen(self, i: int, z: Tensor, c: Tensor | None) -> Tensor:
        if i and self.which is not None:
            z = with_label(z, torch.full((len(z),), i - 1, device=z.device), self.which)
        return with_label(z, c, self.labels)

    def _features(self, x: Tensor) -> Tensor:
        return to_features(x, self.below, self.like.dtype)
