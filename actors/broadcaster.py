"""The learner's weights to every sampler, and proof that they arrived.

The learner writes its weights once, in packed buckets: to shared memory for samplers on its own node, into Ray's
object store for samplers elsewhere. Every sampler then runs vLLM's four phases (init, start, update, finish) around a
pause that keeps running requests, and echoes the version its engine holds. A sampler that echoes another version
fails the run: training on with two policies would be silent corruption.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from actors.learner_group import LearnerGroup
from actors.settings import BroadcastSettings, DeadlineSettings
from actors.supervision import ActorFailure, Member, call


class Broadcaster:
    """Copies weight versions from the learner to the samplers.

    Args:
        learner: all ranks (under ZeRO-3 each takes part in gathering).
        samplers: the receiving actors.
        settings: transport and bucket size.
        deadlines: ``broadcast_s`` bounds publishing and loading, each.
    """

    def __init__(
        self,
        learner: LearnerGroup,
        samplers: Sequence[Member],
        settings: BroadcastSettings,
        deadlines: DeadlineSettings,
    ) -> None:
        self._learner = learner
        self._samplers = list(samplers)
        self._settings = settings
        self._deadline_s = deadlines.broadcast_s
        self._near: list[Member] = []
        self._far: list[Member] = []

    async def connect(self) -> None:
        """Find out which samplers share the learner's node."""
        learner_node, *sampler_nodes = await asyncio.gather(
            *(self._ask(m, "node", to="name its node") for m in (self._learner.ranks[0], *self._samplers))
        )
        for member, node in zip(self._samplers, sampler_nodes, strict=True):
            (self._near if self._is_near(member, node == learner_node) else self._far).append(member)

    async def broadcast(self, version: int) -> dict[str, float]:
        """Give every sampler the learner's current weights under the name `version`.

        Returns:
            ``sync/*`` metrics: seconds in all, seconds the samplers paused, bytes.

        Raises:
            ActorFailure: when an actor failed, or a sampler holds another version afterwards.
        """
        started = time.monotonic()
        published = await self._learner.all(
            "publish",
            bool(self._near),
            bool(self._far),
            self._settings.bucket_mib * 2**20,
            to=f"publish weights {version}",
            deadline_s=self._deadline_s,
        )
        shared, packed = published[0]
        manifests, data = [m for m, _ in packed], [d for _, d in packed]
        reports = await asyncio.gather(
            *(self._update(m, version, shared) for m in self._near),
            *(self._update(m, version, manifests, *data) for m in self._far),
        )
        await self._learner.all("unpublish", to=f"release weights {version}", deadline_s=self._deadline_s)
        return {
            "sync/seconds": time.monotonic() - started,
            "sync/pause_seconds": max(report["pause_seconds"] for report in reports),
            "sync/bytes": float(max(report["nbytes"] for report in reports)),
        }

    async def _update(self, member: Member, version: int, *buckets: Any) -> dict[str, Any]:
        report = await self._ask(member, "load_weights", version, *buckets, to=f"load weights {version}")
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

    async def _ask(self, member: Member, method: str, *arguments: Any, to: str) -> Any:
        remote = getattr(member.handle, method)
        return await call(remote.remote(*arguments), owner=member.name, to=to, deadline_s=self._deadline_s)
