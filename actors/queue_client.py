"""The driver's handle on the replay queue: the same verbs, with deadlines."""

from __future__ import annotations

from typing import Any

from ray import ObjectRef

from actors.queue_state import Ticket
from actors.settings import DeadlineSettings
from actors.supervision import Member, call

_QUICK_S = 60.0  # bookkeeping calls take microseconds; a minute means that the process is gone or stopped


class QueueClient:
    """Reserve, commit, lease, ack and snapshot on the replay queue actor."""

    def __init__(self, queue: Member, deadlines: DeadlineSettings) -> None:
        self._queue = queue
        self._deadlines = deadlines

    async def reserve(self) -> list[Ticket]:
        return await self._call("reserve", to="hand out slots")

    async def commit(self, sequence: int, group: ObjectRef) -> bool:
        return await self._call("commit", sequence, group, to=f"take the group of position {sequence}")

    async def lease(self, step: int) -> tuple[ObjectRef, dict[str, float]]:
        """A reference to the step's groups (they never pass through the driver) and the queue's metrics."""
        wait_s = self._deadlines.sample_s + self._deadlines.verify_s
        groups: ObjectRef
        metrics: ObjectRef
        groups, metrics = self._queue.handle.lease.options(num_returns=2).remote(wait_s)
        row = await call(
            metrics, owner=self._queue.name, to=f"lease the groups of step {step}", deadline_s=wait_s + _QUICK_S
        )
        return groups, row

    async def ack(self, version: int) -> None:
        await self._call("ack", version, to=f"free the slots of version {version}")

    async def snapshot(self) -> dict[str, Any]:
        return await self._call("snapshot", to="take a snapshot")

    async def _call(self, method: str, *arguments: Any, to: str) -> Any:
        remote = getattr(self._queue.handle, method)
        return await call(remote.remote(*arguments), owner=self._queue.name, to=to, deadline_s=_QUICK_S)
