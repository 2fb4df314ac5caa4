"""`broadcast.backend: nccl`: weights by broadcasts from learner rank 0 to the workers of all samplers' engines.

NCCL between GPUs, gloo where both sides are on CPUs (:mod:`actors.weights.collective`). Rank 0 copies each bucket into
one flat tensor on its device and publishes where the group meets; a thread sends the buckets when all samplers have
paused. The copies take the memory of the weights once more, until the last sampler has them. A sampler needs memory for
one bucket.

A group is kept while the samplers are the same. When any member dies, rank 0 included, the update ends for all members:
the broadcaster releases the weights, and the other samplers report that the weights were lost. These samplers get the
weights again in a new group.

NCCL has not run on GPUs yet. The tests run this code with gloo.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from actors.weights import buckets as packed_buckets
from actors.weights.base import Buckets, Destination, NamedTensor, Published, TransferError, Update, WeightTransfer
from actors.weights.buckets import Manifest
from actors.weights.collective import Deadline, Place, Receiver, Sender

logger = logging.getLogger(__name__)

GROUP = "group"  # key of a manifest: how to receive its bucket
_KEYS = "deadlines.broadcast_s + deadlines.sample_s"
_END_SECONDS = 5.0  # for a sender that was stopped
_LAST_SECONDS = 1.0  # for rank 0 to see that the last broadcast ended, after all samplers did


class Interrupted(TransferError):
    """A bucket did not arrive."""


class NcclPayload(NamedTuple):
    """place: of the group. round_: of the update. ranks: the first rank of each sampler (name, incarnation).
    limit_s: seconds after which a sampler gives up."""

    place: Place
    round_: int
    ranks: dict[tuple[str, int], int]
    manifests: list[Manifest]
    limit_s: float


class NcclTransfer(WeightTransfer):
    """Flat buckets, sent to all samplers at once."""

    collective = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._sender: Sender | None = None
        self._receivers: tuple[Destination, ...] = ()  # of the sender's group
        self._round = 0
        self._published: tuple[str, int] | None = None  # the group and the round
        self._thread: threading.Thread | None = None  # sends the version that is published

    def _publish(self, buckets: Buckets, here: str, receivers: Sequence[Destination], partial: bool) -> NcclPayload:
        """As the base class says."""
        self._end_thread("newer weights are published")
        limit_s = self.deadlines.broadcast_s + self.deadlines.sample_s
        manifests: list[Manifest] = []
        copies: list[torch.Tensor] = []
        for tensors in buckets:
            manifest, flat = packed_buckets.flatten(tensors)
            manifests.append(manifest | {"partial": partial})
            copies.append(flat)
        for manifest, flat in zip(manifests, copies, strict=True):
            manifest["checksum"] = _checksum(flat)  # waits for the copy
        sender = self._sender_to(tuple(receivers), copies[0].device)
        self._round += 1
        self._published = sender.place.name, self._round
        work = (sender, self._round, copies)
        self._thread = threading.Thread(target=self._serve, args=work, name="weight sender", daemon=True)
        self._thread.start()
        return NcclPayload(sender.place, self._round, _first_ranks(receivers), manifests, limit_s)

    def release(self, payload: NcclPayload) -> None:
        """Stop the sending for all samplers, if it still runs; then the copies are freed."""
        if (payload.place.name, payload.round_) != self._published:
            return  # by a predecessor, or followed by a newer version
        if self._sender is not None and self._thread is not None and self._sender.sent_all:
            self._thread.join(timeout=_LAST_SECONDS)
        self._end_thread("the update was stopped, because a sampler failed or did not answer")

    def address(self, published: Published, receiver: Destination) -> tuple[Any, ...]:
        """As the base class says: the manifests."""
        payload: NcclPayload = published.payload
        first = payload.ranks.get((receiver.name, receiver.incarnation))
        if first is None:
            raise TransferError("is not among the samplers for which the weights were published")
        group = payload.place._asdict() | {"rank": first, "round": payload.round_, "limit_s": payload.limit_s}
        return ([manifest | {GROUP: group} for manifest in payload.manifests],)

    @contextlib.asynccontextmanager
    async def receive(self, manifests: list[Manifest]) -> AsyncIterator[list[Update]]:
        """As the base class says; the engine's workers receive the buckets."""
        yield [Update.of(manifests, in_transit=True)]

    def remove_leftovers(self, *, restarted: bool) -> None:
        """Nothing: the memory and the connections end with their process."""

    def _sender_to(self, receivers: tuple[Destination, ...], device: torch.device) -> Sender:
        """The sender of the group with `receivers`; a new one if they changed or the last update failed."""
        last = self._sender
        if last is not None and not last.stopped and receivers == self._receivers and last.device == device:
            return last
        if last is not None:
            last.stop("the samplers changed")
            last.leave()
        names = [
            r.name + (f" (worker {worker})" if r.workers > 1 else "") for r in receivers for worker in range(r.workers)
        ]
        self._sender, self._receivers = Sender(node_address(), names, device), receivers
        return self._sender

    def _serve(self, sender: Sender, round_: int, copies: list[torch.Tensor]) -> None:
        """Send `copies` and free them; on a failure, end the group for all."""
        try:
            if copies[0].is_cuda:
                torch.cuda.set_device(copies[0].device)  # of this thread
            ready = Deadline(self.deadlines.sample_s, "deadlines.sample_s")
            sender.send(round_, copies, ready, self.deadlines.broadcast_s, "deadlines.broadcast_s")
        except Exception as error:  # noqa: BLE001  (the samplers report it)
            log = logger.warning if isinstance(error, TransferError) else logger.exception
            log("the weights were not sent: %s", error)
            sender.stop(str(error))
            sender.leave()
        finally:
            copies.clear()

    def _end_thread(self, reason: str) -> None:
        thread, self._thread = self._thread, None
        if thread is None or not thread.is_alive():
            return
        assert self._sender is not None
        self._sender.stop(reason)
        thread.join(timeout=_END_SECONDS)
        if thread.is_alive():
            logger.warning("the thread that sends weights did not end within %g s", _END_SECONDS)


