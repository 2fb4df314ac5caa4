"""Per-node monitor actors: they inspect and kill processes for the supervisor. One that stops answering is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle

from actors.process_stats import LOOK_SECONDS, Heartbeat, ProcessStats
from actors.remote_calls import ActorFailure, call

_TAIL_SECONDS = 2.0  # to read the end of a log: a lost node must not delay the replacement of its actors
_START_SECONDS = 60.0  # for a new monitor to start; on an overloaded machine another one would not start sooner


@dataclass(eq=False)
class _Monitor:
    handle: Any
    made: float  # time of a monotonic clock
    failed_at: float | None = None  # when the first of the looks ended that failed in a row


class NodeMonitors:
    """One :class:`actors.process_stats.NodeMonitor` on every node that holds actors, started at its first use.

    Args:
        spawn: makes the monitor of a node, by the node's id.
        kill: ends an actor, as ``ray.kill``.
    """

    def __init__(self, spawn: Callable[[str], ActorHandle], kill: Callable[[ActorHandle], None]) -> None:
        self._spawn = spawn
        self._kill = kill
        self._monitors: dict[str, _Monitor] = {}

    async def look(self, beat: Heartbeat, *, family: bool = False) -> dict[int, ProcessStats]:
        """The stats of the processes of `beat`; empty if the node's monitor did not answer.

        After two failed looks in a row the monitor is replaced: it may hang, and nothing else would detect that.
        """
        monitor = self._monitor(beat.node)
        began = time.monotonic()
        try:
            seen = await self._ask(
                monitor, lambda handle: handle.look.remote(beat.processes, family), beat, to="look at its processes"
            )
        except ActorFailure:  # the node may be lost: then the actor's silence or death shows it
            again = monitor.failed_at is not None and monitor.failed_at <= began
            if again and began - monitor.made >= _START_SECONDS:
                self._forget(beat.node, monitor)
                self._kill(monitor.handle)
            monitor.failed_at = monitor.failed_at or time.monotonic()
            return {}
        monitor.failed_at = None
        return seen

    async def memory_gib(self, beats: Iterable[Heartbeat]) -> dict[str, float]:
        """Memory of the processes of `beats` and their descendants, by node; without nodes that do not answer."""
        by_node: defaultdict[str, list[Heartbeat]] = defaultdict(list)
        for beat in beats:
            by_node[beat.node].append(beat)
        readings: dict[str, float] = {}

        async def read(node: str, beats: list[Heartbeat]) -> None:
            processes = [process for beat in beats for process in beat.processes]
            with contextlib.suppress(ActorFailure):  # the looks of the supervisor find out what is wrong with the node
                readings[node] = await self._ask(
                    self._monitor(node),
                    lambda handle: handle.memory_gib.remote(processes),
                    beats[0],
                    to="measure memory",
                )

        # deadline: every question has one
        await asyncio.gather(*(read(*item) for item in by_node.items()))
        return readings

    async def log_of(self, beat: Heartbeat) -> str:
        """Where the logs of an actor are and how they end, as lines of a message; notes logs that cannot be read."""
        if not beat.logs:
            return ""
        try:
            monitor = self._monitor(beat.node)
            tails = await self._ask(
                monitor, lambda handle: handle.tail.remote(beat.logs), beat, to="read its log", deadline_s=_TAIL_SECONDS
            )
        except ActorFailure:  # the node is lost or overloaded; the message still says where the log is
            return "".join(f"\nlog: {path} on {beat.host} (that node does not answer)" for path in beat.logs)
        lines = []
        for path, tail in tails.items():
            lines.append(f"log: {path} on {beat.host}" + (", which ends with" if tail else " (empty)"))
            lines += [f"  {line}" for line in tail]
        return "".join(f"\n{line}" for line in lines)

    async def end(self, beat: Heartbeat, name: str) -> None:
        """SIGKILL to the processes of `beat`, by a new monitor if the old one does not answer."""
        monitor = self._monitor(beat.node)
        try:
            return await self._kill_all(monitor, beat, name, LOOK_SECONDS)
        except ActorFailure:  # it hangs or is slow, or the node is lost with its processes
            self._forget(beat.node, monitor)
        try:
            await self._kill_all(self._monitor(beat.node), beat, name, _START_SECONDS)
        except ActorFailure:
            pass  # the node is lost, as Ray reports at once. The caller has Ray kill the actor in any case
        self._kill(monitor.handle)  # not earlier: it may only have been slow

    async def _kill_all(self, monitor: _Monitor, beat: Heartbeat, name: str, deadline_s: float) -> None:
        await self._ask(
            monitor, lambda handle: handle.kill.remote(beat.processes), beat, to=f"end {name}", deadline_s=deadline_s
        )

    def _monitor(self, node: str) -> _Monitor:
        if node not in self._monitors:
            self._monitors[node] = _Monitor(self._spawn(node), time.monotonic())
        return self._monitors[node]

    def _forget(self, node: str, monitor: _Monitor) -> None:
        """The next use of a monitor of `node` starts a new one."""
        if self._monitors.get(node) is monitor:
            del self._monitors[node]

    async def _ask(
        self,
        monitor: _Monitor,
        request: Callable[[Any], Any],
        beat: Heartbeat,
        *,
        to: str,
        deadline_s: float | None = None,
    ) -> Any:
        return await call(
            request(monitor.handle),
            owner=f"the monitor of node {beat.node[:8]}",
            to=to,
            deadline_s=LOOK_SECONDS if deadline_s is None else deadline_s,
        )
