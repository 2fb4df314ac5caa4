"""Reports on the start of the actors: which are still starting, and what verifier workers report when ready.

verifiers.json   per worker that runs programs: the level of isolation, its layers, and each probe's answer
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from actors.fleet.supervision import Supervisor
from actors.fleet.units import Unit
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
    """Receives the report of every verifier worker that becomes ready, also of those that join or return later.

    Args:
        show_line: shows a line to the user; the same line from several workers is shown once.
        directory: gets a file with their measurements; None: they are not kept.
    """

    def __init__(self, show_line: Callable[[str], None], directory: RunDirectory | None = None) -> None:
        self._show_line = show_line
        self._directory = directory
        self._shown: set[str] = set()
        self._sandboxes: dict[str, dict[str, Any]] = {}

    def __call__(self, worker: str, ready: Ready) -> None:
        """The verifier worker of that name is ready."""
        for line in ready.lines:
            if line not in self._shown:
                self._shown.add(line)
                self._show_line(f"{worker}: {line}")
        if ready.sandbox is not None:
            self._sandboxes[worker] = ready.sandbox
            if self._directory is not None:
                self._directory.replace_json(FILE, self._sandboxes)


@asynccontextmanager
async def announced_start(
    supervisor: Supervisor, show_line: Callable[[str], None], first_s: float = FIRST_SECONDS
) -> AsyncIterator[None]:
    """While the body runs, say which actors are still starting: after `first_s`, twice that, four times that, ..."""
    announcer = asyncio.create_task(_announce(supervisor, show_line, first_s))
    try:
        yield
    finally:
        announcer.cancel()


async def _announce(supervisor: Supervisor, show_line: Callable[[str], None], wait_s: float) -> None:
    began, next_s = time.monotonic(), wait_s
    while True:
        await asyncio.sleep(max(0.0, began + next_s - time.monotonic()))
        show_line(still_starting(supervisor, time.monotonic() - began))
        next_s *= 2


def still_starting(supervisor: Supervisor, elapsed_s: float) -> str:
    """`still starting after 45 s: sampler-0 (loading the weights ...); limit 300 s (deadlines.start_s)`."""
    waiting = [f"{unit.name} ({_doing(unit)})" for unit in supervisor.units if _is_starting(unit)]
    what = ", ".join(waiting) or "sending the first weights from the learner to the samplers"
    return f"still starting after {elapsed_s:.0f} s: {what}; limit {supervisor.start_s:.0f} s (deadlines.start_s)"


def _is_starting(unit: Unit) -> bool:
    return not unit.serving and any(member.handle is not None for member in unit.members)


def _doing(unit: Unit) -> str:
    if any(member.heartbeat is None for member in unit.members):
        return "waiting for a free CPU or GPU, or importing packages"
    return WORK.get(unit.name.replace("-", " ").split()[0], "preparing")
