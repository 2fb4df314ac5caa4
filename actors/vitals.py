"""What the operating system says about the processes of one node: the half of a heartbeat that they cannot fake."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


@dataclass(frozen=True, slots=True)
class Beat:
    """An actor's answer to the supervisor.

    node: Ray's id of its node.
    pids: processes that must live for it to serve: its own first, then an engine's.
    working: the processes after the first have work, so they must be using their processors.
    """

    node: str
    pids: tuple[int, ...]
    working: bool = False


@dataclass(frozen=True, slots=True)
class Vitals:
    """One process: stopped by a signal or not, and the processor seconds of its threads so far."""

    stopped: bool
    cpu_seconds: float


def beat(*others: int, working: bool = False) -> Beat:
    """The answer of the actor that runs in this process; `others` are processes that it needs."""
    import ray

    return Beat(ray.get_runtime_context().get_node_id(), (os.getpid(), *others), working)


class NodeWatch:
    """Looks at processes of its node and ends them (async methods; an actor on every node that holds actors)."""

    async def look(self, pids: Sequence[int]) -> dict[int, Vitals]:
        """Vitals of those that exist."""
        found: dict[int, Vitals] = {}
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                times = process.cpu_times()
                found[pid] = Vitals(process.status() in _STOPPED, times.user + times.system)
        return found

    async def kill(self, pids: Sequence[int]) -> None:
        """SIGKILL to the processes and their descendants, stopped ones too."""
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                for victim in [process, *process.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        victim.kill()
