"""Memory of the job on all its nodes: the driver, the actors, and the processes that they started."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from actors.fleet.supervision import Supervisor
from actors.process_stats import own_heartbeat

INTERVAL_SECONDS = 5.0  # between two readings


class JobMemory:
    """The sum over the nodes, read by their monitors in the background, so that no training step waits for it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._latest_gib: float | None = None

    def row(self) -> dict[str, float]:
        """The latest reading, for the step's row; empty before the first one."""
        return {} if self._latest_gib is None else {"memory/pss_gib": self._latest_gib}

    @contextlib.asynccontextmanager
    async def measuring(self) -> AsyncIterator[None]:
        """Read the memory every few seconds inside the block."""
        task = asyncio.create_task(self._measure())
        try:
            yield
        finally:
            task.cancel()

    async def _measure(self) -> None:
        driver = own_heartbeat()
        while True:
            self._latest_gib = sum((await self._supervisor.memory_gib(driver)).values())
            await asyncio.sleep(INTERVAL_SECONDS)
