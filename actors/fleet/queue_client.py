"""The driver's handle on the replay queue: the same verbs, with deadlines, and a memory of what is under way.

The queue's accounting is durable (its journal), the groups themselves are not: the driver keeps a reference to every
graded group until it is acknowledged. When the queue dies, its successor reads the journal, the driver commits those
groups again and leases again what the learner has in hand. Positions that nobody works on are issued anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import ray
from ray import ObjectRef

from actors.fleet.supervision import Member, Supervisor, Unit
from actors.queue.state import Ticket
from actors.remote_calls import ActorLost, ObjectLost, call
from actors.settings import DeadlineSettings

_QUICK_S = 60.0  # bookkeeping calls take milliseconds; a minute means that the process is gone or stopped


class QueueClient:
    """Reserve, commit, lease, ack and snapshot on the replay queue actor.

    Args:
        unit: the queue; its only member is the actor.
        supervisor: replaces it.
        deadlines: ``sample_s``, ``verify_s`` and ``start_s`` bound the wait for groups, ``start_s`` that for a new
            queue.
    """

    def __init__(self, unit: Unit, supervisor: Supervisor, deadlines: DeadlineSettings) -> None:
        self._unit = unit
        self._supervisor = supervisor
        self._deadlines = deadlines
        self._under_way: set[int] = set()  # positions handed out and not acknowledged
        self._graded: dict[int, ObjectRef] = {}  # groups of those that have been committed
        self._leased: list[int] = []
        self._version = 0
        self.issue: Callable[[Ticket], object] = lambda ticket: None  # begins the rollout of an owed position

    async def prepare(self) -> None:
        """First start: nothing. After a loss: bring the new queue to where the old one was."""
        (queue,) = self._unit.members
        if queue.incarnation == 0:
            self._version = await self._ask(queue, "version", to="name its version")
            # After a resume groups wait in the queue that nobody else has: its successor would not know them.
            held = await self._ask(queue, "held", to="hand over the groups that wait")
            self._graded = {sequence: ray.put(group) for sequence, group in held.items()}
            self._under_way = set(held)
            return
        for sequence, group in sorted(self._graded.items()):
            try:
                await self._ask(queue, "commit", sequence, group, to=f"take the group of position {sequence} again")
            except ObjectLost:  # the queue is owed it, so that it is issued anew below
                del self._graded[sequence]
                self._under_way.discard(sequence)
        acknowledged = await self._ask(queue, "version", to="name its version") > self._version
        if self._leased and not acknowledged:
            await self._ask(queue, "lease", _QUICK_S, self._leased, to="lease the groups of the step again")
        for ticket in await self._ask(queue, "tickets", to="list the positions to sample"):
            if ticket.sequence not in self._under_way:
                self._under_way.add(ticket.sequence)
                self.issue(ticket)

    async def reserve(self) -> list[Ticket]:
        """Tickets for every slot that is free now."""
        tickets = await self._surely("reserve", to="hand out slots")
        self._under_way.update(ticket.sequence for ticket in tickets)
        return tickets

    async def commit(self, sequence: int, group: ObjectRef) -> None:
        """The graded group of a position has arrived.

        Raises:
            ObjectLost: it is gone with its node.
        """
        self._graded[sequence] = group
        try:
            await self._surely("commit", sequence, group, to=f"take the group of position {sequence}")
        except ObjectLost:
            del self._graded[sequence]
            raise

    async def lease(self, step: int) -> tuple[ObjectRef, dict[str, float]]:
        """A reference to the step's groups (they never pass through the driver) and the queue's metrics."""
        # As long as the slowest way of a group: it fails until it is quarantined, each time with an actor replaced.
        tries, limits = self._supervisor.settings.poison_deaths, self._deadlines
        wait_s = tries * (limits.sample_s + limits.verify_s + limits.start_s)
        groups: list[ObjectRef] = []

        def request(queue: Any) -> Any:
            batches, described = queue.lease.options(num_returns=2).remote(wait_s)
            groups[:] = [batches]
            return described

        self._leased, row = await self._insist(
            request, to=f"lease the groups of step {step}", deadline_s=wait_s + _QUICK_S
        )
        return groups[0], row

    async def ack(self, version: int) -> None:
        """The samplers hold `version`: the leased groups are trained, their slots are free."""
        await self._surely("ack", version, to=f"free the slots of version {version}")
        for sequence in self._leased:
            self._graded.pop(sequence, None)
            self._under_way.discard(sequence)
        self._leased = []
        self._version = version

    async def snapshot(self, path: str) -> None:
        """Write the accounting and the waiting groups to a file; between `ack` and `lease`."""
        await self._surely("snapshot", path, to=f"write {path}")

    async def _surely(self, method: str, *arguments: Any, to: str) -> Any:
        return await self._insist(lambda queue: getattr(queue, method).remote(*arguments), to=to, deadline_s=_QUICK_S)

    async def _insist(self, request: Callable[[Any], Awaitable[Any]], *, to: str, deadline_s: float) -> Any:
        """Ask the queue, and again when it was lost and replaced meanwhile."""
        (queue,) = self._unit.members
        while True:
            await self._supervisor.until_serving(self._unit, to=to, deadline_s=4 * self._deadlines.start_s)
            incarnation = queue.incarnation
            try:
                return await call(request(queue.actor(incarnation)), owner=queue.name, to=to, deadline_s=deadline_s)
            except ActorLost as lost:
                self._supervisor.suspect(queue, incarnation, lost)

    async def _ask(self, queue: Member, method: str, *arguments: Any, to: str) -> Any:
        """One question to a queue that does not serve yet."""
        reference = getattr(queue.actor(), method).remote(*arguments)
        if method == "lease":
            reference = queue.actor().lease.options(num_returns=2).remote(*arguments)[1]
        return await call(reference, owner=queue.name, to=to, deadline_s=_QUICK_S)
