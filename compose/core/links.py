"""The links of a diffusion, one by one: what its posterior and its model say of two neighbouring latents.

The posterior is fixed: ``q(z_t | x) = N(alpha x, sigma^2)`` with ``gamma = log(sigma^2 / alpha^2)`` rising with t, and
``q(z_t | z_s)`` and ``q(z_s | z_t, x)`` follow. The model puts in place of x what its network makes of ``z_t``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compose.core.gaussians import LOG_2PI, Gaussian, standard_log_prob
from compose.core.random import categorical, standard_normal
from compose.core.roles import Density, Mode, Stage, Step
from compose.core.spaces import Codes, Real, Space

#: Numbers of a table of levels that are held at once.
MOST = 1 << 24


def signal(x: Tensor, space: Space, dtype: torch.dtype) -> Tensor:
    """What noise is added to: reals as they are, levels from -1 to 1."""
    return x.to(dtype) if isinstance(space, Real) else 2 * x.to(dtype) / max(1, space.size - 1) - 1


def alpha_sigma(gamma: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of the signal, and the scale of the noise."""
    return torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()


def over(gamma: Tensor, like: Tensor) -> Tensor:
    """Numbers of each row, ``(batch,)`` or one for all, to be multiplied with its items."""
    return gamma.reshape(-1, *[1] * (like.dim() - 1))


