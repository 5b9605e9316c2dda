"""The noise that a part draws, recorded, played back, or handed out: then what it computes is a plain function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from compose.testing.contract import ContractError

Give = Callable[[int, Any, tuple[int, ...], dict[str, Any]], Tensor]

_OTHER_DRAWS = {
    *(
        torch.normal,
        torch.bernoulli,
        torch.multinomial,
        torch.randint,
        torch.randn_like,
        torch.rand_like,
        torch.poisson,
    ),
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.bernoulli, torch.Tensor.multinomial),
}


class Noise(TorchFunctionMode):
    """A context that answers what ``compose.core.random`` asks of torch.

    Args:
        give: Called with the count of draws so far, ``torch.randn`` or ``torch.rand``, the shape and keyword arguments.
    """

    def __init__(self, give: Give) -> None:
        super().__init__()
        self.give, self.count = give, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _OTHER_DRAWS:
            raise ContractError(f"it draws by torch's {func.__name__}; wanted the draws of compose.core.random")
        if func is not torch.randn and func is not torch.rand:
            return func(*args, **kwargs)
        shape = args[0] if args and not isinstance(args[0], int) else args
        self.count += 1
        return self.give(self.count - 1, func, tuple(shape), kwargs)


class Tape:
    """Records the noise that a part draws, and plays it back for some of the rows.

    ``draws`` holds, for each draw, ``torch.randn`` or ``torch.rand`` and the numbers.
    """

    def __init__(self) -> None:
        self.draws: list[tuple[Any, Tensor]] = []

    def record(self) -> Noise:
        """A context in which every draw is kept."""

        def give(count: int, draw: Any, shape: tuple[int, ...], kwargs: dict[str, Any]) -> Tensor:
            self.draws.append((draw, draw(shape, **kwargs)))
            return self.draws[-1][1]

        return Noise(give)

    def play(self, rows: Tensor | slice = slice(None)) -> Noise:
        """A context in which the kept draws come again, those of ``rows`` alone."""
        return Noise(lambda count, draw, shape, kwargs: self.draws[count][1][rows].to(kwargs["dtype"]))

    def run(self) -> Noise:
        """Records the first time, plays back afterwards."""
        return self.play() if self.draws else self.record()
