"""What a player minimises."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from compose.core.optimizer import Optimizer
from compose.core.terms import Ledger


class Loss(NamedTuple):
    """What an objective hands to its player.

    Args:
        value: A scalar to minimise, in nats per example.
        ledger: The terms it was made of, kept unreduced for whoever logs them.
    """

    value: Tensor
    ledger: Ledger


def penalised(value: Tensor, ledger: Ledger) -> Tensor:
    """A loss with what else its ledger says that training costs, such as a quantizer's commitment."""
    for penalty in ledger.penalties.values():
        value = value + penalty.mean()
    return value


class Objective(nn.Module):
    """Turns a batch into a loss; critics and other helpers of training live here, never in the model.

    An objective with a ``rival`` has weights of its own, which descend on ``rival_loss`` before each step of
    the player, by an optimizer of their own. They are kept in checkpoints, and leave with the training.
    """

    #: How the weights of a rival descend; none where there is none.
    rival: Optimizer | None = None
    #: What it is called in logs.
    rival_name: str = "rival"
    #: Steps of the rival before each of its player.
    rival_steps: int = 1
    #: By which of the model's costs on the validation set the best weights are told.
    judged_by: Literal["-ELBO", "distortion", "-ELBO to N(0, I)"] = "-ELBO"
    #: Whether it asks the model for its terms alone, so that those of frozen stages may be taken for granted.
    of_terms: bool = False
    #: Whether its weight follows the player's other objectives: their gradient at ``balanced_at`` by its own.
    balanced: bool = False
    #: Whether it compares by a network that is fitted to the data set, and handed to it once by ``receive``.
    perceives: bool = False

    def receive(self, network: nn.Module) -> None:
        """Takes the frozen network that it compares by; only where it ``perceives``."""
        raise NotImplementedError(f"{self.__class__.__name__} compares by no network")

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

    def balanced_at(self, model: nn.Module) -> Tensor:
        """The weights of the model at whose gradients it is balanced; only where it is."""
        raise NotImplementedError(f"{self.__class__.__name__} is not balanced")

    def rival_loss(self, model: Any, x: Tensor, c: Tensor | None, step: int) -> Loss:
        """What the rival minimises on the same batch; no gradient of it reaches the model. Only of a rival."""
        raise NotImplementedError(f"{self.__class__.__name__} has no rival")
