"""Hybrid generative models as recipes: parts that fit, bounds in nats, numbers that compare.

Everything here is imported when it is first asked for, so ``import compose`` is quick and brings no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compose.ablation.compare import compare
    from compose.ablation.study import ablate, report
    from compose.ablation.swap import swap
    from compose.core.declare import DataPart, Misfit, NetPart, ObjectivePart, Slot
    from compose.core.drawing import Drawing
    from compose.core.errors import ComposeError, RecipeError
    from compose.core.kinds import Kind
    from compose.core.optimizer import Optimizer
    from compose.core.registry import load_plugin, register
    from compose.core.roles import Density, DensityPart, Stage, StagePart, Step
    from compose.core.spaces import Codes, Real
    from compose.data.arrays import Arrays
    from compose.data.digits import Digits
    from compose.data.idx import FashionMNIST, Idx
    from compose.data.image_folder import ImageFolder
    from compose.data.photographs import Photographs
    from compose.data.stacked import Stacked
    from compose.data.toy import Toy
    from compose.nets.conv import Conv
    from compose.nets.mlp import MLP
    from compose.nets.resmlp import ResMLP
    from compose.nets.transformer import Transformer
    from compose.nets.unet import UNet
    from compose.nets.wrap import Wrap, module
    from compose.parts.densities.autoregressive import Autoregressive
    from compose.parts.densities.bernoulli import Bernoulli
    from compose.parts.densities.categorical import Categorical
    from compose.parts.densities.diffusion import Diffusion
    from compose.parts.densities.discretized_logistic import DiscretizedLogistic
    from compose.parts.densities.flow import Flow
    from compose.parts.densities.flow_matching import FlowMatching
    from compose.parts.densities.mixture import Mixture
    from compose.parts.densities.model import Model
    from compose.parts.densities.normal import Normal
    from compose.parts.densities.vamp import Vamp
    from compose.parts.objectives.adversarial import Adversarial
    from compose.parts.objectives.denoising import Denoising
    from compose.parts.objectives.elbo import ELBO
    from compose.parts.objectives.iwae import IWAE
    from compose.parts.objectives.maximum_likelihood import MaximumLikelihood
    from compose.parts.stages.augment import Augment
    from compose.parts.stages.bijection import Bijection
    from compose.parts.stages.chain import Chain
    from compose.parts.stages.coupling import Coupling
    from compose.parts.stages.dequantize import Dequantize
    from compose.parts.stages.generator import Generator
    from compose.parts.stages.ladder import Ladder
    from compose.parts.stages.latent import Latent
    from compose.parts.stages.split import Split
    from compose.parts.stages.squeeze import Squeeze
    from compose.parts.stages.standardize import Standardize
    from compose.recipe.build import build
    from compose.recipe.check import check, load_recipe
    from compose.recipe.fits import fits
    from compose.recipe.recipe import Evaluation, Phase, Player, Recipe, Term
    from compose.run.directory import load
    from compose.run.evaluate import evaluate
    from compose.run.sample import complete, sample
    from compose.run.train import train
    from compose.verification import verify, verify_all

#: Where each public name lives.
_HOMES = {
    "compose.core.declare": ("DataPart", "Misfit", "NetPart", "ObjectivePart", "Slot"),
    "compose.core.errors": ("ComposeError", "RecipeError"),
    "compose.core.kinds": ("Kind",),
    "compose.core.optimizer": ("Optimizer",),
    "compose.core.registry": ("load_plugin", "register"),
    "compose.core.drawing": ("Drawing",),
    "compose.core.roles": ("Density", "DensityPart", "Stage", "StagePart", "Step"),
    "compose.core.spaces": ("Codes", "Real"),
    "compose.data.arrays": ("Arrays",),
    "compose.data.digits": ("Digits",),
    "compose.data.idx": ("FashionMNIST", "Idx"),
    "compose.data.image_folder": ("ImageFolder",),
    "compose.data.photographs": ("Photographs",),
    "compose.data.stacked": ("Stacked",),
    "compose.data.toy": ("Toy",),
    "compose.nets.conv": ("Conv",),
    "compose.nets.mlp": ("MLP",),
    "compose.nets.resmlp": ("ResMLP",),
    "compose.nets.transformer": ("Transformer",),
    "compose.nets.unet": ("UNet",),
    "compose.nets.wrap": ("Wrap", "module"),
    "compose.parts.densities.autoregressive": ("Autoregressive",),
    "compose.parts.densities.bernoulli": ("Bernoulli",),
    "compose.parts.densities.categorical": ("Categorical",),
    "compose.parts.densities.diffusion": ("Diffusion",),
    "compose.parts.densities.discretized_logistic": ("DiscretizedLogistic",),
    "compose.parts.densities.flow": ("Flow",),
    "compose.parts.densities.flow_matching": ("FlowMatching",),
    "compose.parts.densities.mixture": ("Mixture",),
    "compose.parts.densities.model": ("Model",),
    "compose.parts.densities.normal": ("Normal",),
    "compose.parts.densities.vamp": ("Vamp",),
    "compose.parts.objectives.adversarial": ("Adversarial",),
    "compose.parts.objectives.denoising": ("Denoising",),
    "compose.parts.objectives.elbo": ("ELBO",),
    "compose.parts.objectives.iwae": ("IWAE",),
    "compose.parts.objectives.maximum_likelihood": ("MaximumLikelihood",),
    "compose.parts.stages.augment": ("Augment",),
    "compose.parts.stages.bijection": ("Bijection",),
    "compose.parts.stages.coupling": ("Coupling",),
    "compose.parts.stages.dequantize": ("Dequantize",),
    "compose.parts.stages.generator": ("Generator",),
    "compose.parts.stages.chain": ("Chain",),
    "compose.parts.stages.ladder": ("Ladder",),
    "compose.parts.stages.latent": ("Latent",),
    "compose.parts.stages.split": ("Split",),
    "compose.parts.stages.squeeze": ("Squeeze",),
    "compose.parts.stages.standardize": ("Standardize",),
    "compose.ablation.compare": ("compare",),
    "compose.ablation.study": ("ablate", "report"),
    "compose.ablation.swap": ("swap",),
    "compose.recipe.build": ("build",),
    "compose.recipe.check": ("check", "load_recipe"),
    "compose.recipe.fits": ("fits",),
    "compose.recipe.recipe": ("Evaluation", "Phase", "Player", "Recipe", "Term"),
    "compose.run.directory": ("load",),
    "compose.run.evaluate": ("evaluate",),
    "compose.run.sample": ("complete", "sample"),
    "compose.run.train": ("train",),
    "compose.verification": ("verify", "verify_all"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ELBO",
    "IWAE",
    "MLP",
    "Adversarial",
    "Arrays",
    "Augment",
    "Autoregressive",
    "Bernoulli",
    "Bijection",
    "Categorical",
    "Chain",
    "Codes",
    "ComposeError",
    "Conv",
    "Coupling",
    "DataPart",
    "Denoising",
    "Density",
    "DensityPart",
    "Dequantize",
    "Diffusion",
    "Digits",
    "DiscretizedLogistic",
    "Drawing",
    "Evaluation",
    "FashionMNIST",
    "Flow",
    "FlowMatching",
    "Generator",
    "Idx",
    "ImageFolder",
    "Kind",
    "Ladder",
    "Latent",
    "MaximumLikelihood",
    "Misfit",
    "Mixture",
    "Model",
    "NetPart",
    "Normal",
    "ObjectivePart",
    "Optimizer",
    "Phase",
    "Photographs",
    "Player",
    "Real",
    "Recipe",
    "RecipeError",
    "ResMLP",
    "Slot",
    "Split",
    "Squeeze",
    "Stacked",
    "Stage",
    "StagePart",
    "Standardize",
    "Step",
    "Term",
    "Toy",
    "Transformer",
    "UNet",
    "Vamp",
    "Wrap",
    "ablate",
    "build",
    "check",
    "compare",
    "complete",
    "evaluate",
    "fits",
    "load",
    "load_plugin",
    "load_recipe",
    "module",
    "register",
    "report",
    "sample",
    "swap",
    "train",
    "verify",
    "verify_all",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'compose' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
