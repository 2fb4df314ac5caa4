"""The start of the actors: which are still starting, and what verifier workers say when they are ready.

verifiers.json   per worker that runs programs: the level of isolation, its layers, and each probe's answer
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from actors.fleet.supervision import Supervisor, Unit
from actors.workers.verifier_worker import Ready
from cluster.records.run_directory import RunDirectory

FILE = "verifiers.json"
FIRST_SECONDS = 30.0  # a start on two cores takes 20 to 40 s
WORK = {  # what an actor whose process runs is doing, by the first word of its name
    "sampler": "loading the weights and building the vLLM engine",
    "learner": "loading the weights",
    "verifier": "preparing the verifier",
    "replay": "opening its journal",
}


class Startup:
    """Hears every verifier worker that becomes ready, those that join or return later too.

    Args:
        tell: shows a line to the user; workers that say the same are heard once.
        directory: keeps what they measured; None: nobody does.
    """

    def __init__(self, tell: Callable[[str], None], directory: RunDirectory | None = None) -> None:
        self._tell = tell
        self._directory = directory
        self._told: set[str] = set()
        self._sandboxes: dict[str, dict[str, Any]] = {}

    def __call__(self, worker: str, ready: Ready) -> None:
        """The verifier worker of that name serves now."""
        for line in ready.lines:
            if line not in self._told:
                self._told.add(line)
                self._tell(f"{worker}: {line}")
        if ready.sandbox is not None:
            self._sandboxes[worker] = ready.sandbox
            if self._directory is not None:
                self._directory.write_json(FILE, self._sandboxes)


@asynccontextmanager
async def announced_start(
    supervisor: Supervisor, tell: Callable[[str], None], first_s: float = FIRST_SECONDS
) -> AsyncIterator[None]:
    """Tells which actors are still starting while the body runs: after `first_s`, then at twice the time each."""
    watch = asyncio.create_task(_tell_of_start(supervisor, tell, first_s))
    try:
        yield
    finally:
        watch.cancel()


async def _tell_of_start(supervisor: Supervisor, tell: Callable[[str], None], wait_s: float) -> None:
    began, next_s = time.monotonic(), wait_s
    while True:
        await asyncio.sleep(max(0.0, began + next_s - time.monotonic()))
        tell(still_starting(supervisor, time.monotonic() - began))
        next_s *= 2


def still_starting(supervisor: Supervisor, elapsed_s: float) -> str:
    """`still starting after 45 s: sampler-0 (loading the weights ...); limit 300 s (deadlines.start_s)`."""
    waiting = [f"{unit.name} ({_doing(unit)})" for unit in supervisor.units if _starts(unit)]
    what = ", ".join(waiting) or "the first weights on their way from the learner to the samplers"
    return f"still starting after {elapsed_s:.0f} s: {what}; limit {supervisor.start_s:.0f} s (deadlines.start_s)"


def _starts(unit: Unit) -> bool:
    return not unit.serving and any(member.handle is not None for member in unit.members)


def _doing(unit: Unit) -> str:
    if any(member.vital is None for member in unit.members):
        return "waiting for a free CPU or GPU, or importing packages"
    return WORK.get(unit.name.replace("-", " ").split()[0], "preparing")
