"""What a player minimises."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from compose.core.terms import Ledger


class Loss(NamedTuple):
    """What an objective hands to its player.

    Args:
        value: A scalar to minimise, in nats per example.
        ledger: The terms it was made of, kept unreduced for whoever logs them.
    """

    value: Tensor
    ledger: Ledger


class Objective(nn.Module):
    """Turns a batch into a loss; critics and other helpers of training live here, never in the model."""

    @abstractmethod
    def forward(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """The loss on one batch.

        Args:
            model: The model as the trainer wrapped it; to be called, ``model(x, c, call="evaluate_terms")``, so that
                gradients are synchronised.
            x: Data, ``(batch, *space.shape)``.
            c: Conditions, or none.
            step: Steps taken in this phase.
        """