class Inbox:
    """The end of one engine worker: joins the group that a manifest names, and stays for later updates.

    Args:
        worker: rank of the worker in its engine.
        device: where the model is.
    """

    def __init__(self, worker: int, device: torch.device) -> None:
        self._worker, self._device = worker, device
        self._receiver: Receiver | None = None

    def open_bucket(self, manifest: Manifest) -> Iterator[NamedTensor]:
        """Receive the bucket and return `(name, tensor)` views of it.

        Raises:
            Interrupted: it did not arrive; the sender, another sampler or the network failed.
            ValueError: the learner's weights are on another kind of device.
        """
        group = manifest[GROUP]
        if group["device"] != self._device.type:
            raise ValueError(
                f"broadcast.backend = nccl: the learner's weights are on {group['device']}, this engine is on "
                f"{self._device.type}; set broadcast.backend = host"
            )
        place = Place(*(group[name] for name in Place._fields))
        rank = group["rank"] + self._worker
        if self._receiver is None or self._receiver.place != place or self._receiver.rank != rank:
            self.close()
            self._receiver = Receiver(place, rank, self._device)
        deadline = Deadline(group["limit_s"], _KEYS)
        try:
            flat = self._receiver.receive(group["round"], manifest["nbytes"], deadline)
            if _checksum(flat) != manifest["checksum"]:
                raise TransferError("a bucket of weights was damaged on the way (its checksum differs)")
        except TransferError as error:
            self._receiver.close(str(error))
            self._receiver = None
            raise Interrupted(str(error)) from error
        return packed_buckets.views(manifest, flat)

    def close(self) -> None:
        """Leave the group."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.close()


def node_address() -> str:
    """This node's address, as Ray knows it."""
    import ray

    return str(ray.util.get_node_ip_address())


def _first_ranks(receivers: Sequence[Destination]) -> dict[tuple[str, int], int]:
    ranks, following = {}, 1
    for receiver in receivers:
        ranks[receiver.name, receiver.incarnation] = following
        following += receiver.workers
    return ranks


def _checksum(flat: torch.Tensor) -> int:
    """Sum of the bytes (uint8 [nbytes]) as int64 numbers, modulo 2^64; nbytes is a multiple of 64."""
    return int(flat.view(torch.int64).sum().item())
