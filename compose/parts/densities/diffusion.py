"""Diffusion: a chain of latents with a fixed posterior, all links of which share one network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Le, Len
from torch import Tensor, nn

from compose.core.declare import Misfit, NetPart, Part, Slot
from compose.core.drawing import AS_IT_IS, Drawing
from compose.core.errors import SpaceError
from compose.core.kinds import Kind
from compose.core.links import (
    Backward,
    First,
    Forward,
    LinkStage,
    Standard,
    alpha_sigma,
    between,
    first_log_prob,
    first_sample,
    over,
    signal,
)
from compose.core.model import ModelDensity
from compose.core.quantizer import mean_over_devices
from compose.core.random import standard_normal
from compose.core.roles import Mode, Stage
from compose.core.samplers import SAMPLERS
from compose.core.schedule import SCHEDULES, Learned, Schedule, Schedules
from compose.core.spaces import Codes, Real, Space
from compose.core.timed import TOLD, TimedDensity, TimedPart, latent, waves
from compose.core.timesteps import Importance

#: Steps that draw a sample, for each time at which an example is scored, where time is continuous.
STEPS = 8
#: Waves of a number that a network sees beside it where it stands for one of many levels: their lengths, in levels.
WAVES = (1.0, 2.0)
#: At noise, ``gamma`` of the last latent; at the data, where these are reals.
NOISE, CLEAN = 5.0, -10.0
#: The most that ``log_snr`` may be at the data.
FINEST = 24.0
#: Parts of the way whose cost is told apart, where time is continuous.
BINS = 64
#: Rows that a network is asked about at once, where a path is scored and its batch is smaller.
ROWS = 256
Prediction = Literal["eps", "x0", "v", "levels"]


class Diffusion(TimedPart):
    """``x -> z_0 -> z_1 ... -> z_T ~ N(0, I)``: up by noise alone, down by one network of the noise in ``z_t``.

    The first link stands on the data: of ordered codes it is a softmax over their levels, of reals a Gaussian, whose
    variance is that of the schedule's least noise. With ``steps`` it is a hierarchical VAE of as many links above that,
    and its L the weight of a path. In continuous time L is a bound, from the slope of the schedule at random times.
    """

    type: ClassVar[str] = "diffusion"
    source: ClassVar[str] = (
        "Sohl-Dickstein et al. 2015, arXiv:1503.03585; Ho et al. 2020, arXiv:2006.11239; bound and continuous time: "
        "Kingma et al. 2021, arXiv:2107.00630; mixed: Vahdat et al. 2021, arXiv:2106.05931"
    )
    takes: ClassVar[tuple[type, ...]] = (Real, Codes)

    steps: Annotated[int, Ge(1), Le(10_000)] | None = 64
    """T, how many links stand above the first; none for continuous time."""
    times: Annotated[int, Ge(1), Le(10_000)] = 32
    """In continuous time: at how many random times an example is scored; a sample takes eight steps for each."""
    prediction: Prediction = "eps"
    """What the network gives: the noise, the data, ``v = alpha eps - sigma x``, or of codes what speaks for each level
    beside the number itself, whose mean by Bayes' rule is then the data (``levels``)."""
    schedule: Schedules = "linear"
    """How log(noise / signal) rises: evenly in time, as a cosine has it, or as is learned, its ends too."""
    log_snr: Annotated[list[float], Len(2, 2)] | None = None
    """Log of signal over noise at the last latent and at the first; by default -5, and for the first so that levels lie
    six standard deviations apart, or of reals 10."""
    variance: Literal["learned", "posterior", "marginal"] = "learned"
    """How widely the model draws ``z_s`` from ``z_t``: for each number and time between as were x known, and as were x
    from N(0, I); or as one of the two. In continuous time they are the same."""
    timesteps: Literal["low_discrepancy", "importance"] = "low_discrepancy"
    """Which times a step of training sees by the bound, where that takes one an example: spread evenly over the batch;
    or besides more often those where the bound was found to vary most."""
    mixed: bool = False
    """Start at what would be right of data from N(0, I), and learn for each number how far to leave it."""

    @property
    def training_differs(self) -> str:
        """Labels that are hidden, or times that are seen more often."""
        often = "times are drawn more often where its bound varies more" if self.timesteps == "importance" else ""
        return ", and ".join(filter(None, (super().training_differs, often)))

    @property
    def of_the_bound(self) -> str:
        """A schedule that is learned, or times by importance."""
        if self.schedule == "learned":
            return "schedule: learned"
        return "timesteps: importance" if self.timesteps == "importance" else ""

    @property
    def samplers(self) -> tuple[str, ...]:
        """All."""
        return tuple(SAMPLERS)

    @property
    def links(self) -> int | None:
        """As many as it has steps."""
        return self.steps

    def kind(self, slot: Slot) -> Kind:
        """The weight of a path; in continuous time a bound."""
        return Kind.BOUND if self.steps is None else Kind.WEIGHT

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """As any density; noise says something of codes that are ordered alone, and there is more of it later."""
        yield from super().misfits(slot)
        if isinstance(slot.space, Codes) and not slot.space.ordered:
            yield Misfit(
                f"'{self.type}' blurs a code into those beside it, but {slot.origin} {slot.space}, of which none lies "
                "beside another."
            )
        if self.prediction == "levels" and not isinstance(slot.space, Codes):
            message = f"{slot.origin} {slot.space}, which has no levels; predict eps, x0 or v."
            yield Misfit(message, key="prediction", swap=False)
        if self.steps is None and self.schedule == "learned" and self.timesteps == "importance":
            message = "a learned schedule makes the bound vary alike at all times: none is to be seen more often."
            yield Misfit(message, key="timesteps", swap=False)
        if self.log_snr is not None and not self.log_snr[0] < self.log_snr[1]:
            low, high = self.log_snr
            message = f"the noise would fall with time: log_snr goes from {low:g} at noise to {high:g} at the data."
            yield Misfit(f"{message} Wanted the lower number first.", key="log_snr", swap=False)
        if self.log_snr is not None and (self.log_snr[0] < -40 or self.log_snr[1] > FINEST):
            # Less noise than that is lost beside the data in single precision, and with it what it costs.
            yield Misfit(f"log_snr is {self.log_snr}; wanted -40 to {FINEST:g}.", key="log_snr", swap=False)

    def narrowed(self) -> Part:
        """With little between the noise of neighbouring latents: weights of a path then do not lie far apart."""
        return self.model_copy(update={"log_snr": [-0.5, 0.5]})

    def between(self, slot: Slot) -> tuple[int, int]:
        """Waves of each number where levels are many; what speaks for each level where it gives that."""
        levels = slot.space.size if self.prediction == "levels" and isinstance(slot.space, Codes) else 1
        return 2 * len(WAVES) * latent(slot.space).shape[0] if leveled(slot.space) else 0, levels

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        assert isinstance(self.net, NetPart)
        return DiffusionDensity(slot.space, slot.condition, children["net"], self, self.net.steered, self.kind(slot))

    def ends(self, space: Space) -> tuple[float, float]:
        """``gamma`` at the data and at noise."""
        if self.log_snr is not None:
            return -self.log_snr[1], -self.log_snr[0]
        return between(space) if isinstance(space, Codes) else CLEAN, NOISE


