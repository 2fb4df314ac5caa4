"""Copies the learner's weights to every sampler.

The learner publishes a version once (``actors/weights``). Every sampler runs vLLM's four phases (init, start, update,
finish) around a pause and checks the version of its engine. One that holds another version fails and is replaced,
because training with two policies would silently corrupt the run. The supervisor also replaces samplers that die; a
replacement receives the current weights (:meth:`Broadcaster.join`) before it serves.

A sampler whose load *began* and failed has undefined weights and is replaced. If the load could not begin, because the
published weights were lost with the learner or its node, the sampler still holds its old weights. It is not replaced;
the weights are sent again, by the learner's successor if needed. The same holds for a sampler to which weights stopped
arriving (``broadcast.backend: nccl``), because the learner or another sampler failed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

from actors.fleet.learner_group import LearnerGroup
from actors.fleet.shared_cards import Cards
from actors.fleet.supervision import Supervisor
from actors.fleet.units import Member
from actors.remote_calls import ActorFailure, ObjectLost, call
from actors.settings import DeadlineSettings
from actors.weights import Destination, Published, TransferError, WeightTransfer

logger = logging.getLogger(__name__)

_MAX_SENDS = 5  # attempts to send the same weights to a sampler that does not get them


class Receiver(NamedTuple):
    """One incarnation of a sampler; a replacement with the same name is another receiver."""

    member: Member
    incarnation: int
    destination: Destination

    @property
    def present(self) -> bool:
        """Whether it was neither replaced nor marked as failed."""
        return self.member.incarnation == self.incarnation and self.member.present


class Broadcaster:
    """Copies weight versions from the learner to the samplers.

    Args:
        learner: all ranks (under ZeRO-3 every rank takes part in gathering).
        transfer: how weights reach samplers; the ranks and the samplers use the same back-end.
        deadlines: ``broadcast_s`` bounds publishing and loading separately; a sampler that first finishes its running
            samples (``sampler.in_flight: finish``) has ``sample_s`` in addition.
        supervisor: replaces samplers that fail to load.
        workers: processes of a sampler's engine that load weights (``sampler.tensor_parallel``).
        cards: the GPUs of the samplers, and who may change their memory.
    """

    def __init__(
        self,
        learner: LearnerGroup,
        transfer: WeightTransfer,
        deadlines: DeadlineSettings,
        supervisor: Supervisor,
        workers: int = 1,
        cards: Cards | None = None,
    ) -> None:
        self._workers = workers
        self._learner = learner
        self._transfer = transfer
        self._deadlines = deadlines
        self._supervisor = supervisor
        self._cards = cards or Cards()
        self._tasks: set[asyncio.Task[object]] = set()
        self._receivers: dict[Member, Receiver] = {}
        # Serializes updates and joins, so that a joining sampler cannot miss the version of a running update.
        self._lock = asyncio.Lock()

    async def join(self, *members: Member) -> None:
        """Add new samplers to the receivers and load the learner's current weights into them.

        Raises:
            ActorFailure: a sampler could not load them.
        """
        # deadline: each call has its own
        receivers = await asyncio.gather(*(self._receiver(m) for m in members))
        await self._run_to_completion(self._join(receivers))

    async def _join(self, receivers: Sequence[Receiver]) -> None:
        # deadline: every call of the update that holds the lock has one
        async with self._lock:
            for receiver in receivers:
                receiver.member.actor(receiver.incarnation)
            # Before the first step every engine has them from model.path, unless it discarded them.
            if self._learner.version or any(receiver.member.asleep for receiver in receivers):
                for receiver, result in (await self._send(receivers, None)).items():
                    if isinstance(result, ActorFailure):
                        raise ActorFailure(f"{receiver.member.name} cannot join: {result}") from result
            self._receivers.update({receiver.member: receiver for receiver in receivers})

    async def wake(self) -> None:
        """Send the weights of new learner ranks, which are not in service yet, to the sleeping samplers.

        Raises:
            ActorFailure: these ranks failed; their successors have to do it.
        """
        sleeping = [r for r in self._receivers.values() if r.present and r.member.asleep]
        if sleeping:
            # No lock: its holder may wait for these ranks to serve.
            await self._run_to_completion(self._update(sleeping, self._learner.version, self._learner.incarnation))

    async def broadcast(self, version: int) -> dict[str, float]:
        """Load the learner's current weights, which must be of `version`, into every sampler.

        Returns:
            ``sync/*`` metrics: total seconds, longest pause of a sampler in seconds, bytes.

        Raises:
            ActorFailure: the learner failed, or holds another version.
        """
        started = time.monotonic()
        # deadline: every call of the update that holds the lock has one
        async with self._lock:
            results = await self._update([r for r in self._receivers.values() if r.present], version)
        reports = [result for result in results.values() if not isinstance(result, ActorFailure)]
        took, total = time.monotonic() - started, len(results)
        logger.info("broadcast of weights %d to %d of %d samplers: %.2f s", version, len(reports), total, took)
        return {
            "sync/seconds": took,
            "sync/pause_seconds": max((report["pause_seconds"] for report in reports), default=0.0),
            "sync/bytes": float(max((report["nbytes"] for report in reports), default=0)),
        }

    async def _update(
        self, receivers: Sequence[Receiver], version: int | None, ranks: int | None = None
    ) -> dict[Receiver, dict[str, Any] | ActorFailure]:
        """As :meth:`_send`; samplers that fail are replaced."""
        results = await self._send(receivers, version, ranks)
        for receiver, result in results.items():
            if isinstance(result, ActorFailure):
                self._supervisor.mark_failed(receiver.member, receiver.incarnation, result)
        return results

    async def _run_to_completion(self, work: Coroutine[Any, Any, object]) -> None:
        """Await `work`, which continues if the caller is cancelled: actors cannot undo what they began, and actors that
        share their GPUs have to wait until it is done."""
        task = asyncio.create_task(work)
        self._tasks.add(task)  # asyncio itself keeps only weak references to tasks
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # the caller may be gone
        # deadline: every call of the work has its own
        await asyncio.shield(task)

    async def _send(
        self, receivers: Iterable[Receiver], version: int | None, ranks: int | None = None
    ) -> dict[Receiver, dict[str, Any] | ActorFailure]:
        """Send the weights of the ranks of an incarnation (None: those that serve); returns the report of each
        receiver, or its failure."""
        waiting = list(receivers)
        results: dict[Receiver, dict[str, Any] | ActorFailure] = {}
        for _ in range(_MAX_SENDS):
            if not waiting:
                break
            latest = dict(zip(waiting, await self._send_once(waiting, version, ranks), strict=True))
            results |= latest
            waiting = [r for r, result in latest.items() if isinstance(result, ObjectLost) and r.present]
        return results

    async def _send_once(
        self, receivers: Sequence[Receiver], version: int | None, ranks: int | None
    ) -> list[dict[str, Any] | ActorFailure]:
        destinations = [receiver.destination for receiver in receivers]
        incarnation, published = await self._learner.publish(destinations, ranks)
        try:
            if version is not None and published.version != version:
                raise ActorFailure(
                    f"the learner holds weight version {published.version}, but version {version} was to be broadcast"
                )
            addressed = [self._address(receiver, published) for receiver in receivers]

            async def loaded(receiver: Receiver, arguments: tuple[Any, ...]) -> dict[str, Any] | ActorFailure:
                result = await self._load(receiver, published.version, arguments)
                if self._transfer.collective and isinstance(result, ActorFailure):
                    await self._learner.release(incarnation, published)  # the others wait for this one
                return result

            # deadline: each call has its own
            return await asyncio.gather(*map(loaded, receivers, addressed))
        finally:
            await self._learner.release(incarnation, published)

    def _address(self, receiver: Receiver, published: Published) -> tuple[Any, ...]:
        try:
            return self._transfer.address(published, receiver.destination)
        except TransferError as error:
            raise ActorFailure(f"{receiver.member.name} {error}") from error

    async def _load(
        self, receiver: Receiver, version: int, addressed: tuple[Any, ...]
    ) -> dict[str, Any] | ActorFailure:
        """The receiver's report, or its failure; :class:`ObjectLost` if the weights must be sent again."""
        try:
            async with self._cards.sampler_turn(receiver.member, receiver.incarnation, to=f"load weights {version}"):
                report = await call(
                    receiver.member.actor(receiver.incarnation).load_weights.remote(version, *addressed),
                    owner=receiver.member.name,
                    to=f"load weights {version}",
                    deadline_s=self._deadlines.broadcast_s + self._deadlines.sample_s,
                    key="deadlines.broadcast_s + deadlines.sample_s",
                )
        except ActorFailure as failure:
            if not isinstance(failure, ObjectLost):
                # At once: others may have to wait for the learner, which waits for this sampler's end on a shared GPU.
                self._supervisor.mark_failed(receiver.member, receiver.incarnation, failure)
            return failure
        return report

    async def _receiver(self, member: Member) -> Receiver:
        incarnation = member.incarnation
        node = await call(
            member.actor().node.remote(), owner=member.name, to="report its node", **self._deadlines.of("broadcast_s")
        )
        return Receiver(member, incarnation, Destination(node, member.name, incarnation, self._workers))
