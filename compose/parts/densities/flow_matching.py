"""Flow matching: noise is carried to the data by a field of velocities, learned on straight lines between the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from compose.core.declare import NetPart, Slot
from compose.core.drawing import AS_IT_IS, Drawing
from compose.core.errors import SpaceError
from compose.core.gaussians import standard_log_prob
from compose.core.kinds import Kind
from compose.core.links import over
from compose.core.random import standard_normal, uniform
from compose.core.roles import Mode
from compose.core.solvers import SOLVERS, solve
from compose.core.spaces import Real, Space
from compose.core.timed import TimedDensity, TimedPart, waves

#: Numbers that move in all directions at once, at most: memory goes with them.
MOST = 1 << 21
#: What samplers of a diffusion are called, and what each is on straight lines.
BY_NAME = {None: "rk4", "ddim": "euler", "heun": "heun"}


class FlowMatching(TimedPart):
    """``x_0 ~ N(0, I)`` carried to the data along ``dx/dt = v(x, t)``, from t = 0 to 1: a rectified flow.

    The objective ``denoising`` learns v on lines ``(1 - t) noise + t data``. Its log-probability is that of the noise
    that leads to x, less the divergence of v along the way. Data of about unit variance suit it: ``standardize`` first.
    """

    type: ClassVar[str] = "flow_matching"
    source: ClassVar[str] = (
        "Lipman et al. 2022, arXiv:2210.02747; rectified flow: Liu et al. 2022, arXiv:2209.03003; the trace by draws: "
        "Grathwohl et al. 2018, arXiv:1810.01367"
    )
    takes: ClassVar[tuple[type, ...]] = (Real,)
    solved: ClassVar[bool] = True

    steps: Annotated[int, Ge(1), Le(10_000)] = 16
    """In how many steps of the classical Runge-Kutta method the way is gone, each of four network evaluations."""
    trace: Literal["exact", "hutchinson"] = "exact"
    """The divergence of v: along every number by itself, or along random directions, which leaves an estimate."""
    probes: Annotated[int, Ge(1), Le(1000)] = 1
    """Of hutchinson: along how many directions, the same all the way."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """Those that draw no noise on the way and need no chain."""
        return tuple(name for name in BY_NAME if name)

    def kind(self, slot: Slot) -> Kind:
        """Exact as far as the steps are fine; with random directions an estimate."""
        return Kind.EXACT if self.trace == "exact" else Kind.ESTIMATE

    def narrowed(self) -> FlowMatching:
        """With steps so fine that what they leave out is not seen."""
        return self.model_copy(update={"steps": max(16, self.steps)})

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The density in its slot."""
        assert isinstance(self.net, NetPart)
        return FlowMatchingDensity(slot.space, slot.condition, children["net"], self, self.net.steered, self.kind(slot))


