"""Commits of graded groups in batches: one call to the replay queue for all groups that arrive within a short time.

Every call costs the driver processor time, mostly inside Ray (docs/cluster.md). With hundreds of groups per second,
one call per group would take a large part of a core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ray import ObjectRef

from actors.remote_calls import ObjectLost

INTERVAL_S = 0.01
MAX_GROUPS = 256

Graded = tuple[int, ObjectRef]  # the position of a group, and the group
Send = Callable[[Sequence[Graded]], Awaitable[None]]  # all groups in one call


@dataclass(eq=False)
class _Waiting:
    group: Graded
    done: asyncio.Future[None]


class CommitBatches:
    """Sends groups together.

    Args:
        send: commits groups in one call.
        most: groups of one call.
        interval_s: seconds from the start of one batch to that of the next. A group that arrives after a longer pause
            is not delayed, and groups above `most` follow at once.
    """

    def __init__(self, send: Send, most: int = MAX_GROUPS, interval_s: float = INTERVAL_S) -> None:
        self._send = send
        self._most = most
        self._interval_s = interval_s
        self._waiting: list[_Waiting] = []
        self._sending: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references to tasks
        self._next = 0.0  # earliest start of the next batch, by the clock of the event loop

    async def add(self, group: Graded) -> None:
        """Commit a group together with others.

        Raises:
            ObjectLost: it is gone with its node; the others of its batch are committed.
            ActorFailure: as `send`.
        """
        loop = asyncio.get_running_loop()
        one = _Waiting(group, loop.create_future())
        self._waiting.append(one)
        if len(self._waiting) == 1:
            loop.call_at(max(loop.time(), self._next), self._start)
        await one.done  # deadline: `send` has one

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        self._next = loop.time() + self._interval_s
        if self._waiting:
            loop.call_soon(self._start)
        task = loop.create_task(self._commit(batch))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        failures: dict[int, Exception]
        try:
            failures = {**await find_lost([one.group for one in batch], self._send)}
        except Exception as error:  # noqa: BLE001 - for the callers of `add`
            failures = {one.group[0]: error for one in batch}
        for one in batch:
            if one.done.done():
                continue  # its caller was cancelled
            if (failure := failures.get(one.group[0])) is not None:
                one.done.set_exception(failure)
            else:
                one.done.set_result(None)


async def find_lost(groups: Sequence[Graded], send: Send) -> dict[int, ObjectLost]:
    """Commit `groups` in as few calls as possible; returns those that were lost with their node, by position.

    A call fails as a whole if one of its arguments is lost, so its halves are tried again.
    """
    try:
        await send(groups)
    except ObjectLost as lost:
        if len(groups) == 1:
            return {groups[0][0]: lost}
        middle = len(groups) // 2
        return await find_lost(groups[:middle], send) | await find_lost(groups[middle:], send)
    return {}