def first_log_prob(x: Tensor, space: Space, y: Tensor, gamma: Tensor) -> Tensor:
    """``log p(x | z_0)`` of the first link, in nats, ``(batch,)``: Bayes' rule with every x as likely as another.

    Args:
        x: Data.
        space: What they are: of ordered codes it is a softmax over their levels, of reals a Gaussian around ``y`` with
            variance ``exp(gamma)``.
        y: ``z_0 / alpha``, ``(batch, *space.shape)``.
        gamma: Of the first latent, a number.
    """
    precision = torch.exp(-gamma)
    if isinstance(space, Real):
        each = -0.5 * (x - y).square() * precision - 0.5 * (LOG_2PI + gamma)
        return each.flatten(1).sum(1)
    levels = _levels(space, y)
    few = max(1, MOST // (space.dim * space.size))
    found = [
        _among(logs - torch.logsumexp(logs, -1, keepdim=True), some)
        for here, some in zip(y.split(few), x.split(few), strict=True)
        for logs in (-0.5 * precision * (here[..., None] - levels).square(),)
    ]
    return torch.cat(found)


def first_sample(space: Space, y: Tensor, gamma: Tensor) -> Tensor:
    """Draws x from the first link; the arguments are those of ``first_log_prob``."""
    if isinstance(space, Real):
        return torch.addcmul(y, torch.exp(0.5 * gamma), standard_normal(y.shape, y))
    few, levels = max(1, MOST // (space.dim * space.size)), _levels(space, y)
    logs = (-0.5 * torch.exp(-gamma) * (here[..., None] - levels).square() for here in y.split(few))
    return torch.cat([categorical(some) for some in logs])


def _levels(space: Codes, like: Tensor) -> Tensor:
    return signal(torch.arange(space.size, device=like.device), space, like.dtype)


def _among(logs: Tensor, x: Tensor) -> Tensor:
    return logs.gather(-1, x.long()[..., None]).flatten(1).sum(1)


class Forward(Density):
    """``q(z_t | z_s) = N(kept z_s, scale^2)``: exact, fixed, and conditional on what lies below.

    Args:
        space: Space of both latents.
        kept: ``alpha_t / alpha_s``.
        scale: Of the noise that is added.
    """

    def __init__(self, space: Real, kept: Tensor, scale: Tensor) -> None:
        super().__init__(space, space)
        self.kept, self.scale = kept, scale

    def gaussian(self, c: Tensor) -> Gaussian:
        """Around what is kept of ``z_s``."""
        scale = self.scale.expand(c.shape)
        return Gaussian(self.kept * c, scale.log(), scale)

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Of each row, exact."""
        assert c is not None
        return _log_normal(x, self.kept * c, self.scale)

    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws one item for each row of ``c``."""
        assert c is not None
        return self.gaussian(c).rsample().detach()

    def rsample_and_log_prob(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Draws, and scores what was drawn."""
        z = self.gaussian(c).rsample()
        return z, self.log_prob(z, c)

    def in_pyro(self, n: int, c: Tensor | None = None) -> Any:
        """Pyro's normal."""
        assert c is not None
        return _pyro_normal(self.kept * c, self.scale)


class Backward(Density):
    """``p(z_s | z_t) = N(mean(z_t), scale^2)`` with the mean from a network.

    Args:
        space: Space of both latents.
        mean: From ``z_t``.
        scale: That of ``q(z_s | z_t, x)``.
        net: The network, which all links share.
    """

    def __init__(self, space: Real, mean: Callable[[Tensor], Tensor], scale: Tensor, net: nn.Module) -> None:
        super().__init__(space, space)
        self.mean, self.scale, self.net = mean, scale, net

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Of each row, exact."""
        assert c is not None
        return _log_normal(x, self.mean(c), self.scale)

    @torch.no_grad()
    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws one item for each row of ``c``."""
        assert c is not None
        mean = self.mean(c)
        return torch.addcmul(mean, self.scale, standard_normal(mean.shape, mean))

    def in_pyro(self, n: int, c: Tensor | None = None) -> Any:
        """Pyro's normal."""
        assert c is not None
        return _pyro_normal(self.mean(c), self.scale)


class First(Density):
    """``p(x | z_0)``, conditional on ``z_0``.

    Args:
        space: Of x.
        latent: Of ``z_0``.
        gamma: Of ``z_0``.
    """

    def __init__(self, space: Space, latent: Real, gamma: Tensor) -> None:
        super().__init__(space, latent)
        self.gamma = gamma

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Of each row, exact."""
        assert c is not None
        return first_log_prob(x, self.space, c / alpha_sigma(self.gamma)[0], self.gamma)

    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws one x for each row of ``c``."""
        assert c is not None
        return first_sample(self.space, c / alpha_sigma(self.gamma)[0], self.gamma)

    def in_pyro(self, n: int, c: Tensor | None = None) -> Any:
        """Pyro's normal or categorical."""
        import pyro.distributions as dist

        assert c is not None
        y = c / alpha_sigma(self.gamma)[0]
        if isinstance(self.space, Real):
            return _pyro_normal(y, torch.exp(0.5 * self.gamma))
        logits = -0.5 * torch.exp(-self.gamma) * (y[..., None] - _levels(self.space, y)).square()
        return dist.Categorical(logits=logits, validate_args=False).to_event(len(self.space.shape))  # type: ignore[attr-defined]


class Standard(Density):
    """N(0, I), which the last latent comes from.

    Args:
        space: Of the latent.
        like: What draws are made like.
    """

    def __init__(self, space: Real, like: Tensor) -> None:
        super().__init__(space)
        self.like = like

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Of each row, exact."""
        return standard_log_prob(x)

    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Draws ``n`` items."""
        return standard_normal((n, *self.space.shape), self.like)

    def in_pyro(self, n: int, c: Tensor | None = None) -> Any:
        """Pyro's normal."""
        zero = self.like.new_zeros(n, *self.space.shape)
        return _pyro_normal(zero, zero + 1)


class LinkStage(Stage):
    """One link of the chain as a stage: up by the fixed posterior, down by the network.

    Args:
        below: Of what it stands on.
        above: Of the latent.
        q: The posterior, conditional on what a net sees of the item below.
        p: Of the item below, conditional on the latent.
    """

    draws = True

    def __init__(self, below: Space, above: Real, q: Forward, p: Density) -> None:
        super().__init__(below, above)
        self.q, self.p = q, p

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """Draws the latent, and scores it and x."""
        z, log_q = self.q.rsample_and_log_prob(self._seen(x))
        return Step(z, {"log_likelihood": self.p.log_prob(x, z, mode), "minus_log_q": -log_q})

    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Draws the item below."""
        return self.p.sample(len(z), z)

    def up(self, x: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()) -> tuple[Density, Tensor]:
        """The fixed posterior."""
        return self.q, self._seen(x)

    def down(self, z: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()) -> tuple[Density, Tensor]:
        """The network's."""
        return self.p, z

    def _seen(self, x: Tensor) -> Tensor:
        return signal(x, self.below, self.q.kept.dtype)


def _log_normal(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    each = -0.5 * ((x - mean) / scale).square() - scale.log() - 0.5 * LOG_2PI
    return each.flatten(1).sum(1)


def _pyro_normal(mean: Tensor, scale: Tensor) -> Any:
    import pyro.distributions as dist

    return dist.Normal(mean, scale, validate_args=False).to_event(mean.dim() - 1)  # type: ignore[attr-defined]


def between(space: Codes) -> float:
    """A ``gamma`` of the first latent at which neighbouring levels lie six standard deviations apart."""
    return 2 * math.log(2 / max(1, space.size - 1) / 6)
