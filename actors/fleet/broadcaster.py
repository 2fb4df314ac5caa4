"""Copies the learner's weights to every sampler, and checks that they arrived.

The learner publishes a version once (``actors/weights``). Every sampler then runs vLLM's four phases (init, start,
update, finish) around a pause, and echoes the version its engine holds. A sampler that echoes another version fails the
run: training on with two policies would be silent corruption. The supervisor replaces one that dies meanwhile; its
successor gets the current weights (:meth:`Broadcaster.join`) before it serves.

A sampler that *began* to load and failed has undefined weights: it is replaced. One that could not begin, because the
published weights were lost with the learner or its node, still holds its old weights and is not at fault: the weights
are sent again, by the learner's successor if need be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from actors.fleet.learner_group import LearnerGroup
from actors.fleet.supervision import ActorFailure, Member, Supervisor, call
from actors.remote_calls import ObjectLost
from actors.settings import DeadlineSettings
from actors.weights import Published, TransferError, WeightTransfer

_SENDS = 5  # times that the same weights are sent to a sampler that cannot begin to load them


class Receiver(NamedTuple):
    """A sampler as it was when it joined: a successor of the same name is another receiver."""

    member: Member
    incarnation: int
    node: str

    @property
    def present(self) -> bool:
        """It has not been replaced and is not marked as failed."""
        return self.member.incarnation == self.incarnation and self.member.present


class Broadcaster:
    """Copies weight versions from the learner to the samplers.

    Args:
        learner: all ranks (under ZeRO-3 each takes part in gathering).
        transfer: how weights reach samplers; the ranks and the samplers use the same back-end.
        deadlines: ``broadcast_s`` bounds publishing and loading, each; a sampler that first finishes what it samples
            (``sampler.in_flight: finish``) has ``sample_s`` for that as well.
        supervisor: is told of samplers that cannot load.
    """

    def __init__(
        self,
        learner: LearnerGroup,
        transfer: WeightTransfer,
        deadlines: DeadlineSettings,
        supervisor: Supervisor,
    ) -> None:
        self._learner = learner
        self._transfer = transfer
        self._deadlines = deadlines
        self._supervisor = supervisor
        self._receivers: dict[Member, Receiver] = {}
        # A sampler that joins during an update must get either its weights or the older ones before it; never neither.
        self._one_at_a_time = asyncio.Lock()

    async def join(self, *members: Member) -> None:
        """Add new samplers to the receivers; they hold the learner's weights when this returns.

        Raises:
            ActorFailure: one could not be given them.
        """
        # deadline: each call has its own
        receivers = await asyncio.gather(*(self._receiver(m) for m in members))
        # deadline: every call of the update that holds it has one
        async with self._one_at_a_time:
            if self._learner.version:  # before the first step every engine has them from model.path
                for receiver, result in (await self._send(receivers, None)).items():
                    if isinstance(result, ActorFailure):
                        raise ActorFailure(f"{receiver.member.name} cannot join: {result}") from result
            self._receivers.update({receiver.member: receiver for receiver in receivers})

    async def broadcast(self, version: int) -> dict[str, float]:
        """Give every sampler the learner's current weights under the name `version`.

        Returns:
            ``sync/*`` metrics: seconds in all, seconds the samplers paused, bytes.

        Raises:
            ActorFailure: when the learner failed, or a sampler holds another version afterwards.
        """
        started = time.monotonic()
        # deadline: every call of the update that holds it has one
        async with self._one_at_a_time:
            results = await self._send([r for r in self._receivers.values() if r.present], version)
            for receiver, result in results.items():
                if isinstance(result, ActorFailure):
                    self._supervisor.suspect(receiver.member, receiver.incarnation, result)
        reports = [result for result in results.values() if not isinstance(result, ActorFailure)]
        return {
            "sync/seconds": time.monotonic() - started,
            "sync/pause_seconds": max((report["pause_seconds"] for report in reports), default=0.0),
            "sync/bytes": float(max((report["nbytes"] for report in reports), default=0)),
        }

    async def _send(
        self, receivers: Iterable[Receiver], version: int | None
    ) -> dict[Receiver, dict[str, Any] | ActorFailure]:
        """The learner's weights to `receivers`: the report of each that holds them now, or why it does not."""
        waiting = list(receivers)
        results: dict[Receiver, dict[str, Any] | ActorFailure] = {}
        for _ in range(_SENDS):
            if not waiting:
                break
            latest = dict(zip(waiting, await self._send_once(waiting, version), strict=True))
            results |= latest
            waiting = [r for r, result in latest.items() if isinstance(result, ObjectLost) and r.present]
        return results

    async def _send_once(
        self, receivers: Sequence[Receiver], version: int | None
    ) -> list[dict[str, Any] | ActorFailure]:
        incarnation, published = await self._learner.publish(sorted({r.node for r in receivers}))
        try:
            if version is not None and published.version != version:
                raise ActorFailure(
                    f"the learner holds weight version {published.version}, but version {version} should be sent to "
                    "the samplers"
                )
            addressed = [self._address(receiver, published) for receiver in receivers]
            # deadline: each call has its own
            return await asyncio.gather(
                *(self._load(r, published.version, a) for r, a in zip(receivers, addressed, strict=True))
            )
        finally:
            await self._learner.release(incarnation, published)

    def _address(self, receiver: Receiver, published: Published) -> tuple[Any, ...]:
        try:
            return self._transfer.address(published, receiver.node)
        except TransferError as error:
            raise ActorFailure(f"{receiver.member.name} {error}") from error

    async def _load(
        self, receiver: Receiver, version: int, addressed: tuple[Any, ...]
    ) -> dict[str, Any] | ActorFailure:
        """The receiver's report, or its failure; :class:`ObjectLost`: it did not begin to load."""
        try:
            report = await call(
                receiver.member.actor(receiver.incarnation).load_weights.remote(version, *addressed),
                owner=receiver.member.name,
                to=f"load weights {version}",
                deadline_s=self._deadlines.broadcast_s + self._deadlines.sample_s,
                key="deadlines.broadcast_s + deadlines.sample_s",
            )
        except ActorFailure as failure:
            return failure
        if report["version"] != version:
            raise ActorFailure(f"{receiver.member.name} holds weights {report['version']} after an update to {version}")
        return report

    async def _receiver(self, member: Member) -> Receiver:
        incarnation = member.incarnation
        node = await call(
            member.actor().node.remote(), owner=member.name, to="name its node", **self._deadlines.of("broadcast_s")
        )
        return Receiver(member, incarnation, node)