class FlowMatchingDensity(TimedDensity):
    """What a field of velocities makes of N(0, I).

    Args:
        space: Of the data.
        condition: ``(context, ...)``; none for a density that stands alone.
        net: Gives what v differs by from the field that leaves N(0, I) as it is.
        options: Steps, trace.
        steered: Whether the network is told the time beside its input.
        kind: Exact, or an estimate.

    ``steps`` may be set to another number.
    """

    solved = True
    splits = ("volume", "noise")

    def __init__(
        self, space: Space, condition: Space | None, net: nn.Module, options: FlowMatching, steered: bool, kind: Kind
    ) -> None:
        super().__init__(space, condition, net, steered, kind)
        self.steps, self.probes = options.steps, options.probes

    def log_prob(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> Tensor:
        """Of each row, in nats; ``one_t`` asks for the divergence along one random direction."""
        found = self.split(x, c, mode)
        return found["volume"] + found["noise"]

    def split(self, x: Tensor, c: Tensor | None = None, mode: Mode = "path") -> dict[str, Tensor]:
        """By how much all that lies around x was drawn together on its way, and N(0, I) where that began."""
        # A graph of all steps would take the compiler minutes.
        ascend: Any = torch.compiler.disable(self._ascend)
        return ascend(x, c, mode)

    def _ascend(self, x: Tensor, c: Tensor | None, mode: Mode) -> dict[str, Tensor]:
        if mode == "one_t" or self.kind is Kind.ESTIMATE:
            probes = 1 if mode == "one_t" else self.probes
            along = torch.where(uniform((len(x), probes, *x.shape[1:]), x) < 0.5, -1.0, 1.0).to(x.dtype)
            along, share = along.transpose(0, 1), 1 / probes
        else:
            basis = torch.eye(self.latent.dim, dtype=x.dtype, device=x.device)
            along, share = basis.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape), 1.0

        def field(z: Tensor, t: float) -> tuple[Tensor, Tensor]:
            velocity, each = self._moved(z, t, c, along)
            return velocity, share * each

        # Minus the divergence from 0 to 1 is the divergence from 1 to 0.
        e, volume = solve(field, x, [i / self.steps for i in range(self.steps, -1, -1)], SOLVERS["rk4"])
        assert volume is not None
        return {"volume": volume, "noise": standard_log_prob(e)}

    def _moved(self, z: Tensor, t: float, c: Tensor | None, along: Tensor) -> tuple[Tensor, Tensor]:
        """v, and the sum of ``e . dv/dz e`` over the directions e, ``(directions, n, ...)``; ``(n,)``."""
        learns = torch.is_grad_enabled()
        # The quick kernels of attention have no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            z = z if z.requires_grad else z.detach().requires_grad_()
            velocity, total = self.velocity(z, z.new_full((len(z),), t), c), z.new_zeros(len(z))
            # Many directions at once, of which the norm of groups has no second derivative.
            for some in along.split(1 if learns else max(1, MOST // z.numel())):
                (back,) = torch.autograd.grad(
                    velocity, z, some[0] if learns else some, True, learns, is_grads_batched=not learns
                )
                total = total + (back * some).flatten(2).sum((0, 2))
        return (velocity, total) if learns else (velocity.detach(), total.detach())

    def velocity(self, z: Tensor, t: Tensor, c: Tensor | None = None) -> Tensor:
        """Where the points between noise and data are heading on average: ``E[data - noise | z]``, at times ``(n,)``.

        Of data from N(0, I) that is ``(2 t - 1) / r^2 z`` with ``r^2 = (1 - t)^2 + t^2``; the network gives the rest,
        in units of what is then left open.
        """
        r = torch.hypot(1 - t, t)
        rest = self.ask((z / over(r, z),), waves(t, 0, 4), c)
        return over((2 * t - 1) / (r * r), z) * z + rest / over(r, z)

    def denoising(self, x: Tensor, c: Tensor | None = None, at_most: float | None = None) -> Tensor:
        """``|data - noise - v|^2 / 2`` at a random time: conditional flow matching, which is no bound.

        ``at_most`` weighs it as what is missed of the data, up to that ratio of signal to noise.
        """
        t, e = self.time(x), standard_normal(x.shape, x)
        missed = x - e - self.velocity(torch.lerp(e, x, over(t, x)), t, c)
        weight = 0.5 if at_most is None else 0.5 * torch.minimum(t * t, at_most * (1 - t) ** 2)
        return weight * missed.square().flatten(1).sum(1)

    def sample(self, n: int, c: Tensor | None = None) -> Tensor:
        """Goes from noise to data in the steps that it is scored by."""
        return self.sample_as(n, c, AS_IT_IS)

    @torch.no_grad()
    def sample_as(self, n: int, c: Tensor | None = None, how: Drawing = AS_IT_IS) -> Tensor:
        """Goes in other steps (``ddim`` by Euler's method, ``heun`` by Heun's), or guided by the label.

        Raises:
            SpaceError: a sampler that draws noise on its way; or what only codes drawn one by one can be.
        """
        how.refuse("temperature", "top_k", "top_p", "known", "eta", by="a flow that is certain")
        if how.sampler not in BY_NAME:
            raise SpaceError(
                f"'{how.sampler}' walks down a chain of links, and this is a flow: wanted 'ddim' (Euler's method "
                "here), 'heun', or none for the steps that it is scored by."
            )
        descend: Any = torch.compiler.disable(self._descend)
        return descend(n, c, how)

    def _descend(self, n: int, c: Tensor | None, how: Drawing) -> Tensor:
        steps, conditions = how.steps or self.steps, how.conditions(c)

        def field(z: Tensor, t: float) -> tuple[Tensor, None]:
            many = torch.cat([z, z]) if how.passes == 2 else z
            v = self.velocity(many, z.new_full((len(many),), t), conditions)
            if how.passes == 2:
                given, without = v.chunk(2)
                v = torch.lerp(without, given, how.guidance)
            return v, None

        e = standard_normal((n, *self.latent.shape), self.like)
        x, _ = solve(field, e, [i / steps for i in range(steps + 1)], SOLVERS[BY_NAME[how.sampler]])
        return x
