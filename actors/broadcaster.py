"""The learner's weights to every sampler, and proof that they arrived.

The learner writes its weights once, in packed buckets: to shared memory for samplers on its own node, into Ray's
object store for samplers elsewhere. Every sampler then runs vLLM's four phases (init, start, update, finish) around a
pause, and echoes the version its engine holds. A sampler that echoes another version fails the run: training on with
two policies would be silent corruption. One that dies meanwhile is left to the supervisor; its successor is given the
weights of the moment (:meth:`Broadcaster.join`) before it serves.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from actors.learner_group import LearnerGroup
from actors.settings import BroadcastSettings, DeadlineSettings
from actors.supervision import ActorFailure, Member, Supervisor, call


class Broadcaster:
    """Copies weight versions from the learner to the samplers.

    Args:
        learner: all ranks (under ZeRO-3 each takes part in gathering).
        settings: transport and bucket size.
        deadlines: ``broadcast_s`` bounds publishing and loading, each; a sampler that first finishes what it samples
            (``sampler.in_flight: finish``) has ``sample_s`` for that beside it.
        supervisor: is told of samplers that cannot load.
    """

    def __init__(
        self,
        learner: LearnerGroup,
        settings: BroadcastSettings,
        deadlines: DeadlineSettings,
        supervisor: Supervisor,
    ) -> None:
        self._learner = learner
        self._settings = settings
        self._deadlines = deadlines
        self._supervisor = supervisor
        self._nodes: dict[Member, tuple[int, str]] = {}  # incarnation and node of every receiver
        # Who joins during an update must get either its weights or the older ones before it; never neither.
        self._one_at_a_time = asyncio.Lock()

    async def join(self, *members: Member) -> None:
        """Take new samplers into the circle of receivers; they hold the learner's weights when this returns."""
        # deadline: each call has its own
        nodes = await asyncio.gather(*(self._node(m) for m in members))
        # deadline: every call of the update that holds it has one
        async with self._one_at_a_time:
            if self._learner.version:  # before the first step every engine has them from model.path
                await self._send(dict(zip(members, nodes, strict=True)), None)
            for member, node in zip(members, nodes, strict=True):
                self._nodes[member] = (member.incarnation, node)

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
            receivers = {
                member: node
                for member, (incarnation, node) in self._nodes.items()
                if member.incarnation == incarnation and member.present
            }
            reports = await self._send(receivers, version)
        return {
            "sync/seconds": time.monotonic() - started,
            "sync/pause_seconds": max((report["pause_seconds"] for report in reports), default=0.0),
            "sync/bytes": float(max((report["nbytes"] for report in reports), default=0)),
        }

    async def _send(self, receivers: dict[Member, str], version: int | None) -> list[dict[str, Any]]:
        """The learner's weights to `receivers`; reports of those that hold them now."""
        if not receivers:
            return []
        learner_node = await self._learner.node()
        near = [m for m, node in receivers.items() if self._is_near(m, node == learner_node)]
        held, shared, packed = await self._learner.publish(
            bool(near), len(near) < len(receivers), self._settings.bucket_mib * 2**20
        )
        if version is not None and held != version:
            raise ActorFailure(
                f"the learner holds weight version {held}, but version {version} should be sent to the samplers"
            )
        manifests, data = [m for m, _ in packed], [d for _, d in packed]
        try:
            # deadline: each call has its own
            reports = await asyncio.gather(
                *(
                    self._update(m, held, version is None, *((shared,) if m in near else (manifests, *data)))
                    for m in receivers
                )
            )
        finally:
            await self._learner.unpublish(shared)
        return [report for report in reports if report is not None]

    async def _update(self, member: Member, version: int, joins: bool, *buckets: Any) -> dict[str, Any] | None:
        """None when the sampler could not: it is given up, for its weights are undefined now."""
        incarnation = member.incarnation
        try:
            remote = member.handle.load_weights.remote(version, *buckets)
            report = await call(
                remote,
                owner=member.name,
                to=f"load weights {version}",
                deadline_s=self._deadlines.broadcast_s + self._deadlines.sample_s,
                key="deadlines.broadcast_s + deadlines.sample_s",
            )
        except ActorFailure as failure:
            if joins:
                raise  # whoever starts it tries again
            self._supervisor.suspect(member, incarnation, failure)
            return None
        if report["version"] != version:
            raise ActorFailure(f"{member.name} holds weights {report['version']} after an update to {version}")
        return report

    def _is_near(self, member: Member, same_node: bool) -> bool:
        if self._settings.transport == "object_store":
            return False
        if self._settings.transport == "shared_memory" and not same_node:
            raise ActorFailure(
                f"{member.name} runs on another node than the learner, so broadcast.transport=shared_memory cannot "
                "reach it: use auto or object_store"
            )
        return same_node

    async def _node(self, member: Member) -> str:
        remote = member.handle.node.remote()
        return await call(remote, owner=member.name, to="name its node", **self._deadlines.of("broadcast_s"))
