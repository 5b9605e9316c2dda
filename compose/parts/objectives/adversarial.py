"""A critic beside the model: what comes up from the data and what comes down from the prior are to look alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from compose.core.declare import MAPPING, Misfit, ObjectivePart, Part, Slot, as_real, in_module, part_field
from compose.core.kinds import Kind
from compose.core.objective import Loss, Objective
from compose.core.optimizer import Optimizer
from compose.core.random import standard_normal, uniform
from compose.core.roles import labelled, stages_of, with_label
from compose.core.spaces import Codes, Real, Space
from compose.core.terms import Ledger

Link = Callable[[Tensor], Tensor]


class Adversarial(ObjectivePart):
    """A critic learns to tell the two sides of an edge apart, and the model to make them alike.

    At ``x`` data come up and samples come down, which trains what generates: a GAN, or with an ELBO beside it a
    VAE-GAN. At ``z1`` draws of the posterior come up and draws of the prior come down, which trains what infers: with
    reconstructions in place of the rates, an adversarial autoencoder.
    """

    type: ClassVar[str] = "adversarial"
    source: ClassVar[str] = (
        "Goodfellow et al. 2014, arXiv:1406.2661; VAE-GAN: Larsen et al. 2016, arXiv:1512.09300; AAE: Makhzani et al. "
        "2016, arXiv:1511.05644; patches: Isola et al. 2017, arXiv:1611.07004; hinge: Lim and Ye 2017, "
        "arXiv:1705.02894; paired: Jolicoeur-Martineau 2019, arXiv:1807.00734, with R1 and R2: Huang et al. 2025, "
        "arXiv:2501.05441; Wasserstein: Gulrajani et al. 2017, arXiv:1704.00028; R1: Mescheder et al. 2018, "
        "arXiv:1801.04406; spectral norm: Miyato et al. 2018, arXiv:1802.05957; pac: Lin et al. 2018, "
        "arXiv:1712.04086; noise: Arjovsky and Bottou 2017, arXiv:1701.04862; adaptive weight: Esser et al. 2021, "
        "arXiv:2012.09841"
    )
    one_sided: ClassVar[bool] = True

    at: str = "x"
    """The edge whose two sides are told apart: x, z1, ..."""
    critic: part_field("net") = "mlp"  # type: ignore[valid-type]
    """Maps an item of that edge to one number; for images 'conv'."""
    patch: Annotated[int, Ge(0), Le(8)] = 0
    """Judge patches of an image, one for each cell of the grid halved so often; 0 for one verdict. For a 'conv'."""
    loss: Literal["non_saturating", "hinge", "wasserstein"] = "non_saturating"
    """On what the critic says: logistic, margins, or as it is."""
    paired: bool = False
    """Compare each item that is real with one that is not, rather than each with 0."""
    r1: Annotated[float, Ge(0)] = 0.0
    """Weight of half the squared gradient of the critic at what is real."""
    r2: Annotated[float, Ge(0)] = 0.0
    """The same at what is not."""
    gradient_penalty: Annotated[float, Ge(0)] = 0.0
    """Weight of (norm of the gradient - 1)^2 on lines between the two; with Wasserstein usually 10."""
    spectral_norm: bool = False
    """Divide each of the critic's matrices by its largest singular value."""
    pac: Annotated[int, Ge(1), Le(64)] = 1
    """How many items the critic sees at once; has to divide the batch."""
    noise: Annotated[float, Ge(0)] = 0.0
    """Standard deviation of noise that is added to all that the critic sees."""
    of: Literal["samples", "reconstructions"] = "samples"
    """What the critic tells from data at x: what comes down from the prior, or data that went up and down again."""
    features: Annotated[float, Ge(0)] = 0.0
    """Weight of half the squared distance of data and reconstructions in the critic's last hidden layer; at x."""
    adaptive: bool = False
    """Multiply its weight by the ratio of gradients at the decoder's last layer: the other objectives' by its own."""
    steps: Annotated[int, Ge(1), Le(100)] = 1
    """Steps of the critic before each of the model."""
    optimizer: Annotated[Optimizer, MAPPING] = Optimizer(betas=[0.0, 0.99])
    """How the critic descends."""

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """The edge is there, and a gradient leads to one of its sides."""
        if slot.batch is not None and slot.batch % self.pac:
            yield Misfit(
                f"the critic is to see {self.pac} items at once, and a batch of {slot.batch} is no multiple of that.",
                key="pac",
                swap=False,
            )
        edges = list(_edges(slot))
        if self.at not in edges:
            yield Misfit(f"there is no edge {self.at!r}; there is: {', '.join(edges)}.", key="at", swap=False)
            return
        index = edges.index(self.at)
        stages = stages_of(slot)
        if not stages:
            yield Misfit(f"'{self.type}' trains the stages of a model, and this one has none.", swap=False)
            return
        item = _edges(slot)[self.at]
        if isinstance(item, Codes) and index:
            yield Misfit(f"'{self.type}' needs a gradient, and none leads to codes at {self.at}.", key="at", swap=False)
            return
        if self.patch and len(item.shape) < 3:
            yield Misfit(f"patches are of images, and at {self.at} there is {item}.", key="patch", swap=False)
        back = index or any(stage.kind(place) is Kind.NONE for stage, place in stages)
        why = f"those are at x, and the critic at {self.at}" if index else "no way leads up through this model"
        for key, wanted in (("features", bool(self.features)), ("of", self.of == "reconstructions")):
            if back and wanted:
                yield Misfit(f"'{key}' sets data beside their reconstructions; {why}.", key=key, swap=False)
                return
        for i, (stage, place) in enumerate(stages):
            if i >= index and not stage.descends:
                yield Misfit(
                    f"'{self.type}' at {self.at} needs a gradient on the way down, and stage {i + 1}, "
                    f"'{stage.type}', gives none.",
                    key="at",
                    swap=False,
                )
            if i > index and isinstance(place.space, Codes):
                yield Misfit(
                    f"'{self.type}' at {self.at} needs a gradient on the way down, and none leads through the codes "
                    f"that stage {i}, '{stages[i - 1][0].type}', gives.",
                    key="at",
                    swap=False,
                )
            if i < index and stage.kind(place) is Kind.NONE:
                yield Misfit(
                    f"'{self.type}' at {self.at} looks at what comes up, and no way leads up through stage {i + 1}, "
                    f"'{stage.type}'; at x it would do.",
                    key="at",
                    swap=False,
                )

        stage, way = _balanced(slot, index)
        if self.adaptive and not way:
            yield Misfit(
                f"'adaptive' weighs by the last layer of the net that the way {'up' if index else 'down'} ends in, and "
                f"through stage {stage + 1}, '{stages[stage][0].type}', it ends in none; set 'weight' by hand.",
                key="adaptive",
                swap=False,
            )

    @property
    def reaches(self) -> tuple[str, ...]:
        """The stages, and where samples are judged the prior that they come from."""
        return ("stages",) if self.at == "x" and self.of == "reconstructions" else super().reaches

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """The critic sees ``pac`` items joined on their first axis, and the label of each."""
        edges = _edges(slot)
        item = labelled(as_real(edges.get(self.at, slot.space)), slot.labels)
        joined = Real((self.pac * item.shape[0], *item.shape[1:])) if item.shape else item
        grid = [math.ceil(side / 2**self.patch) for side in joined.shape[-2:]] if self.patch else []
        verdict = Real((1, *grid)) if len(joined.shape) > 2 else Real((1,))
        return {"critic": (self.critic, Slot("net", verdict, joined, origin=f"edge {self.at} gives"))}

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The objective around its critic."""
        index = list(_edges(slot)).index(self.at)
        stage, net = _balanced(slot, index)
        at = f"stages.{stage}.{in_module(net)}" if self.adaptive else ""
        return AdversarialObjective(self, children["critic"], index, slot.labels, at)


def _balanced(slot: Slot, edge: int) -> tuple[int, str]:
    """The stage through which the trained side comes to an edge, and in it the net that this way ends in; or ''."""
    stage = max(0, edge - 1)
    up, down = stages_of(slot)[stage][0].last_nets()
    return stage, up if edge else down


def _edges(slot: Slot) -> dict[str, Space]:
    """The space of every edge between stages, from the data upward."""
    stages = stages_of(slot)
    return {"x": slot.space, **{f"z{i}": stage.above(place.space) for i, (stage, place) in enumerate(stages, 1)}}


class AdversarialObjective(Objective):
    """A critic, what it minimises, and what it makes the model minimise.

    In the formulas ``d`` is what the critic says: ``d(real) - d(fake)`` of pairs, else ``d(real)`` and ``-d(fake)``.
    The critic minimises the mean of ``link(d)``; the model, of whose items alone the gradient is taken, ``link(-d)``.

    Args:
        options: Loss, penalties, and how the critic descends.
        critic: Maps ``pac`` joined items to one number.
        edge: Index of the edge.
        labels: Space of the class label; none where there is none.
        at: Path in the model of the net at whose last matrix it is balanced; '' where it is not.
    """

    def __init__(self, options: Adversarial, critic: nn.Module, edge: int, labels: Codes | None, at: str = "") -> None:
        super().__init__()
        self.options, self.edge, self.labels, self.at = options, edge, labels, at
        self.critic = _normed(critic) if options.spectral_norm else critic
        self.rival, self.rival_steps = options.optimizer, options.steps
        self.rival_name, self.balanced = f"{options.at}.critic", options.adaptive
        self.link = _LINKS[options.loss]

    def forward(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """What it costs the model that the critic tells its items apart."""
        real, fake = self._seen(model, x, c)
        against = self._says(real).detach() if self.options.paired else 0.0
        cost = self._fooled(self._says(fake) - against)
        value, penalties = cost.mean(), {f"{self.options.at}.adversarial": cost}
        if self.options.features:
            there, back = (self._hidden(self._prepared(item, c)) for item in model(x, c, call="mirror"))
            apart = 0.5 * (there.detach() - back).square().flatten(1).sum(1)
            value, penalties[f"{self.options.at}.features"] = value + self.options.features * apart.mean(), apart
        return Loss(value, Ledger({}, penalties, {}))

    def rival_loss(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """What the critic minimises: how badly it tells the two apart, and what bounds its slope."""
        options = self.options
        with torch.no_grad():
            real, fake = self._seen(model, x, c)
        real, fake = real.requires_grad_(options.r1 > 0), fake.requires_grad_(options.r2 > 0)
        up, down = self._says(real), self._says(fake)
        if options.paired:
            value, right = self.link(up - down).mean(), (up > down).float().mean()
        else:
            value = self.link(up).mean() + self.link(-down).mean()
            right = 0.5 * ((up > 0).float().mean() + (down < 0).float().mean())
        found = {"critic": value.detach(), "critic accuracy": right}
        for name, weight, said, seen in (("r1", options.r1, up, real), ("r2", options.r2, down, fake)):
            if weight:
                squared = _slope(said, seen).square().flatten(1).sum(1).mean()
                value = value + 0.5 * weight * squared
                found[name] = squared.detach()
        if options.gradient_penalty:
            between = self._between(real, fake)
            norm = _slope(self._says(between), between).flatten(1).norm(dim=1)
            value = value + options.gradient_penalty * (norm - 1).square().mean()
            found["slope"] = norm.detach().mean()
        return Loss(value, Ledger({}, {}, {f"{options.at}.{name}": each for name, each in found.items()}))

    def balanced_at(self, model: nn.Module) -> Tensor:
        """The last matrix on the way down to the edge; up to it, on the way up."""
        return [value for value in model.get_submodule(self.at).parameters() if value.dim() > 1][-1]

    def _seen(self, model: Any, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is real and what the model makes of it: at the data samples, above them draws of the posterior."""
        if self.options.of == "reconstructions":
            up, down = model(x, c, call="mirror")
        else:
            up, down = model(x, c, call="meet", edge=self.edge)
        real, fake = (down, up) if self.edge else (up, down)
        return self._prepared(real.detach(), c), self._prepared(fake, c)

    def _prepared(self, item: Tensor, c: Tensor | None) -> Tensor:
        """With noise and label, ``pac`` of them joined; in the critic's precision, whatever the wrapper made of it."""
        item = item.to(next(self.critic.parameters()).dtype)
        if self.options.noise:
            item = item + self.options.noise * standard_normal(item.shape, item)
        item = with_label(item, c, self.labels)
        return item if self.options.pac == 1 else rearrange(item, "(b p) c ... -> b (p c) ...", p=self.options.pac)

    def _says(self, item: Tensor) -> Tensor:
        return self.critic(item).flatten()

    def _hidden(self, item: Tensor) -> Tensor:
        """What the last layer of the critic is given."""
        last = [module for module in self.critic.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
        seen: list[Tensor] = []
        handle = last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            self.critic(item)
        finally:
            handle.remove()
        return seen[-1]

    def _fooled(self, d: Tensor) -> Tensor:
        """What the model pays; a margin is the critic's affair."""
        return functional.softplus(-d) if self.options.loss == "non_saturating" else -d

    def _between(self, real: Tensor, fake: Tensor) -> Tensor:
        share = uniform((len(real), *[1] * (real.dim() - 1)), real)
        return (share * real + (1 - share) * fake).detach().requires_grad_()


_LINKS: dict[str, Link] = {
    "non_saturating": lambda d: functional.softplus(-d),
    "hinge": lambda d: functional.relu(1 - d),
    "wasserstein": lambda d: -d,
}


def _slope(said: Tensor, item: Tensor) -> Tensor:
    """The gradient of what the critic says by each item, itself with a gradient."""
    return torch.autograd.grad(said.sum(), item, create_graph=True)[0]


def _normed(critic: nn.Module) -> nn.Module:
    for module in critic.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            spectral_norm(module)
    return critic
