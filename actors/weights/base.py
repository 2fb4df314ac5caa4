"""What a way of moving weights from the learner to the samplers must do. One class per value of `broadcast.backend`.

The learner's rank publishes a version, the broadcaster addresses it to every sampler, and each sampler receives it.
Only the back-end knows what is published and sent. To add one: subclass :class:`WeightTransfer`, add it to
``actors/weights/__init__.py`` and, in ``actors/vllm_backend``, register the engine that loads its updates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, NamedTuple

import torch

from actors.settings import BroadcastSettings

NamedTensor = tuple[str, torch.Tensor]


class TransferError(RuntimeError):
    """Weights cannot be written, reached or read; the message says where, and what to do."""


class Published(NamedTuple):
    """A version of the weights that samplers can receive.

    node: Ray's id of the node that holds it.
    payload: what the back-end made of it.
    """

    node: str
    version: int
    payload: Any


class Update(NamedTuple):
    """One part of a version, for vLLM's weight-transfer protocol.

    info: the fields of the back-end's update info.
    nbytes: of weights.
    """

    info: dict[str, Any]
    nbytes: int


class WeightTransfer(ABC):
    """Moves versions of the weights. It keeps no state between calls: every process makes its own.

    Args:
        settings: the section `broadcast`.
        owner: the run, or the sampler, that makes it; names what it leaves on a node.
    """

    engine_backend: ClassVar[str]
    """Name of vLLM's weight-transfer back-end that loads the updates."""

    def __init__(self, settings: BroadcastSettings, owner: str) -> None:
        self.settings = settings
        self.owner = owner

    @abstractmethod
    def publish(
        self, buckets: Iterable[Sequence[NamedTensor]], *, rank: int, here: str, receivers: Sequence[str]
    ) -> Any:
        """Make the weights available; returns the payload. Runs on every learner rank.

        Args:
            buckets: all weights in parts of ``broadcast.bucket_mib``. Every rank must exhaust it, because ZeRO-3
                gathers each bucket collectively; only rank 0 is given tensors.
            here: Ray's id of this rank's node.
            receivers: the nodes of the samplers.

        Raises:
            TransferError: no room for them.
        """

    @abstractmethod
    def release(self, payload: Any) -> None:
        """Free what :meth:`publish` made, on the node where it ran; the process that published may be gone."""

    @abstractmethod
    def address(self, published: Published, node: str) -> tuple[Any, ...]:
        """The arguments with which a sampler on `node` is told to load `published`.

        Ray resolves object references only at the top level, so each is an argument by itself.

        Raises:
            TransferError: the weights cannot reach that node.
        """

    @abstractmethod
    def receive(self, *addressed: Any) -> AbstractAsyncContextManager[list[Update]]:
        """On the sampler: the updates for its engine, readable inside the block whatever happens to the publisher.

        Raises:
            TransferError: on entering, when something is gone; the engine was not touched.
        """

    @abstractmethod
    def remove_leftovers(self, *, restarted: bool) -> None:
        """Free what killed processes left on this node; `restarted`: earlier processes of this owner are gone."""
