"""Replacing actors that die or hang (docs/promises.md, 3 and 5).

A unit (``units.py``) is replaced as a whole: one sampler, one verifier worker, the queue, or all learner ranks. The
:class:`Supervisor` checks every actor once per heartbeat. It kills a lost actor with its processes and, after a
backoff, starts a new one under the same name. Callers never restart an actor: their call fails, they wait until the
unit serves again, and retry. After ``supervision.max_restarts`` the run ends with a report. Optional units (samplers
and verifiers above `min`) join and leave without counting, and so do actors whose node ends after a notice
(``notices.py``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field
from typing import Any

from ray.actor import ActorHandle

from actors.fleet.node_monitors import NodeMonitors
from actors.fleet.notices import Nodes, Notices
from actors.fleet.restarts import Restarts
from actors.fleet.units import Changes, Incident, Member, Unit
from actors.fleet.watch import Watch, until_marked
from actors.process_stats import GpuUse, Heartbeat
from actors.remote_calls import ActorFailure, ActorLost, ActorUnreachable, within
from actors.settings import SupervisionSettings

logger = logging.getLogger(__name__)

CANCEL_SECONDS = 10.0  # for cancelled tasks to end; the run does not wait longer for them
_NO_PROCESS = "\nno process of it has answered yet; `ray status` shows whether a node of the cluster has room for it"
_STEADY_SECONDS = 60.0  # after serving this long, the backoff of a unit starts over


@dataclass
class Supervisor:
    """Keeps the units of a run serving.

    Args:
        settings: the section `supervision`.
        start_s: seconds for a unit to start serving.
        spawn_monitor: creates the :class:`actors.process_stats.NodeMonitor` actor of a node, given the node's id.
        kill: kills an actor, as ``ray.kill``.
        report: called with every incident when it is detected, and again on recovery.
        nodes: tells which nodes will be lost; None: nothing does.
        on_heartbeat: called with an actor's name and each of its heartbeats.
    """

    settings: SupervisionSettings
    start_s: float
    spawn_monitor: Callable[[str], ActorHandle]
    kill: Callable[[ActorHandle], None]
    report: Callable[[Incident], None] = lambda incident: None
    nodes: Nodes | None = None
    on_heartbeat: Callable[[str, Heartbeat], None] = lambda name, heartbeat: None
    changes: Changes = field(default_factory=Changes)
    units: list[Unit] = field(default_factory=list)
    incidents: deque[Incident] = field(default_factory=lambda: deque(maxlen=8))  # the latest, for the report

    def __post_init__(self) -> None:
        self._monitors = NodeMonitors(self.spawn_monitor, self.kill)
        self._watch = Watch(self.settings, self.start_s, self._monitors, self.on_heartbeat)
        self._restarts = Restarts(self.settings.max_restarts)
        self._losses_after_notice: set[tuple[str, int]] = set()  # (actor, incarnation)
        self._incomplete: list[Unit] | None = None  # required units that do not serve; None: not known after a change
        self.changes.listen(self._forget_incomplete)
        self.notices = Notices(self.nodes, self._record)

    @property
    def restarts_of(self) -> Counter[str]:
        """How often each unit was replaced so far."""
        return self._restarts.of

    @property
    def restarts(self) -> int:
        """How many units were replaced so far."""
        return self.restarts_of.total()

    def add(self, unit: Unit) -> Unit:
        """Register `unit`; :meth:`start` brings it into service."""
        self.units.append(unit)
        self._forget_incomplete()
        return unit

    async def start(self, *units: Unit) -> None:
        """Bring `units` into service for the first time, concurrently.

        Raises:
            ActorFailure: the first one; nothing is restarted.
        """
        # deadline: each step of a preparation has its own
        await asyncio.gather(*(self._bring_up(unit) for unit in units))

    async def until_serving(self, unit: Unit, *, to: str, deadline_s: float, key: str | None = None) -> None:
        """Wait until `unit` serves.

        Args:
            key: the settings that `deadline_s` comes from, for the message.

        Raises:
            ActorFailure: after `deadline_s`; the message says what the unit was needed for.
        """
        if unit.serving:  # the usual case, without the cost of a timer
            return
        try:
            async with asyncio.timeout(deadline_s):
                while not unit.serving:
                    await self.changes.wait()
        except TimeoutError:
            raise ActorFailure(
                f"{unit.name} did not come back into service within {within(deadline_s, key)} (needed to {to})"
            ) from None

    def mark_failed(self, member: Member, incarnation: int, failure: ActorFailure) -> None:
        """Have this incarnation of `member` replaced, for example because it missed a caller's deadline."""
        if member.incarnation == incarnation and member.present:
            member.failure = str(failure)
            member.serving = False
            member.changes.notify()
            self.changes.notify()

    async def check(self, member: Member, incarnation: int, failure: ActorFailure) -> None:
        """After a failed call to `member`, ask for a heartbeat and mark it as failed unless it answers.

        If its connection broke, wait until it answers again or its monitor finds out that it is lost.
        """
        if isinstance(failure, ActorUnreachable):
            if await self._watch.reachable_again(member, incarnation):
                return
        elif not isinstance(failure, ActorLost) and member.incarnation == incarnation and member.present:
            try:
                await self._watch.heartbeat(member, self.settings.hung_s)
                return
            except ActorFailure as error:
                failure = error
        self.mark_failed(member, incarnation, failure)

    async def memory_gib(self, *others: Heartbeat) -> dict[str, float]:
        """Memory of all actors and of the processes of `others`, by node; without nodes that do not answer."""
        return await self._monitors.memory_gib([*self._heartbeats(), *others])

    async def gpu_use(self) -> list[GpuUse]:
        """The GPUs of all actors; without nodes that do not answer."""
        return await self._monitors.gpu_use(self._heartbeats())

    def _heartbeats(self) -> list[Heartbeat]:
        return [member.heartbeat for member in self._members if member.heartbeat is not None]

    @property
    def _members(self) -> list[Member]:
        return [member for unit in self.units for member in unit.members]

    def exempt(self, losses: Collection[tuple[str, int]]) -> None:
        """Do not count these losses (actor, incarnation): a quarantined prompt caused them."""
        self._restarts.exempt(losses)

    def lost_after_notice(self, actor: str, incarnation: int) -> bool:
        """Whether this actor was lost because its node ended after a notice, or moved off that node."""
        return (actor, incarnation) in self._losses_after_notice

    @property
    def checkpoint_due(self) -> bool:
        """Whether the node of the learner or of the driver will be lost, so that a checkpoint is needed."""
        return self.notices.for_driver or any(unit.stateful and unit.leaving and unit.busy() for unit in self.units)

    async def until_checkpoint_due(self) -> None:
        """Wait until :attr:`checkpoint_due`."""
        while not self.checkpoint_due:
            await self.changes.wait()  # deadline: the caller cancels it

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run `work` to its end and replace lost units meanwhile.

        Raises:
            ActorFailure: the run has used up its restarts; `work` is cancelled.
        """
        main = asyncio.create_task(work)
        keepers = [asyncio.create_task(self._supervise(unit)) for unit in self.units]
        keepers.append(asyncio.create_task(self._read_notices()))
        try:
            # deadline: the work's own waits have theirs; a keeper ends only with an error
            await asyncio.wait([main, *keepers], return_when=asyncio.FIRST_COMPLETED)
            ended_keeper = next((task for task in keepers if task.done()), None)
            if ended_keeper is not None and not (main.done() and main.exception() is None):
                ended_keeper.result()
            return await main
        finally:
            for task in (main, *keepers):
                task.cancel()
            ended, _ = await asyncio.wait([main, *keepers], timeout=CANCEL_SECONDS)
            for task in ended:
                # One failure is raised above; the others have the same cause. Retrieve them here, so that asyncio does
                # not print a traceback for each.
                if not task.cancelled():
                    task.exception()

    async def _supervise(self, unit: Unit) -> None:
        if unit.members[0].handle is None:  # optional, not started yet
            await self._replace(unit, None)
        while True:
            await self._replace(unit, *await self._until_lost(unit))

    async def _read_notices(self) -> None:
        while True:
            if await self.notices.read(self._members):
                self.changes.notify()
            await asyncio.sleep(self.settings.heartbeat_s)

    async def _until_lost(self, unit: Unit) -> tuple[str, bool]:
        """Why `unit` must be replaced, and whether it moves because its node will be lost."""
        monitors = [asyncio.create_task(f(m)) for m in unit.members for f in (self._watch.until_lost, until_marked)]
        move = asyncio.create_task(self.notices.until_move(unit, self.settings.heartbeat_s))
        try:
            # deadline: a monitor checks its member once per heartbeat
            done, _ = await asyncio.wait([*monitors, move], return_when=asyncio.FIRST_COMPLETED)
            lost = next((task for task in done if task is not move), None)
            return (lost or move).result(), lost is None
        finally:
            for task in (*monitors, move):
                task.cancel()

    async def _replace(self, unit: Unit, reason: str | None, moves: bool = False) -> None:
        """Bring `unit` (back) into service. `reason` is None if it joins for the first time."""
        lost_at, log = time.monotonic(), ""
        explained = reason is not None and await self._explained_by_notice(unit)
        if reason is not None:
            if not moves:  # the notice is recorded
                log = await self._log_of(unit, reason)
                self._record(Incident(unit.name, reason, log=log))
            if lost_at - unit.served_since > _STEADY_SECONDS:
                unit.failures = 0
        waits = reason is None
        while True:
            await self._kill(unit)
            waits = waits or unit.spare()
            if reason is not None:
                self._restarts.add(unit, reason, log, self.incidents, counts=not (waits or explained))
                if not explained:
                    await asyncio.sleep(self._backoff_s(unit))
            try:
                await (self._join(unit) if waits else self._bring_up(unit))
                break
            except ActorFailure as failure:
                reason, log = str(failure), failure.log
                moves = explained = False
                unit.failures += 1
                self._record(Incident(unit.name, reason, log=log))
        if reason is not None:
            unit.failures += not explained
            took = time.monotonic() - lost_at
            self._record(Incident(unit.name, reason, took, kind="move" if moves else "actor"))

    def _backoff_s(self, unit: Unit) -> float:
        # An optional unit may fail for days; from 1024 on the power would be too large for a float.
        factor = 2.0 ** min(unit.failures, 64)
        return min(self.settings.backoff_s * factor, self.settings.backoff_max_s)

    async def _explained_by_notice(self, unit: Unit) -> bool:
        """Whether the loss of `unit` does not count, because its node ends after a notice."""
        if not await self.notices.explains(unit):
            return False
        self._losses_after_notice.update((member.name, member.incarnation) for member in unit.members)
        return True

    async def _join(self, unit: Unit) -> None:
        """Bring `unit` into service as soon as all required units serve and the cluster has reserved its resources.

        A request that waits is demand for an autoscaler. It is withdrawn while a required unit needs the resources.
        """
        try:
            while True:
                is_reserved = self._complete_without(unit) and await unit.reserve()
                if not self._complete_without(unit):  # perhaps only since the request
                    await unit.release()
                elif is_reserved:
                    break
                await asyncio.sleep(self.settings.heartbeat_s)
            await self._bring_up(unit)
        finally:
            if not unit.serving:  # the run ends, or the start failed
                await unit.release()

    def _complete_without(self, unit: Unit) -> bool:
        """Whether all other required units are in service. Every waiting unit checks this once per heartbeat."""
        if self._incomplete is None:
            self._incomplete = [one for one in self.units if not (one.serving or one.spare())]
        return all(one is unit for one in self._incomplete)

    def _forget_incomplete(self) -> None:
        self._incomplete = None

    async def _log_of(self, unit: Unit, reason: str) -> str:
        """The end of the log of the first member that `reason` names; of the first member if it names none."""
        known = [member for member in unit.members if member.heartbeat is not None]
        named = [member for member in known if member.name in reason] or known
        return await self._monitors.log_of(named[0].heartbeat) if named and named[0].heartbeat is not None else ""

    def _record(self, incident: Incident) -> None:
        self.incidents.append(incident)
        self.report(incident)

    async def _kill(self, unit: Unit) -> None:
        """Kill what remains of the unit's actors, so that two incarnations never coexist."""
        for member in unit.members:
            member.serving = False
        self.changes.notify()
        for member in unit.members:
            if member.handle is None:
                continue
            if member.heartbeat is not None:
                logger.info("killing %s (incarnation %d)", member.name, member.incarnation)
                await self._monitors.kill_processes(member.heartbeat, member.name)
            self.kill(member.handle)
            member.handle = member.heartbeat = None
        self.changes.notify()  # their memory is free
        for node in self.notices.vacated(self._members):
            self._monitors.stop(node)  # Ray ends an idle node with a notice
        await unit.release()

    async def _bring_up(self, unit: Unit) -> None:
        for member in unit.members:
            member.incarnation += 1
            member.failure = None
            member.leaving = member.asleep = False
            member.handle = member.spawn(member.incarnation)
        try:
            await self._prepare(unit)
        except ActorFailure as failure:
            waited = failure.__cause__ is None  # no error of the actor, only a deadline
            failure.log = await self._log_of(unit, str(failure)) or (_NO_PROCESS if waited else "")
            raise
        unit.served_since = time.monotonic()
        for member in unit.members:
            where = member.heartbeat.where() if member.heartbeat is not None else "its node is not known yet"
            logger.info("%s serves (incarnation %d; %s)", member.name, member.incarnation, where)
        for member in unit.members:
            member.serving = member.present
        self.changes.notify()

    async def _prepare(self, unit: Unit) -> None:
        """Prepare `unit`.

        Raises:
            ActorFailure: the preparation failed, or one of its actors was stopped meanwhile.
        """
        # Monitors first: an actor must report its processes before the preparation blocks its event loop.
        monitors = [asyncio.create_task(f(m)) for m in unit.members for f in (self._watch.until_stopped, until_marked)]
        preparation = asyncio.ensure_future(unit.prepare())
        try:
            # deadline: every step of a preparation has its own
            done, _ = await asyncio.wait([preparation, *monitors], return_when=asyncio.FIRST_COMPLETED)
            if preparation in done:
                return await preparation
            raise ActorFailure(next(iter(done)).result())
        finally:
            for task in (preparation, *monitors):
                task.cancel()
            ended, _ = await asyncio.wait([preparation], timeout=CANCEL_SECONDS)
            for task in ended:
                if not task.cancelled():
                    task.exception()  # retrieve it, so that asyncio does not print it
