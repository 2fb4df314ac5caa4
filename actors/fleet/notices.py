"""Notices that a node will be lost: its cloud takes a spot node back, or someone drains it.

Ray starts nothing new on such a node (``ray drain-node``). The supervisor moves the run's actors off it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from actors.fleet.units import Incident, Member, Unit
from actors.remote_calls import ask_ray

_WORK_SHARE = 0.5  # of the notice, for requests in flight to end; the rest is for the replacement to start


class Nodes(Protocol):
    """What Ray knows about the nodes of the cluster. Both methods may block, so they are called in a thread."""

    @property
    def driver(self) -> str:
        """The id of the driver's node."""

    def draining(self) -> Mapping[str, float]:
        """When each node with a notice ends, in seconds since 1970 (infinity: not known), by node id."""

    def any_stopped_gracefully(self, nodes: Collection[str]) -> bool:
        """Whether one of the nodes ended in an orderly way: after a notice, or by SIGTERM to its raylet."""


@dataclass(frozen=True)
class Notice:
    """A node will end at `ends` (seconds since 1970; infinity: not known). `seen`: when the run learned of it."""

    node: str
    host: str
    seen: float
    ends: float

    @property
    def where(self) -> str:
        return f"node {self.host} ({self.node[:8]})"

    def incident(self, what: str) -> Incident:
        """The record of the notice; `what` follows from it."""
        when = f"in {max(self.ends - self.seen, 0.0):.0f} s" if math.isfinite(self.ends) else "soon"
        return Incident(self.where, f"will be lost {when} (preempted or drained): {what}", kind="node")

    def latest_move(self, unit: Unit) -> float:
        """When `unit` moves even if it is busy. A stateful unit has the whole time for its checkpoint."""
        if not math.isfinite(self.ends):
            return math.inf
        return self.seen + (1.0 if unit.stateful else _WORK_SHARE) * max(self.ends - self.seen, 0.0)


class Notices:
    """The notices that concern the run's actors or its driver.

    Args:
        nodes: what Ray knows about them; None: there are no notices.
        report: called once per notice.
    """

    def __init__(self, nodes: Nodes | None, report: Callable[[Incident], None]) -> None:
        self._nodes = nodes
        self._report = report
        self._seen: dict[str, Notice] = {}
        self.draining: Collection[str] = ()  # all nodes with a notice, as of the last answer

    @property
    def count(self) -> int:
        """Notices so far."""
        return len(self._seen)

    @property
    def for_driver(self) -> bool:
        """Whether the driver's own node will be lost: then nothing can move."""
        return self._nodes is not None and self._nodes.driver in self._seen

    def of(self, unit: Unit) -> Notice | None:
        """The notice that makes `unit` leave its node."""
        nodes = (m.heartbeat.node for m in unit.members if m.leaving and m.heartbeat is not None)
        return next((self._seen[node] for node in nodes if node in self._seen), None)

    async def read(self, members: Sequence[Member]) -> bool:
        """Mark the members that must leave their nodes; whether there are new ones."""
        if self._nodes is None:
            return False
        draining = await ask_ray(self._nodes.draining, to="name nodes with a notice")
        if draining is None:  # it is asked again after a heartbeat
            return False
        self.draining, changed = set(draining), False
        for node, ends in draining.items():
            here = [m for m in members if m.heartbeat is not None and m.heartbeat.node == node]
            if node not in self._seen and (here or node == self._nodes.driver):
                host = next((m.heartbeat.host for m in here if m.heartbeat is not None), "")
                self._seen[node] = Notice(node, host or "of the driver", time.time(), ends)
                self._report(self._seen[node].incident(self._consequence(here)))
                changed = True
            for member in here:
                if not member.leaving and node != self._nodes.driver:
                    member.leaving = changed = True
                    member.changes.notify()
        return changed

    def _consequence(self, members: Sequence[Member]) -> str:
        if self.for_driver:
            return "the driver runs on it, and the run ends with it; a checkpoint is saved after each step until then"
        return f"{', '.join(member.name for member in members)} move to other nodes"

    def vacated(self, members: Sequence[Member]) -> set[str]:
        """Nodes with a notice that none of `members` is on any more."""
        return self._seen.keys() - {m.heartbeat.node for m in members if m.heartbeat is not None}

    async def explains(self, unit: Unit) -> bool:
        """Whether a member of `unit` is on a node with a notice, or on one that ended in an orderly way."""
        if self._nodes is None:
            return False
        nodes = {member.heartbeat.node for member in unit.members if member.heartbeat is not None}
        if nodes & self._seen.keys():
            return True
        return bool(await ask_ray(partial(self._nodes.any_stopped_gracefully, nodes), to="say how nodes ended"))

    async def until_move(self, unit: Unit, heartbeat_s: float) -> str:
        """Wait until `unit` must leave its node and is no longer busy, or the time is up; returns the reason."""
        while True:
            notice = self.of(unit)
            if notice is not None and (not unit.busy() or time.time() >= notice.latest_move(unit)):
                return f"moved off {notice.where}, which will be lost"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(heartbeat_s):
                    await unit.changes.wait()
