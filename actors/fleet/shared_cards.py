"""Who may change the memory of GPUs that samplers share with learner ranks (``cluster.placement: colocated``).

A shared GPU has room for one of two combinations:

- an engine that samples, and a learner rank that does nothing, which holds only its states (with ``learner.sleep`` only
  its weights);
- a learner rank that trains, and an engine that sleeps (``sampler.sleep``).

An engine that starts measures the free memory of its GPU, and vLLM fails if another process frees memory meanwhile. So
an actor that changes its memory waits for its *turn*. A turn of the learner and a turn of a sampler never overlap:

=====================  ================================================  ===============================================
turn                   what happens in it                                the other actors on the GPU meanwhile
=====================  ================================================  ===============================================
learner                ranks start, publish or save                      engines are awake or asleep; none starts
learner, training      a step; new ranks train lost steps again          engines are asleep, or their processes ended
one sampler or more    engines start, or load weights, which wakes them  ranks do nothing, or their processes ended
=====================  ================================================  ===============================================

With ``learner.sleep`` engines sleep also while ranks start, because ranks then load states for which an awake engine
leaves no room. With ``sampler.sleep: none`` engines stay awake while ranks train; turns then only prevent an engine
from starting while the learner works.

Between turns engines sample and ranks do nothing. Before a turn begins,

- the turns of the other side have ended, and
- the supervisor has killed every actor that failed in a turn, because its memory is not known.

The learner goes first if both sides wait; otherwise samplers that start one after the other could delay it without
limit. An actor in a turn never waits for another turn, so there is no deadlock.

Two consequences: a sampler that is lost while the learner works is replaced only after the learner's turn; and a
learner that is replaced while samplers work first makes them sleep, if it has steps to train again or with
``learner.sleep``. They get their weights back from the new ranks (``Broadcaster.wake``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from actors.fleet.supervision import Supervisor
from actors.fleet.units import Changes, Member, Unit
from actors.remote_calls import ActorFailure, ActorLost, ObjectLost, call, within
from actors.settings import DeadlineSettings

logger = logging.getLogger(__name__)


class Cards:
    """GPUs that are not shared, so no actor waits; :class:`SharedCards` implements shared ones."""

    def add(self, sampler: Unit) -> None:
        """A sampler of the run."""

    @contextlib.asynccontextmanager
    async def learner_turn(self, ranks: Sequence[Member], incarnation: int, *, to: str) -> AsyncIterator[None]:
        """While the body runs, this incarnation of the ranks may change the memory of their GPUs.

        Args:
            to: what for, as in "train step 17".

        Raises:
            ActorLost: that incarnation is gone.
            ActorFailure: the GPUs were not free in time.
        """
        yield

    async def sleep(self) -> float:
        """Within a learner turn: free what engines need only while they sample; returns the seconds it took. An engine
        that cannot is replaced.

        Raises:
            ActorFailure: the memory of a lost sampler was not freed in time.
        """
        return 0.0

    @contextlib.asynccontextmanager
    async def sampler_turn(self, sampler: Member, incarnation: int, *, to: str) -> AsyncIterator[None]:
        """While the body runs, the engine of this incarnation may allocate memory; afterwards it is awake.

        Raises:
            ActorLost: that incarnation is gone.
            ActorFailure: the learner did not leave the GPUs in time.
        """
        yield


class _Use(NamedTuple):
    """How one incarnation of an actor (one life, from start to death) uses its GPU.

    "changing": it is in a turn, or failed in one. "steady": its memory does not change. "asleep": it freed memory.
    """

    incarnation: int
    state: Literal["changing", "steady", "asleep"]


class SharedCards(Cards):
    """Gives turns to samplers and learner ranks.

    Args:
        supervisor: replaces samplers that cannot free their memory.
        deadlines: limits of the wait for a turn.
        sleeps: whether samplers free memory for the learner (``sampler.sleep``).
    """

    def __init__(self, supervisor: Supervisor, deadlines: DeadlineSettings, *, sleeps: bool) -> None:
        self._supervisor = supervisor
        self._deadlines = deadlines
        self._sleeps = sleeps
        self._samplers: list[Unit] = []
        self._ranks: Sequence[Member] = ()
        self._uses: dict[Member, _Use] = {}  # of actors that have used their GPU; the incarnation may be gone
        self._learner_turn = False
        self._sampler_turns = 0
        self._learner_waits = 0
        self._changes = Changes()
        supervisor.changes.listen(self._changes.notify)

    def add(self, sampler: Unit) -> None:
        """As the base class says."""
        self._samplers.append(sampler)
        sampler.changes.listen(self._changes.notify)

    @contextlib.asynccontextmanager
    async def learner_turn(self, ranks: Sequence[Member], incarnation: int, *, to: str) -> AsyncIterator[None]:
        """As the base class says."""
        limits = self._deadlines.start_s + self._deadlines.broadcast_s + self._deadlines.sample_s
        key = "deadlines.start_s + deadlines.broadcast_s + deadlines.sample_s"
        self._learner_waits += 1
        try:
            await self._until(lambda: self._free_for_learner, "the learner", to, limits, key)
        finally:
            self._learner_waits -= 1
            self._changes.notify()
        for rank in ranks:
            rank.actor(incarnation)
        self._ranks, self._learner_turn = ranks, True
        try:
            with self._changing(ranks, lambda failure: isinstance(failure, ActorLost)):
                yield
        finally:
            self._learner_turn = False
            self._changes.notify()

    async def sleep(self) -> float:
        """As the base class says."""
        if not self._sleeps:
            return 0.0
        began = time.monotonic()
        # deadline: each call has its own
        await asyncio.gather(*(self._sleep(u) for u in self._samplers if self._state(u.members[0]) == "steady"))
        await self._until(
            lambda: all(self._state(member) in (None, "asleep") for member in self._sampler_members),
            "the learner",
            "train in the memory of samplers that were lost",
            **self._deadlines.of("start_s"),
        )
        return time.monotonic() - began

    @contextlib.asynccontextmanager
    async def sampler_turn(self, sampler: Member, incarnation: int, *, to: str) -> AsyncIterator[None]:
        """As the base class says."""
        limit, key = self._deadlines.replacement_s, self._deadlines.replacement_key
        if not self._free_for_samplers:
            logger.info("%s waits to %s, until the learner leaves the memory of the GPU", sampler.name, to)
        await self._until(lambda: self._free_for_samplers, sampler.name, to, limit, key)
        sampler.actor(incarnation)
        self._sampler_turns += 1
        try:
            with self._changing([sampler], lambda failure: not isinstance(failure, ObjectLost)):
                yield
            sampler.asleep = False
            self._supervisor.changes.notify()  # it may get requests
        finally:
            self._sampler_turns -= 1
            self._changes.notify()

    @property
    def _sampler_members(self) -> list[Member]:
        return [member for unit in self._samplers for member in unit.members]

    @property
    def _free_for_learner(self) -> bool:
        busy = self._learner_turn or self._sampler_turns > 0
        return not busy and all(self._state(member) != "changing" for member in self._sampler_members)

    @property
    def _free_for_samplers(self) -> bool:
        busy = self._learner_turn or self._learner_waits > 0
        return not busy and all(self._state(rank) != "changing" for rank in self._ranks)

    def _state(self, member: Member) -> Literal["changing", "steady", "asleep"] | None:
        """How `member` uses its GPU; None: not at all, because it is gone or has not started to."""
        use = self._uses.get(member)
        if use is None or use.incarnation != member.incarnation or member.handle is None:
            return None
        return use.state if member.present else "changing"  # marked as failed: it is being killed

    @contextlib.contextmanager
    def _changing(self, members: Sequence[Member], unknown: Callable[[ActorFailure], bool]) -> Iterator[None]:
        """While the body runs, `members` change their memory; if it fails with `unknown`, until they are killed."""
        before = {member: self._uses.get(member) for member in members}
        now = {member: _Use(member.incarnation, "changing") for member in members}
        self._uses |= now
        try:
            yield
        except ActorFailure as failure:
            if not unknown(failure):
                self._uses |= {m: before[m] or use._replace(state="steady") for m, use in now.items()}
            raise
        self._uses |= {member: use._replace(state="steady") for member, use in now.items()}

    async def _sleep(self, unit: Unit) -> None:
        (sampler,) = unit.members
        incarnation = sampler.incarnation
        sampler.asleep = True  # it gets no more requests
        try:
            # Requests that wait in an engine are not done before it sleeps, and would miss their deadline.
            await self._until(
                lambda: not (unit.busy() and self._state(sampler) == "steady"),
                sampler.name,
                "finish its requests before it frees its memory",
                **self._deadlines.of("sample_s"),
            )
            await call(
                sampler.actor(incarnation).sleep.remote(),
                owner=sampler.name,
                to="free its memory for the learner",
                deadline_s=self._deadlines.broadcast_s + self._deadlines.sample_s,
                key="deadlines.broadcast_s + deadlines.sample_s",
            )
        except ActorFailure as failure:
            self._supervisor.mark_failed(sampler, incarnation, failure)
            return
        self._uses[sampler] = _Use(incarnation, "asleep")

    async def _until(
        self, condition: Callable[[], bool], owner: str, to: str, deadline_s: float, key: str | None = None
    ) -> None:
        if condition():
            return
        try:
            async with asyncio.timeout(deadline_s):
                while not condition():
                    await self._changes.wait()
        except TimeoutError:
            uses = ", ".join(f"{m.name} {self._state(m)}" for m in (*self._sampler_members, *self._ranks))
            raise ActorFailure(
                f"{owner} could not {to} within {within(deadline_s, key)}: the memory of the shared GPU "
                f"(cluster.placement = colocated) was not free ({uses})"
            ) from None
