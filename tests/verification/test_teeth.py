"""Faults planted in the real parts, one at a time: the right check speaks, in every recipe where the fault applies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from compose.recipe.check import load_recipe
from compose.recipe.recipe import Recipe
from compose.verification import Finding, verify
from tests.absent import skip_where_absent
from tests.verification.mutate import mutated

MAF = "model.prior={type: flow, transform: maf, layers: 2}"
BIJECTION = "model.stages={type: bijection, transform: affine_coupling}"
PIXEL_FLOW = "model.stages=[dequantize, {type: bijection, transform: affine_coupling, layers: 2}]"
CODED = ("model.stages.0.likelihood=categorical", "model.stages.0.decoder.activation=silu")
ROTARY = "{stages: [], prior: {type: autoregressive, positions: rotary}}"
THIN = "model.prior.net={type: resmlp, width: 16, blocks: 1}"
#: Recipes by nickname: a shipped one and the changes to it.
RECIPES: dict[str, tuple[str, ...]] = {
    "vae": ("vae",),
    "flow prior": ("vae_flow_prior",),
    "flow posterior": ("vae_flow_posterior",),
    "vamp": ("vae_vamp",),
    "mixture": ("vae_mixture",),
    "hvae": ("hvae",),
    "mhvae": ("mhvae",),
    "shared mhvae": ("mhvae", "model.stages.0.shared=true"),
    "categorical mhvae": ("mhvae", "model.stages.0.likelihood=categorical"),
    "fashion": ("fashion/vae",),
    "fashion flow": ("fashion/vae_flow_prior",),
    "fashion vamp": ("fashion/vae_vamp",),
    "maf prior": ("vae", MAF),
    "maf posterior": ("vae", "model.stages.0.posterior={type: flow, transform: maf, layers: 2}"),
    "categorical": ("vae", "model.stages.0.likelihood=categorical"),
    "categorical hvae": ("hvae", "model.stages.0.likelihood=categorical"),
    "categorical mixture": ("vae_mixture", "model.stages.0.likelihood=categorical"),
    "flow": ("vae", PIXEL_FLOW),
    "flow on a mixture": ("vae_mixture", PIXEL_FLOW),
    "maf on pixels": ("vae", "model.stages=[dequantize, {type: bijection, transform: maf, layers: 2}]"),
    "image flow": ("flow",),
    "augmented flow": ("flow_augmented",),
    "augmented pixels": ("vae", "model.stages=[dequantize, augment, {type: bijection, transform: affine_coupling}]"),
    "augmented latents": ("vae", "model.stages=[latent, augment, {type: bijection, transform: affine_coupling}]"),
    "fashion image flow": ("fashion/flow",),
    "pixels": ("vae", "model={stages: [], prior: {type: autoregressive}}", "train.0.objective=maximum_likelihood"),
    "convolved pixels": (
        "vae",
        "model={stages: [], prior: {type: autoregressive, network: causal_conv}}",
        "train.0.objective=maximum_likelihood",
    ),
    "binary pixels": (
        "fashion/vae",
        "model={stages: [], prior: {type: autoregressive}}",
        "train.0.objective=maximum_likelihood",
    ),
    "masked pixels": ("vae", "model={stages: [], prior: {type: masked}}"),
    # A dead unit in a net of four would hide what codes are decoded to.
    "codes": ("vqvae", *CODED),
    "scalar codes": ("vqvae_fsq", "model.prior=categorical", *CODED),
    "cosine codes": ("vqvae", "model.stages.0.quantizer.cosine=true", *CODED),
    "sign codes": ("vqvae", "model.stages.0.quantizer=lfq", *CODED),
    "masked binary pixels": ("fashion/vae", "model={stages: [], prior: {type: masked}}", "train.0.objective.warmup=0"),
    "masked grey pixels": ("fashion/flow", "model={stages: [], prior: {type: masked}}"),
    "diffusion": ("diffusion", THIN),
    "plain diffusion": ("diffusion", THIN, "model.prior.variance=posterior"),
    "cosine diffusion": ("diffusion", THIN, "model.prior.variance=posterior", "model.prior.schedule=cosine"),
    "diffusion of x": ("diffusion", THIN, "model.prior.variance=posterior", "model.prior.prediction=x0"),
    "latent diffusion": ("latent_diffusion",),
    "toy diffusion": ("diffusion_toy",),
    "flow matching": ("flow_matching",),
    "toy flow matching": ("flow_matching", "data={type: toy}", "model.stages=[standardize]"),
    "binary flow matching": ("flow_matching", "data={type: fashion_mnist, binarize: true}"),
    "latent flow matching": ("flow_matching", "model.stages=[latent]"),
    "pixelvae": ("vae", "model.stages.0.likelihood=autoregressive"),
    "convolved pixelvae": ("vae", "model.stages.0.likelihood={type: autoregressive, network: causal_conv}"),
    "rotary pixels": ("vae", f"model={ROTARY}", "train.0.objective=maximum_likelihood"),
    "rotary binary pixels": ("fashion/vae", f"model={ROTARY}", "train.0.objective=maximum_likelihood"),
    "rotary pixelvae": ("vae", "model.stages.0.likelihood={type: autoregressive, positions: rotary}"),
    "convolved binary pixels": (
        "fashion/vae",
        "model={stages: [], prior: {type: autoregressive, network: causal_conv}}",
        "train.0.objective=maximum_likelihood",
    ),
}


class Fault(NamedTuple):
    """A fault to plant.

    Args:
        what: In words.
        module: Where.
        old: Source that stands there once.
        new: What is put in its place.
        speaks: The check that must fail.
        recipes: Where it applies.
    """

    what: str
    module: str
    old: str
    new: str
    speaks: str
    recipes: tuple[str, ...]


ANY = ("vae", "flow prior", "hvae", "mhvae", "mixture", "fashion")
FLOWS = ("flow", "flow on a mixture", "maf on pixels")
IMAGE_FLOWS = ("image flow", "augmented flow", "fashion image flow")
PIXELS = ("pixels", "binary pixels", "pixelvae")
CONVOLVED = ("convolved pixels", "convolved binary pixels", "convolved pixelvae")
PARTS = "compose.parts."
FAULTS = (
    Fault(
        "a leaking mask",
        "compose.nets.autoregressive",
        "self.last = MaskedLinear(seen, torch.arange(dim).repeat(2))",
        "self.last = MaskedLinear(seen, torch.arange(dim).repeat(2) + 1)",
        "total mass",
        ("maf prior", "fashion flow", "maf on pixels"),
    ),
    Fault(
        "mean for sum over dimensions, in the likelihood",
        PARTS + "densities.discretized_logistic",
        "return mass.flatten(1).sum(1)",
        "return mass.flatten(1).mean(1)",
        "total mass",
        ("vae", "flow prior", "hvae", "mixture"),
    ),
    Fault(
        "mean for sum over dimensions, in the prior",
        PARTS + "densities.normal",
        "torch.add(self.minus, (x * x).sum(self.axes), alpha=-0.5)",
        "torch.add(self.minus, (x * x).mean(self.axes), alpha=-0.5)",
        "total mass",
        ("vae", "fashion", "flow posterior"),
    ),
    Fault(
        "a dropped log-det, in the flow density",
        PARTS + "densities.flow",
        "0.5 * LOG_2PI * self.dim + log_det",
        "0.5 * LOG_2PI * self.dim",
        "total mass",
        ("flow prior", "maf prior", "fashion flow prior"),
    ),
    Fault(
        "a dropped log-det, in the bijection",
        PARTS + "stages.bijection",
        '{"log_det": log_det}',
        '{"log_det": 0 * log_det}',
        "log dets",
        (*FLOWS, "fashion flow"),
    ),
    Fault(
        "a dropped -log q",
        "compose.core.roles",
        "return z, -log_q, None",
        "return z, 0 * log_q, None",
        "total mass",
        ANY,
    ),
    Fault(
        "a chain's latents between are not scored",
        PARTS + "stages.chain",
        "terms |= {name: log_p}",
        "terms |= {name: 0 * log_p if i else log_p}",
        "total mass",
        ("mhvae", "shared mhvae", "categorical mhvae"),
    ),
    Fault(
        "a prior term left out",
        "compose.core.model",
        "if penalties:\n",
        "terms[f'{edge}.log_prior'] *= 0\n            if penalties:\n",
        "total mass",
        (*ANY, "flow"),
    ),
    Fault(
        "a wrong sign in the KL",
        "compose.core.gaussians",
        "return self.log_scale.flatten(1).sum(1)",
        "return -self.log_scale.flatten(1).sum(1)",
        "closed forms",
        ("vae", "fashion", "hvae"),
    ),
    Fault(
        "a wrong end level in the discretised logistic",
        PARTS + "densities.discretized_logistic",
        "(x == self.levels - 1)[:, None]",
        "(x == self.levels - 2)[:, None]",
        "total mass",
        ("vae", "flow prior", "hvae", "mixture"),
    ),
    Fault(
        "batch statistics",
        "compose.nets.mlp",
        "y = x if x.dim() == 2",
        "y = x - x.mean(0) if x.dim() == 2",
        "rows",
        ANY,
    ),
    Fault(
        "a dead parameter",
        PARTS + "densities.mixture",
        "torch.log_softmax(raw, -1)",
        "torch.log_softmax(raw.detach(), -1)",
        "gradients",
        ("mixture", "fashion flow", "flow on a mixture"),
    ),
    Fault(
        "a likelihood that is not normalised",
        PARTS + "densities.categorical",
        '-functional.cross_entropy(logits, x.long(), reduction="none")',
        "logits.gather(1, x.long()[:, None])[:, 0]",
        "total mass",
        ("categorical", "categorical hvae", "categorical mixture"),
    ),
    Fault(
        "K = 1 reported as K = 500",
        "compose.run.evaluate",
        "nll = math.log(samples) - log_sum if",
        "nll = -total / samples if",
        "importance weighting",
        ANY,
    ),
    Fault(
        "half-open dequantisation",
        PARTS + "stages.dequantize",
        "k = x.to(u.dtype)",
        "k, u = x.to(u.dtype), u / 2",
        "total mass",
        FLOWS,
    ),
    Fault(
        "samples from another distribution than is scored",
        PARTS + "densities.discretized_logistic",
        "value = loc + scale * torch.logit(u)",
        "value = loc + 2 * scale * torch.logit(u)",
        "samples",
        ("vae", "flow prior", "hvae", "mixture"),
    ),
    Fault(
        "an inverse that does not invert",
        "compose.nets.autoregressive",
        "(inputs[:, i : i + 1] - shift) * (-log_scale).exp()",
        "(inputs[:, i : i + 1] + shift) * (-log_scale).exp()",
        "round trip",
        ("maf on pixels", "fashion flow", "fashion pixels"),
    ),
    Fault(
        "noise in training mode alone",
        "compose.nets.mlp",
        "y = x if x.dim() == 2",
        "y = (1.1 * x if self.training else x) if x.dim() == 2",
        "training mode",
        ANY,
    ),
    Fault(
        "an inexact posterior let in",
        "compose.core.roles",
        "if kind is not Kind.EXACT:",
        "if kind is None:",
        "polarity",
        ("vae", "flow prior", "fashion"),
    ),
    Fault(
        "what splits off is not scored",
        PARTS + "stages.split",
        'Step(a, {"log_likelihood": log_p}',
        'Step(a, {"log_likelihood": 0 * log_p}',
        "total mass",
        IMAGE_FLOWS,
    ),
    Fault(
        "augmented noise is not paid for",
        PARTS + "stages.augment",
        '{"minus_log_q": -log_q}',
        '{"minus_log_q": 0 * log_q}',
        "total mass",
        ("augmented flow", "augmented pixels", "augmented latents"),
    ),
    Fault(
        "learned dequantisation is not paid for",
        PARTS + "stages.dequantize",
        "(log_u + log_rest).sum(self.axes) - log_q",
        "(log_u + log_rest).sum(self.axes) - 0 * log_q",
        "total mass",
        IMAGE_FLOWS,
    ),
    Fault(
        "the volume of learned noise forgotten",
        PARTS + "stages.dequantize",
        "(log_u + log_rest).sum(self.axes) - log_q",
        "0 * (log_u + log_rest).sum(self.axes) - log_q",
        "total mass",
        IMAGE_FLOWS,
    ),
    Fault(
        "actnorm counts one pixel",
        "compose.nets.channels",
        "self.log_scale.sum() * _pixels(x)",
        "self.log_scale.sum()",
        "log dets",
        IMAGE_FLOWS,
    ),
    Fault(
        "a posterior's scale left out of its density",
        PARTS + "densities.normal",
        "return loc + scale * noise, self.minus - (0.5 * noise * noise + log_scale).sum(self.axes)",
        "return loc + scale * noise, self.minus - (0.5 * noise * noise).sum(self.axes)",
        "pyro",
        ANY,
    ),
    Fault(
        "attention to what comes later",
        "compose.nets.causal",
        "q, k, v, is_causal=self.causal",
        "q, k, v, is_causal=False",
        "total mass",
        PIXELS,
    ),
    Fault(
        "a convolution over the code itself",
        PARTS + "densities.autoregressive",
        "self.codes(tokens[:, :-1]), (0, 0, 1, 0)",
        "self.codes(tokens[:, 1:]), (0, 0, 0, 1)",
        "total mass",
        CONVOLVED,
    ),
    Fault(
        "a cache that is read a place short",
        "compose.nets.causal",
        "attention(q, keys, values, attn_mask=hidden)",
        "attention(q, keys, values.roll(1, 2), attn_mask=hidden)",
        "cached",
        PIXELS,
    ),
    Fault(
        "a cache in which what is yet to come is seen",
        "compose.nets.causal",
        "masked_fill(later, -torch.inf)",
        "masked_fill(later, 0.0)",
        "cached",
        PIXELS,
    ),
    Fault(
        "keys kept as if each came first",
        "compose.nets.causal",
        "turn, hidden = self._turn(i, i + 1, h)",
        "turn, hidden = self._turn(0, 1, h)",
        "cached",
        ("rotary pixels", "rotary binary pixels", "rotary pixelvae"),
    ),
    Fault(
        "a cache that forgets the row above",
        "compose.nets.causal",
        "rows = above[:, :, max(0, end - self.kernel) : end]",
        "rows = 0 * above[:, :, max(0, end - self.kernel) : end]",
        "cached",
        CONVOLVED,
    ),
    Fault(
        "codes decoded from other vectors than they were scored with",
        PARTS + "stages.codes",
        "return self.likelihood, self._features(self.quantizer.vectors(z), c)",
        "return self.likelihood, self._features(0 * self.quantizer.vectors(z), c)",
        "one likelihood",
        ("codes", "scalar codes", "sign codes"),
    ),
    Fault(
        "samples decoded from one code alone",
        PARTS + "stages.codes",
        "return self.likelihood.sample(z.shape[0], self.down(z, c)[1])",
        "return self.likelihood.sample(z.shape[0], self.down(0 * z, c)[1])",
        "samples",
        ("codes", "cosine codes", "sign codes"),
    ),
    Fault(
        "a mask counts for itself alone",
        PARTS + "densities.masked",
        "return -(each * masked).sum(1) * dim / count[:, 0]",
        "return -(each * masked).sum(1)",
        "total mass",
        ("masked pixels", "masked binary pixels", "masked grey pixels"),
    ),
    Fault(
        "the last latent of a diffusion is not paid for",
        PARTS + "densities.diffusion",
        "prior = (0.5 * (noise * noise - z * z) + scale[-1].log()).flatten(1).sum(1)",
        "prior = 0 * (0.5 * (noise * noise - z * z) + scale[-1].log()).flatten(1).sum(1)",
        "total mass",
        ("diffusion", "plain diffusion", "cosine diffusion"),
    ),
    Fault(
        "a link of a diffusion costs half",
        PARTS + "densities.diffusion",
        "e * off + 0.5 * off * off",
        "e * off + 0.25 * off * off",
        "total mass",
        ("plain diffusion", "cosine diffusion", "diffusion of x"),
    ),
    Fault(
        "a link of the chain scored without its scale",
        "compose.core.links",
        "- scale.log() - 0.5 * LOG_2PI",
        "- 0 * scale.log() - 0.5 * LOG_2PI",
        "pyro",
        ("diffusion", "latent diffusion", "toy diffusion"),
    ),
    Fault(
        "the volume along a flow counts half",
        PARTS + "densities.flow_matching",
        'return {"volume": volume,',
        'return {"volume": 0.5 * volume,',
        "total mass",
        ("toy flow matching", "flow matching", "latent flow matching"),
    ),
    Fault(
        "a flow that is drawn to half of its time",
        PARTS + "densities.flow_matching",
        "[i / steps for i in range(steps + 1)]",
        "[i / steps for i in range(steps // 2 + 1)]",
        "samples",
        ("toy flow matching", "flow matching", "binary flow matching"),
    ),
)
RECIPES["fashion flow prior"] = ("fashion/vae", MAF)
RECIPES["fashion pixels"] = (
    "fashion/vae",
    "model.stages=[dequantize, {type: bijection, transform: maf, layers: 1}]",
)


def test_every_fault_is_planted_in_three_recipes():
    assert all(len(fault.recipes) >= 3 for fault in FAULTS)
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)


def test_the_page_lists_what_is_planted():
    page = (Path(__file__).parents[2] / "docs/verify.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", page[page.index("| fault |") :], re.MULTILINE)
    assert rows[1:] == [(fault.what, ", ".join(fault.recipes), fault.speaks) for fault in FAULTS]


#: Their sums take most of a minute each.
LONG = {"what splits off is not scored", "the volume of learned noise forgotten"}
#: Faults that these checks find stand for all others among the quick ones.
QUICK = {"closed forms", "rows", "polarity", "gradients", "log dets"}


def plantings() -> Iterator[Any]:
    """Each fault in each of its recipes: all but the first of these are slow, and most of the first long."""
    for fault in FAULTS:
        for name in fault.recipes:
            slow = fault.what in LONG or name != fault.recipes[0]
            speed = pytest.mark.slow if slow else () if fault.speaks in QUICK else pytest.mark.long
            yield pytest.param(fault, name, id=f"{fault.what}, {name}", marks=speed)


@pytest.mark.parametrize(("fault", "name"), list(plantings()))
def test_the_right_check_speaks(fault: Fault, name: str):
    def failures(recipe: Recipe) -> list[Finding]:
        found = verify(recipe, only=[fault.speaks]).findings[fault.speaks]
        assert found and not any(each.of == "the check itself" for each in found), found
        return [each for each in found if each.verdict == "FAILED"]

    shipped, *changes = RECIPES[name]
    skip_where_absent(shipped, changes)
    recipe = load_recipe(shipped, changes)
    with mutated(fault.module, fault.old, fault.new):
        assert failures(recipe), f"{fault.what} in {name} goes unseen"
    assert not failures(recipe), f"without {fault.what}, {name} holds"
