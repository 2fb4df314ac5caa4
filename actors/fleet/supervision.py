"""Replacing actors that die or hang (DESIGN.md, promises 3 and 5).

A :class:`Unit` is what is replaced together: one sampler, one verifier worker, the queue, or all learner ranks. The
:class:`Supervisor` looks at every actor once a second; one that is lost is killed with its processes, and after a pause
a new one takes its place under the same name. Whoever waits for an actor finds out by its call, waits until the unit
serves again, and asks once more: no caller restarts anything. After ``supervision.max_restarts`` the run ends with a
report. What the run can do without (samplers and verifiers above `min`) comes and goes freely.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import RayError

from actors.fleet.hang_detection import HangDetector
from actors.fleet.node_monitors import NodeMonitors
from actors.process_stats import LOOK_SECONDS, Heartbeat
from actors.remote_calls import ActorFailure, ActorLost, call, within
from actors.settings import SupervisionSettings
from actors.threads import in_daemon_thread

__all__ = ["ActorFailure", "ActorLost", "Changes", "Incident", "Member", "Supervisor", "Unit", "call"]

CANCEL_SECONDS = 10.0  # for cancelled waits to end; whatever holds on longer must not hold the run
_STEADY_SECONDS = 60.0  # an actor that served this long begins a new row of back-offs


@dataclass(eq=False)
class Member:
    """An actor of the run under the name that messages use; `handle` changes when it is replaced."""

    name: str
    spawn: Callable[[int], ActorHandle]  # makes the actor; its argument counts the earlier ones
    handle: Any = None
    incarnation: int = -1  # 0: the first
    serving: bool = False
    vital: Heartbeat | None = None  # its last answer
    alarm: str | None = None  # why a caller gave it up

    def actor(self, incarnation: int | None = None) -> Any:
        """The actor, for the call that is made now. Ask for it again after every `await`: it may have been replaced.

        Args:
            incarnation: the one that is meant; None: any.

        Raises:
            ActorLost: that one is gone.
        """
        if self.handle is None or incarnation not in (None, self.incarnation):
            raise ActorLost(f"{self.name} was lost, and is being replaced")
        return self.handle

    @property
    def present(self) -> bool:
        """There is such an actor, and nobody gave it up; it may still be starting."""
        return self.handle is not None and self.alarm is None


@dataclass(eq=False)
class Unit:
    """Members that are started, lost and replaced together.

    Args:
        prepare: brings freshly made members into service (loads a model, the current weights, ...).
        spare: true while the run can do without it, so that it waits for `room`, and its losses do not count.
        room: true when the cluster has the resources that it takes; may block, and is called in a thread.
    """

    name: str
    members: Sequence[Member]
    prepare: Callable[[], Awaitable[None]]
    spare: Callable[[], bool] = lambda: False
    room: Callable[[], bool] = lambda: True
    failures: int = 0  # in a row
    served_since: float = 0.0

    @property
    def serving(self) -> bool:
        return all(member.serving for member in self.members)


@dataclass(frozen=True)
class Incident:
    """One loss: of what, why, after how many seconds it served again (None: it has not yet), and how its log ends."""

    unit: str
    reason: str
    recovered_s: float | None = None
    log: str = ""

    def __str__(self) -> str:
        again = "" if self.recovered_s is None else f"; it serves again after {self.recovered_s:.1f} s"
        where = self.log.strip().partition("\n")[0].partition(", which ends")[0] if not again else ""
        return f"{self.unit} was lost: {self.reason}{again}" + (f" ({where})" if where else "")


class Changes:
    """Wakes everybody who waits for a change of who serves; the waiter looks again and may wait again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()  # deadline: every caller waits inside asyncio.timeout


