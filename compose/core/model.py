"""The algebra: a list of stages, from the data upward, closed by a prior, is itself a density.

data x = z0  --stage 1-->  z1  --stage 2-->  z2 ... zn  ~  prior            L = sum of all terms
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compose.core.drawing import AS_IT_IS, Drawing
from compose.core.errors import SpaceError, TrainingError
from compose.core.gaussians import standard_log_prob
from compose.core.kinds import Kind
from compose.core.roles import MODES, Density, Mode, Stage, from_features, inside, to_features
from compose.core.spaces import Codes, Space
from compose.core.terms import Ledger, total

Batches = Callable[[], Iterable[tuple[Tensor, Tensor | None]]]


class ModelDensity(Density):
    """A closed stack of stages; a density like any other.

    Args:
        space: What one datum is.
        stages: From the data upward.
        prior: The density over the uppermost edge.
        kind: The weakest kind among stages and prior.
        labels: Space of the class labels that stages and prior may take; none where there are none.
        condition: What a model used as a likelihood is conditioned on: it is handed to the prior.

    ``declared`` is the declaration that it was built from; none for one put together by hand.
    """

    def __init__(
        self,
        space: Space,
        stages: Sequence[Stage],
        prior: Density,
        kind: Kind = Kind.EXACT,
        labels: Codes | None = None,
        condition: Space | None = None,
    ) -> None:
        super().__init__(space, condition or labels, kind)
        self.labels = labels
        self.declared: object = None
        self.stages = nn.ModuleList(stages)
        self.prior = prior
        self.by_label = condition is None
        self.needs_fit = prior.needs_fit or any(stage.needs_fit for stage in stages)
        self.closes = prior.closed_form and prior.condition is None
        self.incremental = prior.incremental and not stages
        self.denoises = prior.denoises
        # Where N(0, I) stands in for the prior: on the latent itself, below what is only fitted to it.
        self.trained = max((i for i, stage in enumerate(stages, 1) if not _only_fitted(stage)), default=0)
        if prior.needs_posterior:
            prior.bind(stages[-1].lend())

    @property
    def stack(self) -> list[Stage]:
        """The stages, from the data upward."""
        # Past what ModuleList does to be iterated over: every step asks.
        stages: Any = self._modules["stages"]
        return list(stages._modules.values())

    def evaluate_terms(
        self,
        x: Tensor,
        c: Tensor | None = None,
        mode: Mode = "path",
        with_prior: bool = True,
        start: int = 0,
        standard: bool = False,
    ) -> Ledger:
        """Every term by name, in nats per example, from the data upward.

        Args:
            x: Data, ``(batch, *space.shape)``.
            c: Condition of each row, where the model takes one.
            mode: ``path`` draws every latent and scores the draw; ``kl`` takes KLs in closed form where both sides have
                one; ``one_t`` also lets a diffusion draw a single link.
            with_prior: Whether the prior scores what comes up to it; without its term the rest is no L.
            start: How many stages lie below ``x``, which are left out; their terms are missing from L too.
            standard: Whether N(0, I) stands in for the prior, as before that is trained, and for the stages right below
                it that are only fitted.

        Raises:
            SpaceError: ``x`` or ``c`` is no batch of its space, or there is no such mode.
        """
        if mode not in MODES:
            raise SpaceError(f"there is no mode {mode!r}; there are {', '.join(MODES)}.")
        stages = self.stack[: self.trained] if standard else self.stack
        self._check(None if start else x, c)
        ledger = Ledger({}, {}, {})
        terms, prior = ledger.terms, self.prior
        label = c if self.by_label else None
        z, edge, gaussian = x, f"z{start}" if start else "x", None
        # Under N(0, I) in the prior's place all is as it would be with any other prior.
        last = len(stages) if mode != "path" and self.closes and not standard else 0
        for i, stage in enumerate(stages[start:] if start else stages, start + 1):
            z, found, penalties, diagnostics, gaussian = stage.infer(z, label, i == last and stage.closed_form, mode)
            above = f"z{i}"
            for name, value in found.items():
                terms[f"{edge}.{name}" if name == "log_likelihood" else f"{above}.{name}"] = value
            if penalties or diagnostics:
                for name, value in penalties.items():
                    ledger.penalties[f"{edge if name.startswith('log_likelihood.') else above}.{name}"] = value
                ledger.diagnostics.update((f"{above}.{name}", value) for name, value in diagnostics.items())
            edge = above
        if not with_prior:
            return ledger
        if standard:
            terms[f"{edge}.log_prior"] = standard_log_prob(z)
        elif gaussian is not None:
            terms[f"{edge}.log_prior"] = prior.expected_log_prob(gaussian)
        elif prior.splits:
            parts = prior.split(z, self._for_prior(c), mode)
            terms[f"{edge}.log_prior"] = total(parts)
            ledger.diagnostics.update((f"{edge}.log_prior.{name}", value.detach()) for name, value in parts.items())
        else:
            given = c if prior.condition is not None else None
            terms[f"{edge}.log_prior"], penalties = prior.log_prob_and_penalties(z, given, mode)
            if penalties:
                ledger.penalties.update(inside(f"{edge}.log_prior", penalties))
        return ledger

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """L of each row, the sum of all terms, in nats, ``(batch,)``."""
        return total(self.evaluate_terms(x, c, mode).terms)

    def log_prob_and_penalties(
        self, x: Tensor, c: Tensor | None = None, mode: Mode = "path"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """L of each row, and the penalties of all stages: so a model in a model trains as the flat one does."""
        ledger = self.evaluate_terms(x, c, mode)
        return ledger.total, ledger.penalties

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS, means: bool = False) -> Tensor:
        """Draws ``(n, *space.shape)`` from the prior down; ``c`` has exactly ``n`` rows.

        Another ``how`` than as it is needs a prior that draws in steps; ``means`` are as in ``generate``.

        Raises:
            SpaceError: it does not, or there are no means, or ``c`` is no batch of its space, or one of other rows.
        """
        return self.generate(self.latents(n, c, how), c, means)

    @torch.no_grad()
    def latents(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> Tensor:
        """Draws ``(n, *prior.space.shape)`` from the prior alone: what ``generate`` comes down from.

        Raises:
            SpaceError: as ``sample``.
        """
        self._check_rows(n, c)
        if how is AS_IT_IS:
            return self.prior.sample(n, self._for_prior(c))
        return self.prior.sample_as(n, self._for_prior(c), how)

    def sample_as(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> Tensor:
        """As ``sample``."""
        return self.sample(n, c, how)

    def denoising(self, x: Tensor, c: Tensor | None = None, at_most: float | None = None) -> Tensor:
        """The prior's own, of what comes up to it; to the stages it sends no gradient."""
        self._check(x, c)
        return self.prior.denoising(self.encode(x, c), self._for_prior(c), at_most)

    def draw(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> tuple[Tensor, Tensor]:
        """As the prior draws; without a stage, its items are the data.

        Raises:
            SpaceError: as ``sample``, or the prior does not draw code by code.
        """
        self._check_rows(n, c)
        return self.prior.draw(n, self._for_prior(c), how)

    def beginning(self, x: Tensor, rows: int) -> Tensor:
        """As the prior begins; without a stage, its items are the data."""
        return self.prior.beginning(x, rows)

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None, means: bool = False) -> Tensor:
        """Comes down from items on the uppermost edge to the data.

        With ``means`` the lowest stage gives the mean of what it would draw from, free of the likelihood's noise and no
        sample of the model: of levels a real number between them, of other codes the likeliest.

        Raises:
            SpaceError: ``means`` of a lowest stage that draws by no likelihood with a mean.
        """
        label = c if self.by_label else None
        for i, stage in reversed(list(enumerate(self.stack))):
            z = stage.generate(z, label) if i or not means else self._mean(stage, z, label)
        if means and not self.stages:
            raise SpaceError("there is no likelihood to take the mean of: the prior draws the data themselves.")
        return z

    def _mean(self, stage: Stage, z: Tensor, label: Tensor | None) -> Tensor:
        try:
            mean = stage.relax(z, label)
        except NotImplementedError as error:
            raise SpaceError(f"there is no likelihood to take the mean of: {error}.") from None
        if isinstance(self.space, Codes) and self.space.ordered:
            most = self.space.size - 1
            return (mean * most).clamp(0, most)
        return from_features(mean, self.space)

    @torch.no_grad()
    def encode(self, x: Tensor, c: Tensor | None = None, stages: int | None = None) -> Tensor:
        """Goes up through the first ``stages`` stages (all of them by default), drawing from each posterior."""
        label = c if self.by_label else None
        for stage in self.stack[:stages]:
            x = stage.infer(x, label).z
        return x

    def meet(self, x: Tensor, c: Tensor | None = None, edge: int = 0) -> tuple[Tensor, Tensor]:
        """What comes up to an edge from data and what comes down to it from the prior, as nets see both.

        Each with a pathwise gradient to the stages that it passes; the prior's own draws carry none.

        Args:
            x: Data, ``(batch, *space.shape)``; as many items come down.
            c: Condition of each row, where the model takes one.
            edge: How many stages lie below it; at 0 it is the data that come up.

        Raises:
            SpaceError: ``x`` or ``c`` is no batch of its space.
        """
        self._check(x, c)
        up = self._rise(x, c, edge)
        with torch.no_grad():
            down = self.prior.sample(x.shape[0], self._for_prior(c))
        down = self._sink(down, c, edge)
        space = self.stack[edge].below if edge < len(self.stages) else self.prior.space
        return to_features(up, space, down.dtype), down

    def mirror(self, x: Tensor, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data, and what becomes of them on the way up and down, as nets see both; with a pathwise gradient.

        Args:
            x: Data, ``(batch, *space.shape)``.
            c: Condition of each row, where the model takes one.

        Raises:
            SpaceError: ``x`` or ``c`` is no batch of its space.
        """
        self._check(x, c)
        top = len(self.stages) - 1
        back = self.stack[top].mirror(self._rise(x, c, top), c if self.by_label else None)
        back = self._sink(back, c, 0, top)
        return to_features(x, self.space, back.dtype), back

    def _rise(self, x: Tensor, c: Tensor | None, edge: int) -> Tensor:
        """From data to an edge, drawing from each posterior, with a pathwise gradient."""
        label = c if self.by_label else None
        for stage in self.stack[:edge]:
            x = stage.rise(x, label)
        return x

    def _sink(self, z: Tensor, c: Tensor | None, edge: int, start: int | None = None) -> Tensor:
        """From an edge, by default the uppermost, to what a net sees on one below, with a pathwise gradient."""
        for stage in reversed(self.stack[edge:start]):
            z = stage.relax(z, c if self.by_label else None)
        return z

    def reconstruct(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Up to the last edge and down again."""
        return self.generate(self.encode(x, c), c)

    def to_pyro(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """The same model as a pair of Pyro programs, ``model(x=None, c=None, n=1)`` and ``guide(x, c=None)``.

        Each drawn edge is a site (``z1``, ``z2``, ...) and the data are the site ``x``; without ``x`` the model draws
        ``n`` data, or one for each row of ``c``. Both programs register the parameters, so ``SVI`` trains this model.

        Raises:
            KindError: the model has no likelihood.
        """
        from compose.core.bridge import to_pyro

        return to_pyro(self)

    def fit_parts(self, batches: Batches, path: str = "model") -> list[str]:
        """Fits what is fitted to data rather than trained, from the data upward, on the whole training set.

        Args:
            batches: Called anew for each part; gives batches of data and conditions.
            path: Key path of this model, for messages.

        Returns:
            Names of the modules fitted.

        Raises:
            TrainingError: the data do not do for a part; says which.
        """
        fitted = []
        for i, stage in enumerate(self.stack):
            if stage.needs_fit:
                _fit(stage, self._on_edge(batches, i), f"{path}.stages.{i}")
                fitted.append(f"stages.{i}")
        if isinstance(self.prior, ModelDensity):
            nested = self.prior.fit_parts(lambda: self._for_nested(batches), f"{path}.prior")
            fitted += [f"prior.{name}" for name in nested]
        elif self.prior.needs_fit:
            below = len(self.stages) - 1 if self.prior.needs_posterior else len(self.stages)
            _fit(self.prior, self._on_edge(batches, below), f"{path}.prior")
            fitted.append("prior")
        return fitted

    def _for_nested(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor | None]]:
        return ((self.encode(x, c), self._for_prior(c)) for x, c in batches())

    def fit(self, batches: Callable[[], Iterator[Tensor]]) -> None:
        """As a part of another model: fits its own parts to the items on its edge."""
        self.fit_parts(lambda: ((x, None) for x in batches()))

    def _on_edge(self, batches: Batches, edge: int) -> Callable[[], Iterator[Tensor]]:
        return lambda: (self.encode(x, c, edge) for x, c in batches())

    def _for_prior(self, c: Tensor | None) -> Tensor | None:
        return c if self.prior.condition is not None else None

    def _check(self, x: Tensor | None, c: Tensor | None) -> None:
        if x is not None:
            self.space.check(x)
        if self.condition is not None:
            if c is None:
                raise SpaceError(f"The model is conditional on {self.condition}, and no condition was given.")
            self.condition.check(c, "the condition")
            if x is not None:
                _same_rows(len(x), c, "came")

    def _check_rows(self, n: int, c: Tensor | None) -> None:
        self._check(None, c)
        if self.condition is not None and c is not None:
            _same_rows(n, c, "were asked for")
            if not torch.compiler.is_compiling():  # what is compiled cannot look at values
                self.condition.check_values(c, "the condition")


def _same_rows(n: int, c: Tensor, said: str) -> None:
    if len(c) != n:
        raise SpaceError(f"{n} items {said}, and the condition has {len(c)} rows; wanted one for each.")


def _only_fitted(stage: Stage) -> bool:
    """Whether nothing of it is drawn or trained: it only puts what comes up to it on a scale."""
    return stage.needs_fit and not stage.draws and next(stage.parameters(), None) is None


def _fit(part: Stage | Density, batches: Callable[[], Iterator[Tensor]], path: str) -> None:
    try:
        part.fit(batches)
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from error
