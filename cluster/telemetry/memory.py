"""Memory and GPUs of the job on all its nodes: the driver, the actors, and the processes that they started."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from actors.fleet.supervision import Supervisor
from actors.process_stats import own_heartbeat

INTERVAL_SECONDS = 5.0  # between two readings


class JobMemory:
    """Sums over the nodes, read by their monitors in the background, so that no training step waits for them.

    Args:
        supervisor: knows the actors.
        export: called with every reading, by its names in the table of metrics.
    """

    def __init__(self, supervisor: Supervisor, export: Callable[[dict[str, float]], None] = lambda row: None) -> None:
        self._supervisor = supervisor
        self._export = export
        self._latest: dict[str, float] = {}

    def row(self) -> dict[str, float]:
        """The latest reading, for the step's row; empty before the first one."""
        return self._latest

    @contextlib.asynccontextmanager
    async def measuring(self) -> AsyncIterator[None]:
        """Read memory and GPUs every few seconds inside the block."""
        task = asyncio.create_task(self._measure())
        try:
            yield
        finally:
            task.cancel()

    async def _measure(self) -> None:
        driver = own_heartbeat()
        while True:
            row = {"memory/pss_gib": sum((await self._supervisor.memory_gib(driver)).values())}
            if gpus := await self._supervisor.gpu_use():
                row["memory/gpu_gib"] = sum(gpu.memory_gib for gpu in gpus)
                row["time/gpu_busy_share"] = sum(gpu.busy for gpu in gpus) / len(gpus)
            self._latest = row
            self._export(row)
            await asyncio.sleep(INTERVAL_SECONDS)
