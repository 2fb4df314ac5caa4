"""Per-node monitor actors: they inspect and kill processes for the supervisor. One that stops answering is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ray.actor import ActorHandle

from actors.process_stats import INSPECT_SECONDS, GpuUse, Heartbeat, ProcessStats
from actors.remote_calls import ActorFailure, call

logger = logging.getLogger(__name__)

T = TypeVar("T")
_TAIL_SECONDS = 2.0  # to read the end of a log: a lost node must not delay the replacement of its actors
_START_SECONDS = 60.0  # for a new monitor to start; on an overloaded machine another one would not start sooner


@dataclass(eq=False)
class _Monitor:
    handle: Any
    made: float  # time of a monotonic clock
    failed_at: float | None = None  # end of the first reading that failed in a row


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
        self._gpus_reported_missing: set[str] = set()  # nodes whose nvidia-smi failed, which is reported once

    async def inspect(self, heartbeat: Heartbeat, *, family: bool = False) -> dict[int, ProcessStats]:
        """The stats of the processes of `heartbeat`; empty if the node's monitor did not answer.

        After two failed readings in a row the monitor is replaced: it may hang, and nothing else would detect that.
        """
        monitor = self._monitor(heartbeat.node)
        began = time.monotonic()
        try:
            request = monitor.handle.inspect.remote(heartbeat.processes, family)
            stats = await _answer(request, heartbeat.node, to="inspect its processes")
        except ActorFailure:  # the node may be lost: then the actor's silence or death shows it
            again = monitor.failed_at is not None and monitor.failed_at <= began
            if again and began - monitor.made >= _START_SECONDS:
                self._forget(heartbeat.node, monitor)
                self._kill(monitor.handle)
            monitor.failed_at = monitor.failed_at or time.monotonic()
            return {}
        monitor.failed_at = None
        return stats

    async def memory_gib(self, heartbeats: Iterable[Heartbeat]) -> dict[str, float]:
        """Memory of the processes of `heartbeats` and their descendants, by node; without nodes that do not answer."""

        def request(monitor: Any, heartbeats: list[Heartbeat]) -> Awaitable[float]:
            return monitor.memory_gib.remote([process for heartbeat in heartbeats for process in heartbeat.processes])

        return await self._on_each_node(heartbeats, request, to="measure memory")

    async def gpu_use(self, heartbeats: Iterable[Heartbeat]) -> list[GpuUse]:
        """The GPUs that Ray assigned to the actors of `heartbeats`; without nodes that do not answer."""

        def request(monitor: Any, heartbeats: list[Heartbeat]) -> Awaitable[list[GpuUse]]:
            return monitor.gpu_use.remote(sorted({gpu for heartbeat in heartbeats for gpu in heartbeat.gpus}))

        with_gpus = [heartbeat for heartbeat in heartbeats if heartbeat.gpus]
        by_node = await self._on_each_node(with_gpus, request, to="read its GPUs")
        for node, uses in by_node.items():
            self._report_missing(node, len(uses), [heartbeat for heartbeat in with_gpus if heartbeat.node == node])
        return [use for uses in by_node.values() for use in uses]

    def _report_missing(self, node: str, found: int, heartbeats: Sequence[Heartbeat]) -> None:
        """Warn once if nvidia-smi on a node reports fewer GPUs than its actors have."""
        gpus = {gpu for heartbeat in heartbeats for gpu in heartbeat.gpus}
        if found < len(gpus) and node not in self._gpus_reported_missing:
            self._gpus_reported_missing.add(node)
            logger.warning(
                "nvidia-smi on %s (node %s) reports %d of the GPUs %s that actors have: memory/gpu_gib and "
                "time/gpu_busy_share leave the others out",
                heartbeats[0].host,
                node[:8],
                found,
                ", ".join(sorted(gpus)),
            )

    async def _on_each_node(
        self, heartbeats: Iterable[Heartbeat], request: Callable[[Any, list[Heartbeat]], Awaitable[T]], *, to: str
    ) -> dict[str, T]:
        by_node: defaultdict[str, list[Heartbeat]] = defaultdict(list)
        for heartbeat in heartbeats:
            by_node[heartbeat.node].append(heartbeat)
        readings: dict[str, T] = {}

        async def read(node: str, heartbeats: list[Heartbeat]) -> None:
            with contextlib.suppress(ActorFailure):  # the supervisor's readings find out what is wrong with the node
                readings[node] = await _answer(request(self._monitor(node).handle, heartbeats), node, to=to)

        # deadline: every question has one
        await asyncio.gather(*(read(*item) for item in by_node.items()))
        return readings

    async def log_of(self, heartbeat: Heartbeat) -> str:
        """Where the logs of an actor are and how they end, as lines of a message; notes logs that cannot be read."""
        if not heartbeat.logs:
            return ""
        try:
            request = self._monitor(heartbeat.node).handle.tail.remote(heartbeat.logs)
            tails = await _answer(request, heartbeat.node, to="read its log", deadline_s=_TAIL_SECONDS)
        except ActorFailure:  # the node is lost or overloaded; the message still says where the log is
            return "".join(f"\nlog: {path} on {heartbeat.host} (that node does not answer)" for path in heartbeat.logs)
        lines = []
        for path, tail in tails.items():
            lines.append(f"log: {path} on {heartbeat.host}" + (", which ends with" if tail else " (empty)"))
            lines += [f"  {line}" for line in tail]
        return "".join(f"\n{line}" for line in lines)

    async def kill_processes(self, heartbeat: Heartbeat, name: str) -> None:
        """SIGKILL to the processes of `heartbeat`, by a new monitor if the old one does not answer."""
        monitor = self._monitor(heartbeat.node)
        try:
            return await _kill(monitor, heartbeat, name, INSPECT_SECONDS)
        except ActorFailure:  # it hangs or is slow, or the node is lost with its processes
            self._forget(heartbeat.node, monitor)
        try:
            await _kill(self._monitor(heartbeat.node), heartbeat, name, _START_SECONDS)
        except ActorFailure:
            pass  # the node is lost, as Ray reports at once. The caller has Ray kill the actor in any case
        self._kill(monitor.handle)  # not earlier: it may only have been slow

    def stop(self, node: str) -> None:
        """End the monitor of a node without actors of the run, if there is one."""
        monitor = self._monitors.pop(node, None)
        if monitor is not None:
            self._kill(monitor.handle)

    def _monitor(self, node: str) -> _Monitor:
        if node not in self._monitors:
            self._monitors[node] = _Monitor(self._spawn(node), time.monotonic())
        return self._monitors[node]

    def _forget(self, node: str, monitor: _Monitor) -> None:
        """The next use of a monitor of `node` starts a new one."""
        if self._monitors.get(node) is monitor:
            del self._monitors[node]


async def _kill(monitor: _Monitor, heartbeat: Heartbeat, name: str, deadline_s: float) -> None:
    request = monitor.handle.kill.remote(heartbeat.processes)
    await _answer(request, heartbeat.node, to=f"end {name}", deadline_s=deadline_s)


async def _answer(request: Awaitable[Any], node: str, *, to: str, deadline_s: float | None = None) -> Any:
    return await call(
        request,
        owner=f"the monitor of node {node[:8]}",
        to=to,
        deadline_s=INSPECT_SECONDS if deadline_s is None else deadline_s,
    )
