"""How weights descend: the declaration of an optimizer, for players and for critics."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen

from compose.core.declare import Declared


class Optimizer(Declared):
    """How a player descends; torch's own optimizers."""

    type: Literal["adamw", "adam", "adamax", "sgd"] = "adamw"
    """Which of torch.optim."""
    lr: Annotated[float, Gt(0), Le(10)] = 1e-3
    """Learning rate at its highest."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled for adamw, else added to the gradient."""
    betas: Annotated[list[Annotated[float, Ge(0), Lt(1)]], MinLen(2), MaxLen(2)] = [0.9, 0.999]
    """Decay of the first and second moments; of sgd the first is the momentum."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the rate falls over the phase, to 0 at its end."""
    warmup: Annotated[int, Ge(0)] = 0
    """Steps over which the rate rises from 0."""
