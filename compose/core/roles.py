"""Roles: what a density and a stage promise, as modules and as declarations.

The declaration carries every check, so the modules hold mathematics only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from compose.core.declare import Misfit, Part, Slot
from compose.core.drawing import AS_IT_IS, Drawing
from compose.core.errors import SpaceError
from compose.core.gaussians import Gaussian
from compose.core.kinds import Kind
from compose.core.random import uniform
from compose.core.spaces import Codes, Real, Space

Mode = Literal["path", "kl", "one_t"]
MODES: tuple[Mode, ...] = get_args(Mode)
Gradient = Literal["pathwise", "straight_through", "none"]


class Posterior(NamedTuple):
    """The posterior of a stage, lent to a prior that is made of it; a plain record, so no module is registered twice.

    Args:
        features: Turns what lies below the stage into what its encoder sees.
        encode: The encoder, features to the condition of ``density``.
        density: q itself.
    """

    features: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    density: Density


class Density(nn.Module):
    """A distribution over ``space``, conditional on ``condition`` where that is not none.

    A part implements ``log_prob`` and ``sample``; where its declaration says ``gradient: pathwise``, also
    ``rsample_and_log_prob``. With ``closed_form`` it has half of a closed-form KL: ``gaussian`` under a condition,
    ``expected_log_prob`` without one. With ``needs_posterior`` its model calls ``bind`` once; with ``needs_fit``,
    ``fit`` at the start of a training phase.

    Args:
        space: What one item is.
        condition: What one condition is; none for an unconditional density.
        kind: What ``log_prob`` promises.
    """

    closed_form: bool = False
    needs_posterior: bool = False
    needs_fit: bool = False
    #: Whether its items are drawn step by step, by ``draw``.
    incremental: bool = False
    #: Whether it walks from noise to data: ``one_t`` costs it one of many links, and it has a loss ``denoising``.
    denoises: bool = False
    #: Whether L is found in so many ``steps``, which are set as they come, and more of them would make it finer.
    solved: bool = False
    #: Names of what its L is the sum of, where ``split`` tells.
    splits: tuple[str, ...] = ()

    def __init__(self, space: Space, condition: Space | None = None, kind: Kind = Kind.EXACT) -> None:
        super().__init__()
        self.space, self.condition, self.kind = space, condition, kind

    @abstractmethod
    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """L of each row of ``x`` under the promise of ``kind``, in nats, ``(batch,)``."""

    def log_prob_and_penalties(
        self, x: Tensor, c: Tensor | None = None, mode: Mode = "path"
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """``log_prob``, and what else training pays for it by name: of a model, the penalties of its stages."""
        return self.log_prob(x, c, mode), {}

    @abstractmethod
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws ``(n, *space.shape)``; ``c`` has exactly ``n`` rows. Sends no gradient."""

    def rsample_and_log_prob(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Draws one item per row of ``c`` with a pathwise gradient, and its log-probability, in one pass."""
        raise NotImplementedError(f"{self.__class__.__name__} declares no pathwise gradient")

    def infer(self, c: Tensor, closed: bool = False) -> tuple[Tensor, Tensor, Gaussian | None]:
        """As a posterior: draws one item per row of ``c`` with a pathwise gradient, and ``-log q`` of it in nats.

        ``closed`` asks for ``-log q`` in expectation, and for the Gaussian beside it; only where ``closed_form``.
        """
        if not closed:
            z, log_q = self.rsample_and_log_prob(c)
            return z, -log_q, None
        gaussian = self.gaussian(c)
        assert gaussian is not None, "a density in closed form gave no Gaussian"
        return gaussian.rsample(), gaussian.entropy(), gaussian

    def draw(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> tuple[Tensor, Tensor]:
        """Draws ``(n, *space.shape)`` step by step, and the log-probability each was drawn with, in nats, ``(n,)``.

        As it is, that is ``log_prob`` of what was drawn; sharpened or guided, it is that of the distribution that this
        makes. What was ``known`` from the start does not count. Only where ``incremental``.

        Raises:
            SpaceError: it does not draw code by code; or what is known is no beginning of its items; or it is to be
                guided, and no label was hidden in training.
        """
        raise SpaceError(
            "this density does not draw code by code, so it does not say with what probability it drew; 'sample' draws "
            "from it."
        )

    def sample_as(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> Tensor:
        """Draws ``(n, *space.shape)`` otherwise than as it is: sharpened, guided, in other steps.

        Raises:
            SpaceError: it draws in one step, so there is nothing to do otherwise; or it means nothing here.
        """
        if not self.incremental:
            raise SpaceError(
                "nothing to sharpen or to guide, and no beginning to go on from: the prior draws all at once, neither "
                "code by code nor link by link."
            )
        return self.draw(n, c, how)[0]

    def split(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> dict[str, Tensor]:
        """L by ``splits``, in nats, ``(batch,)`` each; they sum to ``log_prob``. Only where there are any."""
        raise NotImplementedError(f"{self.__class__.__name__} does not split its L")

    def denoising(self, x: Tensor, c: Tensor | None = None, at_most: float | None = None) -> Tensor:
        """What is missed of the noise at a random time, squared and weighted, ``(batch,)``; only where it denoises."""
        raise NotImplementedError(f"{self.__class__.__name__} sees no noise")

    def beginning(self, x: Tensor, rows: int) -> Tensor:
        """The codes of the uppermost rows of items, ``(n, m)``, as a ``Drawing`` knows them; where ``incremental``.

        Raises:
            SpaceError: items have no such rows, or are not drawn row by row.
        """
        raise NotImplementedError(f"{self.__class__.__name__} does not draw step by step")

    def gaussian(self, c: Tensor) -> Gaussian | None:
        """The diagonal Gaussian that this density is given ``c``; none where it is something else."""
        return None

    def expected_log_prob(self, q: Gaussian) -> Tensor:
        """``E_q log p(z)`` in closed form, ``(batch,)``; only where ``closed_form`` is true."""
        raise NotImplementedError(f"{self.__class__.__name__} declares no closed form")

    def centre(self, c: Tensor) -> Tensor:
        """The middle of what is drawn given ``c``, as a net would see it (``to_features``), with a pathwise gradient.

        Of reals the mean, of ordered codes the mean level in [0, 1]; only where the declaration says ``centred``.
        """
        raise NotImplementedError(f"{self.__class__.__name__} declares no centre")

    def in_pyro(self, n: int, c: Tensor | None = None) -> Any:
        """The same distribution from Pyro's library, ``n`` items as its batch; none where Pyro has none."""
        return None

    def bind(self, posterior: Posterior) -> None:
        """Receives the posterior right below; only where ``needs_posterior`` is true."""
        raise NotImplementedError(f"{self.__class__.__name__} declares no need of a posterior")

    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Fits what is not trained to all items on its edge; only where ``needs_fit`` is true."""
        raise NotImplementedError(f"{self.__class__.__name__} declares nothing to fit")

    def forward(self, *args: Any, call: str = "log_prob", **kwargs: Any) -> Any:
        """Calls the named method, so that wrappers which hook ``forward`` (DDP, compile) see every use."""
        return getattr(self, call)(*args, **kwargs)


class Step(NamedTuple):
    """What a stage found on its way up.

    Args:
        z: The item above, ``(batch, *above.shape)``.
        terms: Names of ``TERMS`` without the edge -> nats per example, ``(batch,)``.
        penalties: Values with a gradient that are no likelihood; those of a density under its term (``inside``).
        diagnostics: Values without a gradient.
        gaussian: The posterior's parameters, where ``closed`` was asked for.
    """

    z: Tensor
    terms: dict[str, Tensor]
    penalties: Mapping[str, Tensor] = {}
    diagnostics: Mapping[str, Tensor] = {}
    gaussian: Gaussian | None = None


class Stage(nn.Module):
    """One step between two edges: ``infer`` goes up, ``generate`` comes down.

    A stage that ``draws`` its item above says from what by ``up``, and by ``down`` from what it draws the item below.
    It may draw edges of its own between the two, ``inner``: it adds their terms under ``1.minus_log_q``,
    ``1.log_likelihood``, ..., counted from below, and ``up`` and ``down`` take those drawn so far.

    Args:
        below: Space of the item it stands on.
        above: Space of the item it gives.
    """

    closed_form: bool = False
    needs_fit: bool = False
    draws: bool = False
    #: Whether what comes up is the same each time.
    certain: bool = False
    #: Whether no way leads up, so that there is nothing to infer and no likelihood.
    implicit: bool = False
    #: Spaces of the edges that it draws inside, from the top down.
    inner: tuple[Space, ...] = ()
    #: Whether the way up draws its edges from below, the item above last; else that comes first, and inner ones follow.
    rises: bool = False

    def __init__(self, below: Space, above: Space) -> None:
        super().__init__()
        self.below, self.above = below, above

    @abstractmethod
    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Goes up from ``x``, ``(batch, *below.shape)``, with the labels ``c``.

        ``closed`` asks for ``minus_log_q`` in expectation and for the Gaussian beside it; only where ``closed_form``.
        """

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Comes down from ``z``, ``(batch, *above.shape)``. Sends no gradient.

        What ``relax`` gives, unless a stage says otherwise: whatever draws, or stands on codes, does.
        """
        return self.relax(z, c)

    def relax(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Comes down from ``z`` to what a net sees of the item below, with a pathwise gradient.

        What is drawn is replaced by the middle of its distribution; only where the declaration says ``descends``.
        """
        raise NotImplementedError(f"{self.__class__.__name__} declares no gradient on the way down")

    def mirror(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Goes up from ``x`` and comes down again as ``relax`` does, with a gradient on both ways."""
        return self.relax(self.rise(x, c), c)

    def rise(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Goes up from ``x``, and that is all: nothing is scored. What is drawn has a pathwise gradient."""
        q, given = self.up(x, c)
        return self.infer(x, c).z if q is None or given is None else q.rsample_and_log_prob(given)[0]

    def up(
        self, x: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()
    ) -> tuple[Density | None, Tensor | None]:
        """The density over the item above and its condition given ``x``; none where it is no density of ours.

        With inner edges: over the next that is not ``drawn``; the item above and inner ones from the top down, or where
        it ``rises`` the other way round.
        """
        return None, None

    def down(
        self, z: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()
    ) -> tuple[Density | None, Tensor | None]:
        """The density over the item below and its condition given ``z``; none where ``generate`` leaves no chance.

        With inner edges: over the highest that is not ``drawn``, and over the item below once all are.
        """
        return None, None

    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """Fits what is not trained to all items below; only where ``needs_fit`` is true."""
        raise NotImplementedError(f"{self.__class__.__name__} declares nothing to fit")

    def lend(self) -> Posterior:
        """Lends the posterior to a prior made of it."""
        raise NotImplementedError(f"{self.__class__.__name__} has no posterior to lend")


class DensityPart(Part):
    """Declares a density: what it scores, what it promises, what a net must produce to condition it."""

    role: ClassVar[str] = "density"
    takes: ClassVar[tuple[type, ...]] = (Real,)
    gradient: ClassVar[Gradient] = "pathwise"
    needs_condition: ClassVar[bool] = False
    needs_posterior: ClassVar[bool] = False
    #: Whether it has a ``centre``.
    centred: ClassVar[bool] = False
    #: Whether its L is found in many small steps.
    solved: ClassVar[bool] = False

    @property
    def denoises(self) -> bool:
        """Whether it walks from noise to data."""
        return False

    @property
    def of_the_bound(self) -> str:
        """Of what denoises: an option, with its value, that only a bound at random times has a use for."""
        return ""

    @property
    def samplers(self) -> tuple[str, ...]:
        """Names of the ways in which it can be walked."""
        return ()

    @property
    def links(self) -> int | None:
        """Of how many links its way is made; none where of no such number."""
        return None

    labels: bool = False
    """Condition on the class label; the data must give labels."""

    def features(self, space: Space) -> Real | None:
        """The condition that a net must produce; none where the density takes no condition."""
        return None

    @property
    def hidden_labels(self) -> float:
        """Share of the training examples whose label is hidden."""
        return 0.0

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """Checks space, condition, polarity and labels; a part adds what is its own."""
        if self.labels and (slot.labels is None or slot.condition is not None):
            why = (
                "the data give none (data.labels)" if slot.labels is None else f"a {slot.use} gets them through its net"
            )
            yield Misfit(f"'{self.type}' is to take the class label, but {why}.", key="labels", swap=False)
        if self.hidden_labels and not self.labels:
            message = f"'{self.type}' is to hide a share of its labels, but it takes none (labels: true)."
            yield Misfit(message, key="unlabelled", swap=False)
        if not isinstance(slot.space, self.takes):
            wanted = " or ".join(space.__name__ for space in self.takes)
            yield Misfit(f"'{self.type}' takes {wanted}, but {slot.origin} {slot.space}.")
            return
        if slot.negative:
            yield from self._polarity(slot)
        if slot.condition is not None and self.features(slot.space) is None:
            yield Misfit(f"'{self.type}' takes no condition, so it cannot serve as a {slot.use}.")
        if slot.condition is None and self.needs_condition:
            yield Misfit(f"'{self.type}' needs a condition from a net, and a {slot.use} here has none.")
        if self.needs_posterior and (slot.use != "prior" or slot.beneath is None):
            yield Misfit(f"'{self.type}' is made of the posterior right below it, and here there is none.")
        if self.labels and slot.labels is not None and self.features(slot.space) is None:
            yield Misfit(f"'{self.type}' takes no condition, so it cannot take the class label.", key="labels")

    def _polarity(self, slot: Slot) -> Iterator[Misfit]:
        kind = self.kind(slot)
        if kind is not Kind.EXACT:
            yield Misfit(
                f"a {slot.use} enters the bound with a minus sign, so its log-probability must be exact; "
                f"that of '{self.type}' is only {kind.spoken} ({kind.promise}) and the result would be no bound."
            )
        if self.gradient != "pathwise":
            yield Misfit(f"a {slot.use} must carry a pathwise gradient, and samples of '{self.type}' carry none.")

    def build(self, slot: Slot) -> nn.Module:
        """Builds the density; where it takes the class label, behind an embedding of that label."""
        if self.labels and slot.labels is not None and slot.condition is None:
            features = self.features(slot.space)
            assert features is not None, "a density without features was not refused its labels"
            inner = super().build(replace(slot, condition=features))
            assert isinstance(inner, Density)
            return ByLabel(inner, slot.labels, features, self.hidden_labels)
        return super().build(slot)


class StagePart(Part):
    """Declares a stage: the space it gives, computed from the space below, and the terms it adds."""

    role: ClassVar[str] = "stage"
    lends_posterior: ClassVar[bool] = False
    #: Whether each of the edges that it draws depends on the next one alone, up and down.
    markov: ClassVar[bool] = False

    @property
    def descends(self) -> bool:
        """Whether a gradient comes down through it, by ``relax``."""
        return False

    def sees_labels(self) -> bool:
        """Whether its nets take the class label, where the data give one."""
        return False

    def last_nets(self) -> tuple[str, str]:
        """Key paths of the nets that the way up to the item above and the way down end in; '' where in none."""
        up, down = (name if name in type(self).model_fields else "" for name in ("encoder", "decoder"))
        return up, down

    def above(self, below: Space) -> Space:
        """The space it gives; a best guess where it does not fit on ``below``."""
        raise NotImplementedError(f"{self.__class__.__name__} must declare the space it gives")

    def terms(self) -> dict[str, str]:
        """The terms it adds, in order, and the relative key path of the part that each comes from ('' for itself)."""
        raise NotImplementedError(f"{self.__class__.__name__} must declare its terms")


def promised(slot: Slot) -> Kind:
    """What the model that an objective trains promises."""
    assert isinstance(slot.model, DensityPart)
    return slot.model.kind(_of_model(slot))


def takes_labels(part: Part, slot: Slot) -> bool:
    """Whether the part, or something inside it, is set to take class labels and is offered them."""
    return any(inner.labels is not None and _sees_labels(each) for _, each, inner in part.walk(slot))


def _sees_labels(part: Part) -> bool:
    return part.sees_labels() if isinstance(part, StagePart) else getattr(part, "labels", False)


def stages_of(slot: Slot) -> list[tuple[StagePart, Slot]]:
    """The stages of the model that an objective trains, from the data upward, each with its slot."""
    assert isinstance(slot.model, DensityPart)
    nested = slot.model.nested(_of_model(slot))
    return [(part, place) for part, place in nested.values() if isinstance(part, StagePart)]


def without_latent(objective: str, stages: list[tuple[StagePart, Slot]]) -> Misfit | None:
    """The refusal of what compares data with what a latent makes of them, where the lowest that is drawn does not."""
    for i, (stage, _) in enumerate(stages, 1):
        drawn_or_scored = [term for term in stage.terms() if term.endswith(("log_likelihood", "minus_log_q"))]
        if not any(term.endswith("minus_log_q") for term in drawn_or_scored):
            continue
        if drawn_or_scored[0] == "log_likelihood":
            return None
        message = (
            f"'{objective}' is of data given a latent, and the first that is drawn, in stage {i}, '{stage.type}', is "
            "only noise beside them; a latent or codes in its place would do, or the objective 'elbo'."
        )
        return Misfit(message, swap=False)
    return Misfit(f"'{objective}' is of data given a latent, and this model has none.", swap=False)


def _of_model(slot: Slot) -> Slot:
    return Slot("prior", slot.space, labels=slot.labels)


class ByLabel(Density):
    """A conditional density whose condition is looked up by class label.

    Args:
        density: Conditional on ``features``.
        labels: Space of the label.
        features: The condition wanted.
        hidden: Share of the labels that are hidden in training, so that samples can be guided. Another condition stands
            in for those. Otherwise every label counts.
    """

    def __init__(self, density: Density, labels: Codes, features: Real, hidden: float = 0.0) -> None:
        super().__init__(density.space, labels, density.kind)
        self.density, self.labels, self.hidden = density, labels, hidden
        # One more for what is hidden.
        self.embedding = nn.Embedding(labels.size + (hidden > 0), features.dim)
        nn.init.normal_(self.embedding.weight, std=0.01)
        self.shape = features.shape
        self.incremental, self.denoises, self.splits = density.incremental, density.denoises, density.splits

    def __getattr__(self, name: str) -> Any:
        """What the density is made of is found here too: recipes have it at one key path, with a label or without."""
        modules = self.__dict__.get("_modules", {})
        if name not in modules and name in (within := getattr(modules.get("density"), "_modules", {})):
            return within[name]
        return super().__getattr__(name)

    def _features(self, c: Tensor | None) -> Tensor:
        assert c is not None, "a density by label was asked without one"
        return self.embedding(c.long()).unflatten(1, self.shape)

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """L of each row given its label; in training, of some without."""
        return self.density.log_prob(x, self._seen(c), mode)

    def split(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> dict[str, Tensor]:
        """The density's own, as in ``log_prob``."""
        return self.density.split(x, self._seen(c), mode)

    def denoising(self, x: Tensor, c: Tensor | None = None, at_most: float | None = None) -> Tensor:
        """The density's own, as in ``log_prob``."""
        return self.density.denoising(x, self._seen(c), at_most)

    def _seen(self, c: Tensor | None) -> Tensor:
        if self.training and self.hidden and c is not None:
            c = torch.where(uniform((len(c),), self.embedding.weight) < self.hidden, self.labels.size, c.long())
        return self._features(c)

    def in_pyro(self, n: int, c: Tensor | None = None) -> Any:
        """The density's own, given its label."""
        return self.density.in_pyro(n, self._features(c))

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws one item for each of the ``n`` labels."""
        return self.density.sample(n, self._features(c))

    def draw(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> tuple[Tensor, Tensor]:
        """The density's own, given its label; guided, away from what it draws without."""
        return self.density.draw(n, self._features(c), self._guided(n, how))

    def sample_as(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> Tensor:
        """The density's own, given its label; guided, away from what it draws without."""
        return self.density.sample_as(n, self._features(c), self._guided(n, how))

    def _guided(self, n: int, how: Drawing) -> Drawing:
        if how.passes == 1 or not self.hidden:
            return how
        nothing = torch.full((n,), self.labels.size, device=self.embedding.weight.device)
        return replace(how, without=self._features(nothing))

    def beginning(self, x: Tensor, rows: int) -> Tensor:
        """The density's own."""
        return self.density.beginning(x, rows)


class FreeParameters(nn.Module):
    """What conditions a density: the given condition, or, where there is none, numbers learned in its place.

    Args:
        features: The condition that the density wants.
        condition: What it is given; none for a density that stands alone.
    """

    def __init__(self, features: Real, condition: Space | None) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(features.shape)) if condition is None else None

    def forward(self, n: int, c: Tensor | None) -> Tensor:
        """``(n, *features.shape)``."""
        if self.value is None:
            assert c is not None, "a conditional density was asked without a condition"
            return c
        return self.value.expand(n, *self.value.shape)


def inside(term: str, penalties: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Penalties of the density that a term comes from, named after that term: ``log_likelihood.z1.commitment``."""
    return {f"{term}.{name}": value for name, value in penalties.items()}


def to_features(x: Tensor, space: Space, dtype: torch.dtype) -> Tensor:
    """What a net sees of an item: reals as they are, ordered codes scaled to [0, 1], others one-hot on a first axis."""
    if isinstance(space, Real):
        return x
    if not space.ordered:
        return torch.movedim(nn.functional.one_hot(x.long(), space.size), -1, 1).to(dtype)
    return x.to(dtype) if space.size == 2 else x.to(dtype) / (space.size - 1)


def from_features(x: Tensor, space: Space) -> Tensor:
    """The item that looks most like this to a net: levels are rounded, of others the largest is taken."""
    if isinstance(space, Real):
        return x
    return (x * (space.size - 1)).round().long().clamp(0, space.size - 1) if space.ordered else x.argmax(1)


def with_label(x: Tensor, c: Tensor | None, labels: Codes | None) -> Tensor:
    """Appends a one-hot label, where there is one, to the first axis of each item, repeated over the remaining axes."""
    if c is None or labels is None:
        return x
    one_hot = nn.functional.one_hot(c.long(), labels.size).to(x.dtype)
    spread = one_hot.reshape(*one_hot.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
    return torch.cat([x, spread], dim=1)


def labelled(space: Real, labels: Codes | None) -> Real:
    """The space of ``with_label``."""
    return space if labels is None else Real((space.shape[0] + labels.size, *space.shape[1:]))
