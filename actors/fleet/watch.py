"""Watching one actor: its heartbeats, the state of its processes, and why it must be replaced."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from actors.fleet.hang_detection import HangDetector
from actors.fleet.node_monitors import NodeMonitors
from actors.fleet.units import Member
from actors.process_stats import INSPECT_SECONDS, Heartbeat
from actors.remote_calls import ActorFailure, ActorUnreachable, call
from actors.settings import SupervisionSettings

logger = logging.getLogger(__name__)

_PREPARATION_SECONDS = 10.0  # for the preparation of an actor that does not answer to fail


async def until_marked(member: Member) -> str:
    """Why a caller marked `member` as failed. Separate from `Watch.until_lost`, which waits seconds for a lost node."""
    while member.failure is None:
        await member.changes.wait()  # deadline: cancelled with `Watch.until_lost`, which checks once per heartbeat
    return member.failure


class Watch:
    """Watches the actors of a run.

    Args:
        settings: the section `supervision`.
        start_s: seconds for an actor to start serving.
        monitors: of the nodes.
        on_heartbeat: called with an actor's name and each of its heartbeats.
    """

    def __init__(
        self,
        settings: SupervisionSettings,
        start_s: float,
        monitors: NodeMonitors,
        on_heartbeat: Callable[[str, Heartbeat], None],
    ) -> None:
        self._settings, self._start_s = settings, start_s
        self._monitors = monitors
        self._on_heartbeat = on_heartbeat

    async def reachable_again(self, member: Member, incarnation: int) -> bool:
        """Whether this incarnation of `member`, whose connection broke, answers again before it is lost."""
        broke = time.monotonic()
        while time.monotonic() - broke < self._settings.busy_s:
            if member.incarnation != incarnation or not member.present:
                return False
            if member.answered_at > broke:
                return True
            await asyncio.sleep(self._settings.heartbeat_s)
        return False

    async def until_lost(self, member: Member) -> str:
        """Why `member` was lost, from its heartbeats and process stats."""
        detector = HangDetector(time.monotonic(), self._settings.hung_s, self._settings.busy_s)
        request: asyncio.Task[Any] | None = None
        reachable = True
        try:
            while True:
                request = request or asyncio.create_task(self.heartbeat(member, self._settings.busy_s))
                await asyncio.wait([request], timeout=self._settings.heartbeat_s)
                if request.done():
                    try:
                        member.heartbeat = request.result()
                        detector.heartbeat(time.monotonic(), working=member.heartbeat.working)
                        reachable = True
                    except ActorUnreachable as failure:  # long silence is judged below; Ray reports a death next time
                        if reachable:
                            logger.warning("%s; it is asked again", failure)
                        reachable = False
                    except ActorFailure as failure:
                        return str(failure)
                    request = None
                await self._observe(detector, member)
                reason = detector.diagnosis(time.monotonic())
                if reason is not None:
                    return reason
                await asyncio.sleep(self._settings.heartbeat_s if request is None else 0)
        finally:
            if request is not None:
                request.cancel()

    async def heartbeat(self, member: Member, deadline_s: float) -> Heartbeat:
        """Ask for a heartbeat.

        Raises:
            ActorFailure: there was no answer.
        """
        answer: Heartbeat = await call(
            member.actor().heartbeat.remote(),
            owner=member.name,
            to="answer a heartbeat",
            deadline_s=deadline_s,
        )
        member.answered_at = time.monotonic()
        self._on_heartbeat(member.name, answer)
        return answer

    async def until_stopped(self, member: Member) -> str:
        """Why `member`, which is being prepared, will never serve: its processes are stopped.

        No answer is normal here: building an engine blocks its event loop for minutes, and reading a model from a slow
        disk uses hardly any processor time. If the actor dies, its preparation fails.
        """
        try:
            member.heartbeat = await self.heartbeat(member, self._start_s + self._settings.busy_s)
        except ActorFailure as failure:
            await asyncio.sleep(_PREPARATION_SECONDS)  # the preparation fails too, with a better message
            return str(failure)
        detector = HangDetector(time.monotonic(), self._settings.hung_s, self._settings.busy_s)
        while True:
            detector.heartbeat(time.monotonic(), working=False)
            await self._observe(detector, member, family=True)
            reason = detector.diagnosis(time.monotonic())
            if reason is not None:
                return reason
            await asyncio.sleep(self._settings.heartbeat_s)

    async def _observe(self, detector: HangDetector, member: Member, *, family: bool = False) -> None:
        began = time.monotonic()
        stats = await self._monitors.inspect(member.heartbeat, family=family) if member.heartbeat is not None else {}
        now = time.monotonic()
        detector.observe(now, stats, waited_s=min(now - began, INSPECT_SECONDS))
