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

from actors.process_stats import LOOK_SECONDS, Heartbeat, Vitals
from actors.remote_calls import ActorFailure, call

_TAIL_SECONDS = 2.0  # to read the end of a log: a lost node must not delay the replacement of its actors
_START_SECONDS = 60.0  # for a new watch to start; on an overloaded machine another one would not start sooner


@dataclass(eq=False)
class _Watch:
    handle: Any
    made: float  # time of a monotonic clock
    failed_at: float | None = None  # when the first of the looks ended that failed in a row


class NodeMonitors:
    """One :class:`actors.process_stats.NodeMonitor` on every node that holds actors, started at its first use.

    Args:
        spawn: makes the watch of a node, by the node's id.
        kill: ends an actor, as ``ray.kill``.
    """

    def __init__(self, spawn: Callable[[str], ActorHandle], kill: Callable[[ActorHandle], None]) -> None:
        self._spawn = spawn
        self._kill = kill
        self._watches: dict[str, _Watch] = {}

    async def look(self, beat: Heartbeat, *, family: bool = False) -> dict[int, Vitals]:
        """Vitals of the processes of `beat`; empty if the node's watch did not answer.

        After two failed looks in a row the watch is replaced, because it may hang, and nothing else would detect that.
        """
        watch = self._watch(beat.node)
        began = time.monotonic()
        try:
            seen = await self._ask(watch, beat, "look", beat.processes, family, to="look at its processes")
        except ActorFailure:  # the node may be lost: then the actor's silence or death shows it
            again = watch.failed_at is not None and watch.failed_at <= began
            if again and began - watch.made >= _START_SECONDS:
                self._forget(beat.node, watch)
                self._kill(watch.handle)
            watch.failed_at = watch.failed_at or time.monotonic()
            return {}
        watch.failed_at = None
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
                    self._watch(node), beats[0], "memory_gib", processes, to="measure memory"
                )

        # deadline: every question has one
        await asyncio.gather(*(read(*item) for item in by_node.items()))
        return readings

    async def log_of(self, beat: Heartbeat) -> str:
        """Where the logs of an actor are and how they end, as lines of a message; notes logs that cannot be read."""
        if not beat.logs:
            return ""
        try:
            watch = self._watch(beat.node)
            tails = await self._ask(watch, beat, "tail", beat.logs, to="read its log", deadline_s=_TAIL_SECONDS)
        except ActorFailure:  # the node is lost or overloaded; the message still says where the log is
            return "".join(f"\nlog: {path} on {beat.host} (that node does not answer)" for path in beat.logs)
        lines = []
        for path, tail in tails.items():
            lines.append(f"log: {path} on {beat.host}" + (", which ends with" if tail else " (empty)"))
            lines += [f"  {line}" for line in tail]
        return "".join(f"\n{line}" for line in lines)

    async def end(self, beat: Heartbeat, name: str) -> None:
        """SIGKILL to the processes of `beat`, by a new watch if the old one does not answer."""
        watch = self._watch(beat.node)
        try:
            return await self._kill_all(watch, beat, name, LOOK_SECONDS)
        except ActorFailure:  # it hangs or is slow, or the node is lost with its processes
            self._forget(beat.node, watch)
        try:
            await self._kill_all(self._watch(beat.node), beat, name, _START_SECONDS)
        except ActorFailure:
            pass  # the node is lost, as Ray reports at once. The caller has Ray kill the actor in any case
        self._kill(watch.handle)  # not earlier: it may only have been slow

    async def _kill_all(self, watch: _Watch, beat: Heartbeat, name: str, deadline_s: float) -> None:
        await self._ask(watch, beat, "kill", beat.processes, to=f"end {name}", deadline_s=deadline_s)

    def _watch(self, node: str) -> _Watch:
        if node not in self._watches:
            self._watches[node] = _Watch(self._spawn(node), time.monotonic())
        return self._watches[node]

    def _forget(self, node: str, watch: _Watch) -> None:
        """The next use of a watch of `node` starts a new one."""
        if self._watches.get(node) is watch:
            del self._watches[node]

    async def _ask(
        self, watch: _Watch, beat: Heartbeat, method: str, *arguments: Any, to: str, deadline_s: float | None = None
    ) -> Any:
        return await call(
            getattr(watch.handle, method).remote(*arguments),
            owner=f"the watch of node {beat.node[:8]}",
            to=to,
            deadline_s=LOOK_SECONDS if deadline_s is None else deadline_s,
        )
