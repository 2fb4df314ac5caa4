"""Leaving in order: SIGINT or SIGTERM ends a run at its next step, with a checkpoint, within half a minute.

Ray's job stop and a node that is pre-empted send SIGTERM and wait some thirty seconds. So the first signal abandons
whatever only waits (for groups, for an evaluation), lets a running optimiser step end, and saves. A second signal, or
the end of the time, stops at once; then the run goes on from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

LEAVE_SECONDS = 20.0  # for the running step and a checkpoint; the rest of the half minute ends the processes


class Leaving(Exception):
    """The run was asked to leave; raised where it can stop with consistent state."""


class Departure:
    """Whether the run was asked to leave, and waits that end when it is."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def check(self) -> None:
        """Raise :class:`Leaving` if the run was asked to leave."""
        if self.asked:
            raise Leaving

    async def unless_asked(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await `work`; abandon it when the run is asked to leave.

        Raises:
            Leaving: the work was abandoned.
        """
        # deadline: the work has its own, and ends this wait too
        task, asked = asyncio.ensure_future(work), asyncio.ensure_future(self._asked.wait())
        try:
            # deadline: as above
            await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Leaving
            return task.result()
        finally:
            task.cancel()
            asked.cancel()

    async def carry(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await `work` with SIGINT and SIGTERM turned into a departure.

        Raises:
            CancelledError: at the second signal, or when leaving took too long.
        """
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def leave() -> None:
            if self.asked:
                task.cancel()
            else:
                self._asked.set()
                loop.call_later(LEAVE_SECONDS, task.cancel)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, leave)
        return await task