def leveled(space: Space) -> bool:
    """Whether data are levels, so many that where a number lies between two is hard to see."""
    return isinstance(space, Codes) and space.size > 2


class DiffusionDensity(TimedDensity):
    """A chain of latents by one network.

    Args:
        space: Of the data.
        condition: ``(context, ...)``; none for a density that stands alone.
        net: Gives ``prediction`` from ``z_t``.
        options: Schedule, steps, prediction.
        steered: Whether the network is told the time beside its input.
        kind: The weight of a path, or a bound.

    ``steps`` may be set to another number: the network has seen all times, or those of its own steps.
    """

    splits = ("reconstruction", "diffusion", "prior")

    def __init__(
        self, space: Space, condition: Space | None, net: nn.Module, options: Diffusion, steered: bool, kind: Kind
    ) -> None:
        super().__init__(space, condition, net, steered, kind)
        self.prediction = options.prediction
        self.steps, self.times = options.steps, options.times
        low, high = options.ends(space)
        self.schedule: Schedule = SCHEDULES[options.schedule](low, high)
        self.variance = "posterior" if self.steps is None else options.variance
        levels = space.size if isinstance(space, Codes) and leveled(space) else 0
        self.waves = [math.pi * (levels - 1) / length for length in WAVES] if levels else []
        self.widening = nn.Linear(TOLD, self.latent.dim) if self.variance == "learned" else None
        self.importance = Importance(self.steps or BINS) if options.timesteps == "importance" else None
        self.mix = nn.Parameter(torch.full(self.latent.shape, -3.0)) if options.mixed else None

    # --- the bound ---------------------------------------------------------------------------------------------------

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """L of each row: of a path, of all links in expectation (``kl``), or of one link at random (``one_t``)."""
        found = self.split(x, c, mode)
        return found["reconstruction"] + (found["diffusion"] + found["prior"])

    def split(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> dict[str, Tensor]:
        """What L is the sum of: the first link, those above, and the last latent under N(0, I); ``(batch,)`` each."""
        y = signal(x, self.space, self.like.dtype)
        if mode == "path" and self.steps is not None:
            return self._path(x, y, c, self.steps)
        if self.steps is None:
            times = 1 if mode == "one_t" else self.times
            parts = [self._flowing(y, c, k, times) for k in range(times)]
            diffusion = torch.stack(parts).mean(0)
        elif mode == "one_t":
            t, density = self._seldom(y)
            link = self._link(y, c, _which(t, self.steps), self.steps)
            diffusion = self.steps * self._noted(t, link) / density
        else:
            every = (torch.full((len(y),), i, dtype=y.dtype, device=y.device) for i in range(1, self.steps + 1))
            diffusion = torch.stack([self._link(y, c, i, self.steps) for i in every]).sum(0)
        first, last = self.gamma(torch.arange(2, dtype=y.dtype, device=y.device))
        around = torch.addcmul(y, torch.exp(0.5 * first), standard_normal(y.shape, y))
        reconstruction = first_log_prob(x, self.space, around, first)
        kept, scale = alpha_sigma(last)
        prior = -0.5 * ((scale * scale - 1 - 2 * scale.log()) + (kept * y).square()).flatten(1).sum(1)
        return {"reconstruction": reconstruction, "diffusion": diffusion, "prior": prior}

    def gamma(self, t: Tensor) -> Tensor:
        """Log of noise over signal at each time, from 0 at the first latent to 1 at the last."""
        return self.schedule(t)

    def _path(self, x: Tensor, y: Tensor, c: Tensor | None, steps: int) -> dict[str, Tensor]:
        """Draws ``z_T ... z_0`` by ``q(z_T | x)`` and ``q(z_s | z_t, x)``, which is the way up told from above."""
        gammas = self.gamma(torch.arange(steps + 1, dtype=y.dtype, device=y.device) / steps)
        kept, scale = alpha_sigma(gammas)
        noise = standard_normal(y.shape, y)
        z = kept[-1] * y + scale[-1] * noise
        prior = (0.5 * (noise * noise - z * z) + scale[-1].log()).flatten(1).sum(1)
        diffusion = torch.zeros_like(prior)
        # The way does not wait for the network, so a small batch is asked about many of its links at once.
        links: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(steps, 0, -1):
            s, e = t - 1, standard_normal(y.shape, y)
            links.append((z, noise, e))
            if s == 0 or len(links) * len(y) >= ROWS:
                above, below = (gammas[i : i + len(links)].flip(0) for i in (t, s))
                diffusion = diffusion + self._drawn(links, above, below, c)
                links = []
            # Told by its noise, since where there is little of that it would be lost beside the data.
            noise = torch.exp(0.5 * (gammas[s] - gammas[t])) * noise + (-torch.expm1(gammas[s] - gammas[t])).sqrt() * e
            z = kept[s] * y + scale[s] * noise
        reconstruction = first_log_prob(x, self.space, y + torch.exp(0.5 * gammas[0]) * noise, gammas[0])
        return {"reconstruction": reconstruction, "diffusion": diffusion, "prior": prior}

    def _drawn(self, links: list[tuple[Tensor, Tensor, Tensor]], t: Tensor, s: Tensor, c: Tensor | None) -> Tensor:
        """``log p(z_s | z_t) - log q(z_s | z_t, x)`` of links that were drawn, all together, ``(batch,)``.

        Args:
            links: Of each ``z_t``, the noise in it, and that which ``z_s`` was drawn with.
            t: Gamma of each upper end.
            s: Of each lower one.
            c: The condition of each row.
        """
        z, noise, e = (torch.stack(each) for each in zip(*links, strict=True))
        many, batch = z.shape[:2]
        given = None if c is None else c.repeat(many, *[1] * (c.dim() - 1))
        seen = self._noise(z.flatten(0, 1), t.repeat_interleave(batch), given).unflatten(0, (many, batch))
        off, wider = over(torch.sqrt(torch.expm1(t - s)), z) * (seen - noise), self._wider(t, s)
        if wider is None:
            cost = e * off + 0.5 * off * off
        else:
            wider = wider[:, None]
            cost = 0.5 * ((e + off).square() * torch.exp(-wider) - e.square() + wider)
        return -cost.flatten(2).sum((0, 2))

    def _link(self, y: Tensor, c: Tensor | None, i: Tensor, steps: int) -> Tensor:
        """``-KL(q(z_s | z_t, x) || p(z_s | z_t))`` at a ``z_t`` drawn from ``q(z_t | x)``, of link i of each row."""
        t, s = self.gamma(i / steps), self.gamma((i - 1) / steps)
        return -self._kl(self._error(y, t, c), t, s)

    def _kl(self, error: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """What a link between two gammas costs, by what was missed of the noise, squared."""
        missed, wider = over(torch.expm1(t - s), error) * error, self._wider(t, s)
        if wider is not None:
            missed = (missed + 1) * torch.exp(-wider) - 1 + wider
        return 0.5 * missed.flatten(1).sum(1)

    def _wider(self, t: Tensor, s: Tensor) -> Tensor | None:
        """Log of the model's variance over that of ``q(z_s | z_t, x)``, ``(batch, ...)``; none where they are one.

        Source: learned between the two: Nichol and Dhariwal 2021, arXiv:2102.09672.
        """
        if self.variance == "posterior":
            return None
        most = nn.functional.logsigmoid(t) - nn.functional.logsigmoid(s)
        most = most.reshape(-1, *[1] * len(self.latent.shape))
        if self.widening is None:
            return most
        return most * torch.sigmoid(self.widening(_told(t))).unflatten(1, self.latent.shape)

    def _flowing(self, y: Tensor, c: Tensor | None, k: int, times: int) -> Tensor:
        """What a link costs by its length in time, as that goes to 0: at a random time in the k-th part of all."""
        t, density = self._seldom(y) if times == 1 else ((k + self.time(y)) / times, 1.0)
        if not isinstance(self.schedule, Learned) or not self.training or times > 1:
            cost = -0.5 * self.schedule.slope(t) * self._error(y, self.gamma(t), c).flatten(1).sum(1)
            return self._noted(t, cost) / density
        shape, rate = self.schedule.shape(t), self.schedule.rate(t)
        gamma, slope = self.schedule.low + self.schedule.range * shape, self.schedule.range * rate
        cost = 0.5 * slope * self._error(y, gamma, c).flatten(1).sum(1)
        if shape.requires_grad:
            # The bound does not depend on the way between the ends, its variance does: what the way descends on.
            weight = 2 * cost.detach() / mean_over_devices(cost.detach().mean())
            shape.register_hook(lambda gradient: gradient * weight)
            rate.register_hook(lambda gradient: gradient * weight)
        return -cost

    def _error(self, y: Tensor, gamma: Tensor, c: Tensor | None) -> Tensor:
        """``(eps - eps_hat)^2`` at a latent drawn from ``q(z_t | x)``, of each number."""
        kept, scale = (over(each, y) for each in alpha_sigma(gamma))
        e = standard_normal(y.shape, y)
        return (self._noise(kept * y + scale * e, gamma, c) - e).square()

    def _seldom(self, y: Tensor) -> tuple[Tensor, Tensor | float]:
        """A random time for each row, and the density it was drawn with: in training by importance, where asked to."""
        t = self.time(y)
        return (t, 1.0) if self.importance is None or not self.training else self.importance(t)

    def _noted(self, t: Tensor, cost: Tensor) -> Tensor:
        """The cost, once it is noted what it was at which time."""
        if self.importance is not None and self.training:
            self.importance.learn(t, cost)
        return cost

    def denoising(self, x: Tensor, c: Tensor | None = None, at_most: float | None = None) -> Tensor:
        """``|eps - eps_hat|^2 / 2`` at a random time, all times alike; or as ``|x - x_hat|^2`` up to some signal.

        It is no bound: what the bound would weigh heavily, the last bit of noise, counts little. ``at_most`` is the
        ratio of signal to noise from which on all times count alike. A variance that is learned still descends on the
        bound, of a network that holds still: its gradient is added, and no number.

        Source: Ho et al. 2020, arXiv:2006.11239; at_most: min-SNR, Hang et al. 2023, arXiv:2303.09556; the variance:
        Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.1.
        """
        y = signal(x, self.space, self.like.dtype)
        steps = self.steps or 1
        i = self.time(y) if self.steps is None else _which(self.time(y), steps)
        gamma = self.gamma(i / steps).detach()
        weight = 0.5 if at_most is None else 0.5 * (at_most * gamma.exp()).clamp_max(1.0)
        error = self._error(y, gamma, c)
        found = weight * error.flatten(1).sum(1)
        if self.widening is None:
            return found
        bound = self._kl(error.detach(), gamma, self.gamma((i - 1) / steps).detach())
        return found + (bound - bound.detach())

    # --- the network -------------------------------------------------------------------------------------------------

    def _noise(self, z: Tensor, gamma: Tensor, c: Tensor | None) -> Tensor:
        """The noise that is seen in ``z``."""
        kept, scale = (over(each, z) for each in alpha_sigma(gamma))
        return self._as_noise(self._seen(z, _told(gamma), c), z, kept, scale, self._mixing())

    def _seen(self, z: Tensor, told: Tensor, c: Tensor | None) -> Tensor:
        """What the network gives, of the latent, its waves, the condition and the time."""
        return self.ask((z, *self._waves(z)) if self.waves else (z,), told, c)

    def _waves(self, z: Tensor) -> Iterator[Tensor]:
        """Where between two levels a number lies: what little noise is left is told by that alone."""
        for wave in self.waves:
            angle = wave * z
            yield from (angle.sin(), angle.cos())

    def _mixing(self) -> Tensor | None:
        """How far each number leaves what would be right of N(0, I); none where it begins elsewhere."""
        return None if self.mix is None else torch.sigmoid(self.mix)

    def _as_noise(
        self, came: Tensor, z: Tensor, kept: Tensor | float, scale: Tensor | float, mixing: Tensor | None
    ) -> Tensor:
        """The noise, by what the network gave of it, of the data or of both."""
        if self.prediction == "levels":
            came = self._mean_level(came, z, kept, scale)
        if self.prediction in ("x0", "levels"):
            came = (z - kept * came) / scale
        elif self.prediction == "v":
            came = kept * came + scale * z
        return came if mixing is None else torch.lerp(scale * z, came.to(z.dtype), mixing)

    def _mean_level(self, came: Tensor, z: Tensor, kept: Tensor | float, scale: Tensor | float) -> Tensor:
        """The mean of x given what the network says of each level without ``z`` at its place, and given that."""
        assert isinstance(self.space, Codes)
        levels = signal(torch.arange(self.space.size, device=z.device), self.space, z.dtype)
        levels = levels.reshape(-1, *[1] * (z.dim() - 1))
        said = came.unflatten(1, (self.space.size, z.shape[1]))
        # Up to what all levels share.
        ratio = kept / scale
        means = (ratio[:, None] if isinstance(ratio, Tensor) else ratio) * levels
        seen = means * (z / scale)[:, None] - 0.5 * means.square()
        return (torch.softmax(said + seen, 1) * levels).sum(1)

    # --- samples -----------------------------------------------------------------------------------------------------

    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws from every link; in continuous time from as many as ``STEPS`` for each of ``times``."""
        return self.sample_as(n, c, AS_IT_IS)

    @torch.no_grad()
    def sample_as(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> Tensor:
        """Draws by a sampler, in steps of its own, guided by the label.

        Raises:
            SpaceError: more ancestral steps than there are links; or what only codes drawn one by one can be.
        """
        how.refuse("temperature", "top_k", "top_p", "known", by="a diffusion")
        name, steps = how.sampler or "ancestral", how.steps or self.steps or STEPS * self.times
        if name == "ancestral" and self.steps is not None and steps > self.steps:
            raise SpaceError(
                f"{steps} ancestral steps were asked for, and this chain has {self.steps} links; wanted as many at "
                "most, or another sampler."
            )
        if how.eta is not None and name != "ddim":
            raise SpaceError(f"eta is the share of noise of 'ddim', and the sampler is '{name}'.")
        # A graph of all steps would take the compiler minutes.
        walk: Any = torch.compiler.disable(self._walk)
        return walk(n, c, how, name, steps)

    def _walk(self, n: int, c: Tensor | None, how: Drawing, name: str, steps: int) -> Tensor:
        like = self.like
        gammas = self.gamma(torch.arange(steps, -1, -1, dtype=like.dtype, device=like.device) / steps)
        numbers, rows = gammas.tolist(), n * how.passes
        # All that does not depend on z is made once.
        told = _told(gammas)[:, None].expand(-1, rows, -1).unbind()
        mixing = self._mixing()
        scales = [row.tolist() for row in alpha_sigma(gammas)]
        conditions, twice = how.conditions(c), how.passes == 2

        def predict(z: Tensor, i: int) -> Tensor:
            many = torch.cat([z, z]) if twice else z
            came = self._seen(many, told[i], conditions)
            if twice:
                given, without = came.chunk(2)
                came = torch.lerp(without, given, how.guidance)
            return self._as_noise(came, z, scales[0][i], scales[1][i], mixing)

        z = standard_normal((n, *self.latent.shape), like)
        options: dict[str, Any] = {} if how.eta is None else {"eta": how.eta}
        if name == "ancestral" and self.variance != "posterior":
            wider = self._wider(gammas[:-1], gammas[1:])
            options["wider"] = None if wider is None else torch.exp(0.5 * wider).unbind()
        z = SAMPLERS[name](predict, z, numbers, **options)
        return first_sample(self.space, z / scales[0][-1], gammas[-1])

    # --- the same, as a stack ----------------------------------------------------------------------------------------

    def as_chain(self, steps: int | None = None) -> ModelDensity:
        """The literal stack: the first link, then ``steps`` links, closed by N(0, I), all by this very network.

        A view, made to compare and never saved: its Markovian hierarchical VAE has the same bound, link by link.

        Raises:
            SpaceError: neither it nor the density says how many links, or fewer than one came; or the density is
                conditional.
        """
        steps = self.steps if steps is None else steps
        if steps is None:
            raise SpaceError("in continuous time there is no number of links; say one: as_chain(64).")
        if steps < 1:
            raise SpaceError(f"a chain of {steps} links was asked for; wanted 1 at least.")
        if self.condition is not None:
            raise SpaceError("a chain is made of a density that stands alone, and this one is conditional.")
        gammas = self.gamma(torch.arange(steps + 1, dtype=self.like.dtype, device=self.like.device) / steps)
        kept, scale = alpha_sigma(gammas)
        first = First(self.space, self.latent, gammas[0])
        stages: list[Stage] = [LinkStage(self.space, self.latent, Forward(self.latent, kept[0], scale[0]), first)]
        for t in range(1, steps + 1):
            s, through = t - 1, kept[t] / kept[t - 1]
            added = (scale[t].square() - (through * scale[s]).square()).clamp_min(0).sqrt()
            share = -torch.expm1(gammas[s] - gammas[t])

            def mean(z: Tensor, t: int = t, share: Tensor = share, through: Tensor = through) -> Tensor:
                return (z - scale[t] * share * self._noise(z, gammas[t].expand(len(z)), None)) / through

            spread, wider = scale[s] * share.sqrt(), self._wider(gammas[t : t + 1], gammas[s : s + 1])
            spread = spread if wider is None else spread * torch.exp(0.5 * wider[0])
            down = Backward(self.latent, mean, spread, self.net)
            stages.append(LinkStage(self.latent, self.latent, Forward(self.latent, through, added), down))
        return ModelDensity(self.space, stages, Standard(self.latent, self.like), Kind.WEIGHT)


def _which(t: Tensor, steps: int) -> Tensor:
    """The link that a time falls into, from 1."""
    return (t * steps).floor().clamp_max(steps - 1) + 1


def _told(gamma: Tensor) -> Tensor:
    """What the network is told of log(noise / signal)."""
    return waves(gamma, -4, 1)