@dataclass
class Supervisor:
    """Keeps the units of a run in service.

    Args:
        settings: the section `supervision`.
        start_s: seconds for a unit to come into service.
        node_watch: makes the :class:`actors.process_stats.NodeMonitor` actor of a node, by the node's id.
        kill: ends an actor, as ``ray.kill``.
        report: is told of every incident, when it is seen and again when it is over.
    """

    settings: SupervisionSettings
    start_s: float
    node_watch: Callable[[str], ActorHandle]
    kill: Callable[[ActorHandle], None]
    report: Callable[[Incident], None] = lambda incident: None
    changes: Changes = field(default_factory=Changes)
    units: list[Unit] = field(default_factory=list)
    incidents: deque[Incident] = field(default_factory=lambda: deque(maxlen=8))  # the last ones, for the report
    restarts: int = 0

    def __post_init__(self) -> None:
        self._watches = NodeMonitors(self.node_watch, self.kill)
        self._joining = asyncio.Lock()  # two that look at the same free processor must not both take it
        self._charged: set[tuple[str, int]] = set()  # losses (unit, incarnation) that count against max_restarts

    def add(self, unit: Unit) -> Unit:
        """Take `unit` into care; :meth:`start` brings it into service."""
        self.units.append(unit)
        return unit

    async def start(self, *units: Unit) -> None:
        """Bring `units` into service for the first time, together.

        Raises:
            ActorFailure: of the first that cannot; nothing was restarted.
        """
        # deadline: preparing has its own, each step of it
        await asyncio.gather(*(self._bring_up(unit) for unit in units))

    async def until_serving(self, unit: Unit, *, to: str, deadline_s: float, key: str | None = None) -> None:
        """Wait until `unit` serves.

        Args:
            key: the settings that `deadline_s` comes from, for the message.

        Raises:
            ActorFailure: after `deadline_s`, saying what it was wanted for.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while not unit.serving:
                    await self.changes.wait()
        except TimeoutError:
            raise ActorFailure(
                f"{unit.name} did not come back into service within {within(deadline_s, key)} (needed to {to})"
            ) from None

    def suspect(self, member: Member, incarnation: int, failure: ActorFailure) -> None:
        """A caller gives that incarnation of `member` up, for example because it missed a deadline."""
        if member.incarnation == incarnation and member.present:
            member.alarm = str(failure)
            member.serving = False
            self.changes.notify()

    async def examine(self, member: Member, incarnation: int, failure: ActorFailure) -> None:
        """A call to `member` failed: find out at once whether the actor did, so that nobody asks a dead one again."""
        if not isinstance(failure, ActorLost) and member.incarnation == incarnation and member.present:
            try:
                await self._ask(member, self.settings.hung_s)
                return
            except ActorFailure as worse:
                failure = worse
        self.suspect(member, incarnation, failure)

    async def memory_gib(self, *others: Heartbeat) -> dict[str, float]:
        """Memory of all actors and of the processes of `others`, by node; without nodes that do not answer."""
        beats = [member.vital for unit in self.units for member in unit.members if member.vital is not None]
        return await self._watches.memory_gib([*beats, *others])

    def excuse(self, losses: Collection[tuple[str, int]]) -> None:
        """These losses (actor, incarnation) were the fault of a prompt that is tried no more."""
        self._charged.difference_update(losses)

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run `work` to its end, and keep every unit in service meanwhile.

        Raises:
            ActorFailure: when the run has used up its restarts; `work` is cancelled.
        """
        main = asyncio.create_task(work)
        keepers = [asyncio.create_task(self._keep(unit)) for unit in self.units]
        try:
            # deadline: the work's own waits have theirs; a keeper ends only by an error
            await asyncio.wait([main, *keepers], return_when=asyncio.FIRST_COMPLETED)
            over = next((task for task in keepers if task.done()), None)
            if over is not None and not (main.done() and main.exception() is None):
                over.result()
            return await main
        finally:
            for task in (main, *keepers):
                task.cancel()
            ended, _ = await asyncio.wait([main, *keepers], timeout=CANCEL_SECONDS)
            for task in ended:
                # One failure is raised above. The others are its echoes (every wait for the same lost actor fails):
                # asked for here, so that asyncio does not print a traceback for each after the message.
                if not task.cancelled():
                    task.exception()

    async def _keep(self, unit: Unit) -> None:
        if unit.members[0].handle is None:  # it may join later
            await self._replace(unit, None)
        while True:
            await self._replace(unit, await self._until_lost(unit))

    async def _until_lost(self, unit: Unit) -> str:
        watches = [asyncio.create_task(watch(m)) for m in unit.members for watch in (self._watch, self._alarm)]
        try:
            # deadline: a watch judges its member once a heartbeat
            done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for task in watches:
                task.cancel()

    async def _alarm(self, member: Member) -> str:
        """Why a caller gave `member` up, at once: a look at a node that is gone takes seconds."""
        while member.alarm is None:
            await self.changes.wait()  # deadline: ends with the watch beside it, which judges once a heartbeat
        return member.alarm

    async def _watch(self, member: Member) -> str:
        """Why `member` was lost, as its own answers and its processes tell."""
        pulse = HangDetector(time.monotonic(), self.settings.hung_s, self.settings.busy_s)
        asked: asyncio.Task[Any] | None = None
        try:
            while True:
                asked = asked or asyncio.create_task(self._ask(member, self.settings.busy_s))
                await asyncio.wait([asked], timeout=self.settings.heartbeat_s)
                if asked.done():
                    try:
                        member.vital = asked.result()
                    except ActorFailure as failure:
                        return str(failure)
                    pulse.answered(time.monotonic(), working=member.vital.working)
                    asked = None
                await self._look(pulse, member)
                ailment = pulse.ailment(time.monotonic())
                if ailment is not None:
                    return ailment
                await asyncio.sleep(self.settings.heartbeat_s if asked is None else 0)
        finally:
            if asked is not None:
                asked.cancel()

    async def _ask(self, member: Member, deadline_s: float) -> Heartbeat:
        return await call(
            member.actor().beat.remote(),
            owner=member.name,
            to="answer a heartbeat",
            deadline_s=deadline_s,
        )

    async def _watch_start(self, member: Member) -> str:
        """Why `member`, which is being prepared, will never serve: it stands still.

        Its silence proves nothing: building an engine keeps its event loop for minutes, and reading a model from a slow
        disk takes hardly any processor time. Whether it dies, its preparation tells.
        """
        try:
            member.vital = await self._ask(member, self.start_s + self.settings.busy_s)
        except ActorFailure as failure:
            await asyncio.sleep(CANCEL_SECONDS)  # for the preparation, which knows better what it was to do
            return str(failure)
        pulse = HangDetector(time.monotonic(), self.settings.hung_s, self.settings.busy_s)
        while True:
            pulse.answered(time.monotonic(), working=False)
            await self._look(pulse, member, family=True)
            ailment = pulse.ailment(time.monotonic())
            if ailment is not None:
                return ailment
            await asyncio.sleep(self.settings.heartbeat_s)

    async def _look(self, pulse: HangDetector, member: Member, *, family: bool = False) -> None:
        began = time.monotonic()
        vitals = await self._watches.look(member.vital, family=family) if member.vital is not None else {}
        now = time.monotonic()
        pulse.looked(now, vitals, waited_s=min(now - began, LOOK_SECONDS))

    async def _replace(self, unit: Unit, reason: str | None) -> None:
        """Bring `unit` (back) into service. `reason` is None for one that joins for the first time."""
        lost_at, log = time.monotonic(), ""
        if reason is not None:
            log = await self._log_of(unit, reason)
            self._note(Incident(unit.name, reason, log=log))
            if lost_at - unit.served_since > _STEADY_SECONDS:
                unit.failures = 0
        waits = reason is None
        while True:
            await self._end(unit)
            waits = waits or unit.spare()
            if reason is not None:
                self._count_restart(unit, reason, log, counts=not waits)
                await asyncio.sleep(min(self.settings.backoff_s * 2.0**unit.failures, self.settings.backoff_max_s))
            try:
                await (self._join(unit) if waits else self._bring_up(unit))
                break
            except ActorFailure as failure:
                reason, log = str(failure), failure.log
                unit.failures += 1
                self._note(Incident(unit.name, reason, log=log))
        if reason is not None:
            unit.failures += 1
            self._note(Incident(unit.name, reason, time.monotonic() - lost_at))

    async def _join(self, unit: Unit) -> None:
        """Bring `unit` into service as soon as nothing is amiss that the run cannot do without, and there is room."""
        while True:
            # deadline: whoever holds the lock looks for room or prepares a unit, and both have theirs
            async with self._joining:
                whole = all(other.serving or other.spare() for other in self.units if other is not unit)
                if whole and await self._has_room(unit):
                    await self._bring_up(unit)
                    return
            await asyncio.sleep(self.settings.heartbeat_s)

    async def _has_room(self, unit: Unit) -> bool:
        try:
            return await in_daemon_thread(unit.room, owner="Ray", to="name free resources", deadline_s=LOOK_SECONDS)
        except (TimeoutError, RayError):
            return False  # a cluster that cannot say is asked again

    async def _log_of(self, unit: Unit, reason: str) -> str:
        """How the logs of the members that `reason` names end; of the first where it names none."""
        known = [member for member in unit.members if member.vital is not None]
        named = [member for member in known if member.name in reason] or known
        return await self._watches.log_of(named[0].vital) if named and named[0].vital is not None else ""

    def _count_restart(self, unit: Unit, reason: str, log: str, *, counts: bool) -> None:
        if counts and len(self._charged) >= self.settings.max_restarts:
            failure = ActorFailure(self._account(unit, reason))
            failure.log = log
            raise failure
        self.restarts += 1
        if counts:
            self._charged.add((unit.name, unit.members[0].incarnation))

    def _account(self, unit: Unit, reason: str) -> str:
        """The last words of a run that may restart nothing any more."""
        if self.settings.max_restarts == 0:
            return f"{unit.name} was lost: {reason} (supervision.max_restarts is 0)"
        lines = [f"  {incident}" for incident in self.incidents]
        return "\n".join(
            [
                f"{unit.name} was lost: {reason}",
                f"the run has used up its {self.settings.max_restarts} restarts (supervision.max_restarts); the last:",
                *lines,
            ]
        )

    def _note(self, incident: Incident) -> None:
        self.incidents.append(incident)
        self.report(incident)

    async def _end(self, unit: Unit) -> None:
        """End whatever is left of the unit's actors: no two incarnations at once."""
        for member in unit.members:
            member.serving = False
        self.changes.notify()
        for member in unit.members:
            if member.handle is None:
                continue
            if member.vital is not None:
                await self._watches.end(member.vital, member.name)
            self.kill(member.handle)
            member.handle = member.vital = None

    async def _bring_up(self, unit: Unit) -> None:
        for member in unit.members:
            member.incarnation += 1
            member.alarm = None
            member.handle = member.spawn(member.incarnation)
        try:
            await self._prepare(unit)
        except ActorFailure as failure:
            failure.log = await self._log_of(unit, str(failure))
            raise
        unit.served_since = time.monotonic()
        for member in unit.members:
            member.serving = member.present
        self.changes.notify()

    async def _prepare(self, unit: Unit) -> None:
        """Prepare `unit`, unless one of its actors stands still meanwhile.

        Raises:
            ActorFailure: it does, or the preparation failed.
        """
        # First the watches: an actor must tell its processes before it begins what keeps it from answering.
        watches = [asyncio.create_task(watch(m)) for m in unit.members for watch in (self._watch_start, self._alarm)]
        preparation = asyncio.ensure_future(unit.prepare())
        try:
            # deadline: every step of a preparation has its own
            done, _ = await asyncio.wait([preparation, *watches], return_when=asyncio.FIRST_COMPLETED)
            if preparation in done:
                return await preparation
            raise ActorFailure(next(iter(done)).result())
        finally:
            for task in (preparation, *watches):
                task.cancel()
            ended, _ = await asyncio.wait([preparation], timeout=CANCEL_SECONDS)
            for task in ended:
                if not task.cancelled():
                    task.exception()  # asked for, so that asyncio does not print what is told above
