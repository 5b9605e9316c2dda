"""The table of parts: role -> name -> ``module:Declaration``.

Nothing is imported until a part is asked for by name. Parts of one's own come by an entry point in the group
``compose.parts`` or by ``load_plugin``; a recipe can only name what is in the table.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compose.core.errors import ComposeError

if TYPE_CHECKING:
    from compose.core.declare import Part

BUILT_IN: dict[str, dict[str, str]] = {
    "stage": {
        "latent": "compose.parts.stages.latent:Latent",
        "codes": "compose.parts.stages.codes:Coded",
        "ladder": "compose.parts.stages.ladder:Ladder",
        "chain": "compose.parts.stages.chain:Chain",
        "bijection": "compose.parts.stages.bijection:Bijection",
        "dequantize": "compose.parts.stages.dequantize:Dequantize",
        "squeeze": "compose.parts.stages.squeeze:Squeeze",
        "coupling": "compose.parts.stages.coupling:Coupling",
        "split": "compose.parts.stages.split:Split",
        "augment": "compose.parts.stages.augment:Augment",
        "generator": "compose.parts.stages.generator:Generator",
        "standardize": "compose.parts.stages.standardize:Standardize",
    },
    "quantizer": {
        "vq": "compose.parts.quantizers.vq:VQ",
        "fsq": "compose.parts.quantizers.fsq:FSQ",
        "lfq": "compose.parts.quantizers.lfq:LFQ",
        "residual": "compose.parts.quantizers.residual:Residual",
    },
    "density": {
        "normal": "compose.parts.densities.normal:Normal",
        "mixture": "compose.parts.densities.mixture:Mixture",
        "vamp": "compose.parts.densities.vamp:Vamp",
        "flow": "compose.parts.densities.flow:Flow",
        "bernoulli": "compose.parts.densities.bernoulli:Bernoulli",
        "categorical": "compose.parts.densities.categorical:Categorical",
        "discretized_logistic": "compose.parts.densities.discretized_logistic:DiscretizedLogistic",
        "autoregressive": "compose.parts.densities.autoregressive:Autoregressive",
        "masked": "compose.parts.densities.masked:Masked",
        "diffusion": "compose.parts.densities.diffusion:Diffusion",
        "flow_matching": "compose.parts.densities.flow_matching:FlowMatching",
        "model": "compose.parts.densities.model:Model",
    },
    "net": {
        "mlp": "compose.nets.mlp:MLP",
        "resmlp": "compose.nets.resmlp:ResMLP",
        "conv": "compose.nets.conv:Conv",
        "unet": "compose.nets.unet:UNet",
        "transformer": "compose.nets.transformer:Transformer",
        "wrap": "compose.nets.wrap:Wrap",
    },
    "objective": {
        "elbo": "compose.parts.objectives.elbo:ELBO",
        "iwae": "compose.parts.objectives.iwae:IWAE",
        "reconstruction": "compose.parts.objectives.reconstruction:Reconstruction",
        "denoising": "compose.parts.objectives.denoising:Denoising",
        "perceptual": "compose.parts.objectives.perceptual:Perceptual",
        "adversarial": "compose.parts.objectives.adversarial:Adversarial",
        "maximum_likelihood": "compose.parts.objectives.maximum_likelihood:MaximumLikelihood",
    },
    "data": {
        "digits": "compose.data.digits:Digits",
        "idx": "compose.data.idx:Idx",
        "fashion_mnist": "compose.data.idx:FashionMNIST",
        "arrays": "compose.data.arrays:Arrays",
        "images": "compose.data.image_folder:ImageFolder",
        "photographs": "compose.data.photographs:Photographs",
        "toy": "compose.data.toy:Toy",
        "stacked": "compose.data.stacked:Stacked",
    },
}
ROLES = tuple(BUILT_IN)

_plugged: dict[str, dict[str, type[Part]]] = {role: {} for role in BUILT_IN}
_plugins: dict[str, str] = {}
#: Functions that make torch modules, by the names that recipes give to ``wrap``.
modules: dict[str, Callable[..., Any]] = {}


def names(role: str) -> list[str]:
    """Every name of a role, shipped parts first."""
    _entry_points()
    return [*BUILT_IN[role], *(name for name in _plugged[role] if name not in BUILT_IN[role])]


def load(role: str, name: str) -> type[Part]:
    """The declaration of a part; imports its file.

    Raises:
        KeyError: no part of that role has the name.
    """
    _entry_points()
    if name in _plugged[role]:
        return _plugged[role][name]
    module, _, attribute = BUILT_IN[role][name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def register(part: type[Part]) -> type[Part]:
    """Adds a declaration to the table; usable as a decorator.

    Raises:
        ComposeError: it has no ``type``, an unknown ``role``, or the name of a shipped part.
    """
    if part.role not in BUILT_IN or not part.type:
        raise ComposeError(
            f"{part.__name__} has role {part.role!r} and type {part.type!r}; "
            f"wanted a type, and a role of {', '.join(ROLES)}."
        )
    if part.type in BUILT_IN[part.role]:
        raise ComposeError(
            f"{part.__name__} is called {part.type!r}, which is a shipped {part.role}; choose another name."
        )
    _plugged[part.role][part.type] = part
    return part


def load_plugin(path: str | Path) -> str:
    """Runs a Python file and registers every part it declares; loading the same file twice does nothing.

    A file may also do no more than register torch modules, by ``compose.module``.

    Returns:
        The digest of the file, which a run records.

    Raises:
        ComposeError: the file is missing, does not run, or declares nothing.
    """
    from compose.core.declare import Part

    file = Path(path).resolve()
    if not file.is_file():
        raise ComposeError(f"There is no plugin file {path}; wanted a Python file that declares parts.")
    digest = _digest(file)
    if _plugins.get(str(file)) == digest:
        return digest
    name = f"compose_plugin_{digest}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ComposeError(f"The plugin {path} is no Python file.")
    module, before = importlib.util.module_from_spec(spec), dict(modules)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ComposeError(f"The plugin {path} does not run: {error.__class__.__name__}: {error}") from error
    declared = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Part) and value.__module__ == name and value.type
    ]
    if not declared and modules == before:
        raise ComposeError(
            f"The plugin {path} declares no part; wanted a class with a 'type', such as 'class Mine(NetPart)', or a "
            "function under @compose.module."
        )
    for part in declared:
        register(part)
    _plugins[str(file)] = digest
    return digest


def plugins() -> dict[str, str]:
    """Files loaded by ``load_plugin`` and their digests."""
    return dict(_plugins)


def installed() -> dict[str, str]:
    """Modules of installed packages that declare parts, and the digests of their files."""
    return dict(_entry_points())


@cache
def _entry_points() -> dict[str, str]:
    from importlib.metadata import entry_points

    modules = {register(point.load()).__module__ for point in entry_points(group="compose.parts")}
    files = {module: getattr(sys.modules[module], "__file__", None) for module in modules}
    return {module: _digest(Path(file)) for module, file in files.items() if file is not None}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
