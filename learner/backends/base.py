"""What the engine needs of a framework that shards a model over ranks and steps its optimizer.

To add one: subclass :class:`LearnerBackend` and make it in ``learner.engine.Engine``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from learner.backends.checkpoint_layout import CheckpointLayout
from learner.backends.lora import Adapters


class LearnerBackend(ABC):
    """One rank's part of a causal LM and its optimizer. All methods are collective: every rank calls them in one order.

    Attributes:
        config: the model's Hugging Face configuration.
        layout: names, shapes and order of the weights in the checkpoint.
        dropped_weights: weights of the checkpoint that the model does not use.
        parameters: the named parameters that are trained, sharded between calls if the framework does so.
        adapters: the adapters of low rank among them; None if all weights are trained.
        model: the module to call for a forward pass, as in `learner.response_logprobs`.
        packed: whether micro-batches are to be packed into one row.
    """

    config: Any
    layout: CheckpointLayout
    dropped_weights: Any
    parameters: list[tuple[str, torch.nn.Parameter]]
    adapters: Adapters | None
    model: Any
    packed: bool

    @abstractmethod
    def train(self) -> None:
        """Switch the model to training."""

    @abstractmethod
    def eval(self) -> None:
        """Switch the model to scoring."""

    @abstractmethod
    def begin_micro_batch(self, *, last: bool) -> None:
        """A forward and a backward pass follow; `last`: they are the last of the step."""

    @abstractmethod
    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss` to the step's, which is the *sum* over micro-batches and ranks."""

    @abstractmethod
    def set_learning_rate(self, rate: float) -> None:
        """The learning rate of the next optimizer step."""

    @abstractmethod
    def apply(self) -> float:
        """Clip, take the optimizer step and clear the gradient; returns its global L2 norm before clipping.

        If the norm is NaN or infinite, weights and optimizer state stay as they are.
        """

    @abstractmethod
    def load_frozen(self) -> Any:
        """Another copy of the initial model, without gradients, sharded like the trained one if its weights are.

        Returns the module to call for a forward pass, with the parameters that `gathered` takes.
        """

    @abstractmethod
    def gathered(self, parameters: Sequence[torch.Tensor], *, modify: bool = False) -> AbstractContextManager[Any]:
        """Inside the block these parameters are whole on every rank. With `modify` every rank then keeps its part of
        what the block wrote on rank 0.
        """

    @abstractmethod
    def save(self, directory: Path, extra: dict[str, Any]) -> None:
        """Write this rank's weights and optimizer state, and `extra` (pickled)."""

    @abstractmethod
    def load(self, directory: Path) -> dict[str, Any]:
        """Continue from :meth:`save`; returns its `extra`. Raises ValueError if there is nothing to load."""

    @abstractmethod
    def sleep(self) -> None:
        """Move the optimizer's state to host memory. The weights stay, so :meth:`gathered` and :meth:`save` work."""

    @abstractmethod
    def wake(self) -> None:
        """Bring back what :meth:`sleep` moved, as a step needs it."""

    @abstractmethod
    def close(self, *, leave_group: bool) -> None:
        """Release the model and, with `leave_group`, leave the process group."""
