"""Compiled models: the same numbers by fewer and larger kernels.

What is compiled is a model's ``forward``, which dispatches to ``evaluate_terms`` in training and to ``sample`` in
sampling. Scores are taken uncompiled: each is taken once, and its noise comes from generators that no graph takes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from compose.core.errors import CompileError
from compose.core.model import ModelDensity


def compiled(model: ModelDensity) -> Any:
    """The model behind a ``forward`` that is compiled at its first call, sharing all weights."""
    # torch keeps graphs by function, 8 at most, and then compiles no more; all models have this one forward.
    torch.compiler.reset()
    # The noise is then drawn by torch's own kernels, as it is without compiling: the same numbers of the same stream.
    return torch.compile(model, options={"fallback_random": True})


def require_compiler(device: str, instead: str) -> None:
    """Compiles a few additions, to fail before anything is begun.

    Args:
        device: ``cpu`` or ``cuda``.
        instead: What to do without compiling.

    Raises:
        CompileError: torch finds no compiler on this machine that it can use for ``device``.
    """
    with explained(instead):
        torch.compile(lambda x: 2 * x + 1)(torch.ones(8, device=device))


@contextmanager
def explained(instead: str) -> Iterator[None]:
    """Says what failed in a compilation, in a sentence, and what to do.

    Args:
        instead: What to do without compiling.

    Raises:
        CompileError: in place of torch's own errors.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise CompileError(
            f"torch could not compile: {_cause(error)}. On a CPU it needs a C++ compiler and Python's headers (Debian, "
            f"Ubuntu: apt install g++ python3-dev; another compiler by CXX=/path/to/it), on a GPU Triton. Or {instead}."
        ) from error


def _cause(error: Exception) -> str:
    """The one line that says most: a compiler's error, else the first of what was raised inside torch."""
    lines = str(getattr(error, "inner_exception", error)).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "error: " in line), lines[0]).rstrip(".")
