"""Why a training stopped: which term, which part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from compose.core.objective import Loss
from compose.recipe.check import check_declared
from compose.recipe.equation import equation
from compose.recipe.recipe import Recipe


def diagnosis(recipe: Recipe, model: nn.Module, loss: Callable[[], Loss]) -> str:
    """Says what is not finite: terms with the parts that they come from, parameters, gradients.

    Args:
        recipe: What the model was built from.
        model: The model as it stands.
        loss: Computes once more what was not finite.
    """
    found = loss()
    terms = [name for name, value in found.ledger.terms.items() if _broken(value)]
    parts = {term.name: term.path for term in equation(check_declared(recipe)).terms}
    told = [f"{name} of {parts[name]}" if name in parts else name for name in terms]
    weights = _modules(model.named_parameters())
    said = [f"the term{'s' * (len(told) > 1)} {', '.join(told)}"] if told else []
    said += [f"the weights of {', '.join(weights)}"] if weights else []
    if not said:
        gradients = _modules(_gradients(model, found.value))
        said = [f"the gradient of {', '.join(gradients)}"] if gradients else []
    return " and ".join(said) or "the loss or its gradient, though not when it was computed once more"


def _gradients(model: nn.Module, loss: Tensor) -> Mapping[str, Tensor]:
    """The gradient of each trained parameter that has one, past the hooks of whatever wraps the model."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    with torch.enable_grad():
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {name: value for name, value in zip(trained, found, strict=True) if value is not None}


def _modules(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> list[str]:
    """Key paths of the modules that own a tensor that is not finite."""
    return sorted({f"model.{name}".rpartition(".")[0] for name, value in dict(tensors).items() if _broken(value)})


def _broken(value: Tensor) -> bool:
    return not bool(torch.isfinite(value).all())
