"""Interface of weight transfer from the learner to the samplers: one class per value of `broadcast.backend`.

The learner's rank publishes a version, the broadcaster addresses it to every sampler, and each sampler receives it.
What is published and sent is private to the back-end. To add one: subclass :class:`WeightTransfer`, add it to
``actors.weights.make_transfer``, and teach ``actors/vllm_backend/weight_transfer.py`` to open its buckets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from actors.settings import BroadcastSettings, DeadlineSettings

if TYPE_CHECKING:
    import torch

NamedTensor = tuple[str, "torch.Tensor"]
Buckets = Iterable[Sequence[NamedTensor]]


class TransferError(RuntimeError):
    """Weights cannot be written, reached or read; the message names the place and the remedy."""


class Published(NamedTuple):
    """A version of the weights that samplers can receive.

    node: Ray's id of the node that holds it.
    payload: private to the back-end.
    """

    node: str
    version: int
    payload: Any


class Destination(NamedTuple):
    """A sampler to which weights are sent.

    node: Ray's id of its node.
    name, incarnation: which sampler, and which of the actors that had its name.
    workers: processes of its engine that load weights, each one a part (``sampler.tensor_parallel``).
    """

    node: str
    name: str = ""
    incarnation: int = 0
    workers: int = 1


class Update(NamedTuple):
    """One part of a version, for vLLM's weight-transfer protocol.

    info: the fields of the back-end's update info.
    nbytes: of weights.
    in_transit: the engine receives them while it loads them, so that they may stop arriving.
    """

    info: dict[str, Any]
    nbytes: int
    in_transit: bool = False

    @classmethod
    def of(cls, manifests: Sequence[dict[str, Any]], *, in_transit: bool = False) -> Update:
        """All buckets in one call of the engine: each call takes a round trip through its processes."""
        return cls({"manifests": list(manifests)}, sum(m["nbytes"] for m in manifests), in_transit)


class WeightTransfer(ABC):
    """Transfers weight versions. Every process creates its own instance. A publisher may hold memory until `release`,
    or keep it for the next version.

    Args:
        settings: the section `broadcast`.
        owner: the run or sampler that creates it; part of the names of its files.
        deadlines: the section `deadlines`; only a publisher needs it.
    """

    collective: ClassVar[bool] = False
    """Whether all samplers receive an update together, so that the failure of one ends it for all. The broadcaster then
    releases the weights at the first failure."""

    def __init__(self, settings: BroadcastSettings, owner: str, deadlines: DeadlineSettings | None = None) -> None:
        self.settings = settings
        self.owner = owner
        self.deadlines = deadlines or DeadlineSettings()

    def publish(
        self,
        buckets: Iterable[Sequence[NamedTensor]],
        *,
        rank: int,
        here: str,
        receivers: Sequence[Destination],
        partial: bool = False,
    ) -> Any:
        """Make the weights available; returns the payload, None on ranks other than 0. Runs on every learner rank.

        Args:
            buckets: the weights in parts of :attr:`bucket_bytes`, on the learner's device: its own tensors, valid until
                the next bucket is asked for. Every rank must exhaust it, because ZeRO-3 gathers each
                bucket collectively; only rank 0 gets tensors.
            here: Ray's id of this rank's node.
            receivers: the samplers.
            partial: layers without a weight in `buckets` keep theirs (``learner.lora``). Otherwise all are there, and
                an engine rejects an update that lacks one.

        Raises:
            TransferError: not enough memory.
        """
        if rank == 0:
            return self._publish(buckets, here, receivers, partial)
        for _ in buckets:
            pass
        return None

    @property
    def bucket_bytes(self) -> int:
        """Size of the buckets that :meth:`publish` wants; a larger weight is a bucket alone."""
        return self.settings.bucket_mib << 20

    @abstractmethod
    def _publish(self, buckets: Buckets, here: str, receivers: Sequence[Destination], partial: bool) -> Any:
        """:meth:`publish` on rank 0."""

    @abstractmethod
    def release(self, payload: Any) -> None:
        """End an update: free what :meth:`publish` made, on the same node, except for memory that the next version is
        written to. The publishing process may have died. May be called twice.

        It may block for seconds.
        """

    @abstractmethod
    def address(self, published: Published, receiver: Destination) -> tuple[Any, ...]:
        """The arguments of :meth:`receive` for a sampler, one of those that the weights were published for.

        Ray resolves object references only at the top level, so each is a separate argument.

        Raises:
            TransferError: the weights cannot reach it.
        """

    @abstractmethod
    def receive(self, *addressed: Any) -> AbstractAsyncContextManager[list[Update]]:
        """On the sampler: the updates for its engine, readable inside the block even if the publisher dies.

        Raises:
            TransferError: on entry, if data is gone; the engine is unchanged.
        """

    @abstractmethod
    def remove_leftovers(self, *, restarted: bool) -> None:
        """Free what killed processes left on this node; `restarted`: earlier processes of this owner have died."""
