"""The driver's handle on the replay queue: its calls with deadlines, and recovery when the queue is lost.

The queue's accounting survives its death, in the journal; the graded groups do not. So the driver keeps a reference to
every graded group until the group is acknowledged. When the queue dies, its successor reads the journal. The driver
then commits the kept groups again, and leases the groups that the learner is training on again. Positions whose rollout
is not running are issued again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import ray
from ray import ObjectRef

from actors.fleet.commits import MAX_GROUPS, CommitBatches, Graded, find_lost
from actors.fleet.supervision import Supervisor
from actors.fleet.units import Member, Unit
from actors.queue.allocation import Outcome
from actors.queue.state import Ticket
from actors.remote_calls import ActorLost, ObjectLost, call
from actors.settings import DeadlineSettings

Request = Callable[[Any], Awaitable[Any]]  # makes a remote call on the queue's handle

_QUICK_S = 60.0  # bookkeeping calls take milliseconds; a minute means that the process is gone or stopped


class QueueClient:
    """Issue, commit, lease, ack and snapshot on the replay queue actor.

    Args:
        unit: the queue; its only member is the actor.
        supervisor: replaces it.
        deadlines: ``sample_s``, ``verify_s`` and ``start_s`` bound the wait for groups, ``start_s`` that for a new
            queue, and ``checkpoint_s`` that for a snapshot.
        groups_per_commit: most groups of one call.
    """

    def __init__(
        self, unit: Unit, supervisor: Supervisor, deadlines: DeadlineSettings, groups_per_commit: int = MAX_GROUPS
    ) -> None:
        self._unit = unit
        self._supervisor = supervisor
        self._deadlines = deadlines
        self._issue: Callable[[Ticket], object] | None = None
        self._under_way: set[int] = set()  # positions issued and not acknowledged
        self._graded: dict[int, ObjectRef] = {}  # groups of those that have been committed
        self._leased: list[int] = []
        self._version = 0
        self._groups_per_commit = groups_per_commit
        self._batches = CommitBatches(self._commit, groups_per_commit)

    def start_issuing(self, issue: Callable[[Ticket], object]) -> None:
        """From now on call `issue` with the ticket of each position to sample, also after a lost queue was replaced."""
        self._issue = issue

    def stop_issuing(self) -> None:
        """Issue nothing more; what is not sampled yet is issued when the run is resumed."""
        self._issue = None

    async def prepare(self) -> None:
        """Connect to a new queue; after a loss, restore the state of the old one."""
        (queue,) = self._unit.members
        if queue.incarnation == 0:
            self._version = await self._ask(queue, lambda new: new.version.remote(), to="name its version")
            # After a resume, groups from the checkpoint wait in the queue only; its successor would not have them.
            held = await self._ask(queue, lambda new: new.held.remote(), to="hand over the groups that wait")
            self._graded = {sequence: ray.put(group) for sequence, group in held.items()}
            self._under_way = set(held)
            return
        for sequence in await self._commit_again(queue):  # lost, so it is issued again below
            self._graded.pop(sequence, None)
            self._under_way.discard(sequence)
        acknowledged = await self._ask(queue, lambda new: new.version.remote(), to="name its version") > self._version
        if self._leased and not acknowledged:
            await self._ask(
                queue,
                lambda new: new.lease.options(num_returns=2).remote(_QUICK_S, self._leased)[1],
                to="lease the groups of the step again",
            )
        tickets = await self._ask(queue, lambda new: new.tickets.remote(), to="list the positions to sample")
        self._issue_all([ticket for ticket in tickets if ticket.sequence not in self._under_way])

    async def issue_free_slots(self) -> None:
        """Reserve every free slot and issue its ticket."""
        self._issue_all(await self._call(lambda queue: queue.reserve.remote(), to="hand out slots"))

    def _issue_all(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            self._under_way.add(ticket.sequence)
            if self._issue is not None:
                self._issue(ticket)

    async def commit(self, sequence: int, group: ObjectRef) -> None:
        """The graded group of a position has arrived.

        Raises:
            ObjectLost: it is gone with its node.
        """
        self._graded[sequence] = group
        try:
            await self._batches.add((sequence, group))
        except ObjectLost:
            self._graded.pop(sequence, None)  # a new queue may have missed it before
            raise

    async def _commit(self, groups: Sequence[Graded]) -> None:
        await self._call(partial(_commit, groups=groups), to=f"take {_named(groups)}")

    async def _commit_again(self, queue: Member) -> list[int]:
        """Commit all graded groups to a new queue; returns the positions of groups that were lost with their node."""

        async def send(groups: Sequence[Graded]) -> None:
            await self._ask(queue, partial(_commit, groups=groups), to=f"take {_named(groups)} again")

        graded, most = sorted(self._graded.items()), self._groups_per_commit
        lost: list[int] = []
        for first in range(0, len(graded), most):
            lost += await find_lost(graded[first : first + most], send)
        return lost

    async def lease(self, step: int) -> tuple[ObjectRef, dict[str, float]]:
        """A reference to the step's groups (they never pass through the driver) and the queue's metrics."""
        # Worst case for one group: it fails `poison_deaths` times and then alone; each failure restarts an actor.
        tries, limits = self._supervisor.settings.poison_deaths + 1, self._deadlines
        wait_s = tries * (limits.sample_s + limits.verify_s + limits.start_s)
        groups: list[ObjectRef] = []

        def request(queue: Any) -> Any:
            batches, described = queue.lease.options(num_returns=2).remote(wait_s)
            groups[:] = [batches]
            return described

        self._leased, row = await self._call(
            request, to=f"lease the groups of step {step}", deadline_s=wait_s + _QUICK_S
        )
        return groups[0], row

    async def outcomes(self) -> list[Outcome]:
        """Correct and judged samples of the leased groups."""
        found: list[Outcome] = await self._call(
            lambda queue: queue.outcomes.remote(), to="count the correct samples of the leased groups"
        )
        return found

    async def ack(self, version: int) -> None:
        """The samplers hold `version`: the leased groups are trained, their slots are free."""
        await self._call(lambda queue: queue.ack.remote(version), to=f"free the slots of version {version}")
        for sequence in self._leased:
            self._graded.pop(sequence, None)
            self._under_way.discard(sequence)
        self._leased = []
        self._version = version

    async def snapshot(self, path: str) -> None:
        """Write the accounting and the waiting groups to a file; between `ack` and `lease`."""
        await self._call(
            lambda queue: queue.snapshot.remote(path), to=f"write {path}", **self._deadlines.of("checkpoint_s")
        )

    async def _call(self, request: Request, *, to: str, deadline_s: float = _QUICK_S, key: str | None = None) -> Any:
        """The answer of the queue; a queue that is lost meanwhile is replaced and asked again."""
        (queue,) = self._unit.members
        while True:
            await self._supervisor.until_serving(
                self._unit, to=to, deadline_s=4 * self._deadlines.start_s, key="4 x deadlines.start_s"
            )
            incarnation = queue.incarnation
            try:
                reference = request(queue.actor(incarnation))
                return await call(reference, owner=queue.name, to=to, deadline_s=deadline_s, key=key)
            except ActorLost as lost:
                self._supervisor.mark_failed(queue, incarnation, lost)

    async def _ask(self, queue: Member, request: Request, *, to: str) -> Any:
        """The answer of a new queue, which does not serve yet."""
        return await call(request(queue.actor()), owner=queue.name, to=to, deadline_s=_QUICK_S)


def _commit(queue: Any, *, groups: Sequence[Graded]) -> Awaitable[Any]:
    # Ray fetches the groups for the queue only if they are arguments themselves, not inside of one.
    return queue.commit.remote([sequence for sequence, _ in groups], *(group for _, group in groups))


def _named(groups: Sequence[Graded]) -> str:
    first = groups[0][0]
    return f"the group of position {first}" if len(groups) == 1 else f"{len(groups)} groups (position {first}, ...)"
