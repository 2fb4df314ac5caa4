"""The replay queue as a Ray actor: it alone decides which group is trained when.

Wraps :class:`actors.queue.state.QueueState`: holds the waiting graded groups, writes the groups of every finished step
to Parquet, and makes its accounting durable (the journal). One thread writes all files in the order of the calls: a
disk may take a minute to sync, and an actor that does not answer heartbeats meanwhile would count as hung.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa

from actors.logs import set_step, start_actor_log
from actors.process_stats import Heartbeat, own_heartbeat
from actors.queue.allocation import Outcome, outcome_of
from actors.queue.group_log import LEASED_FILE, groups_file, write_groups
from actors.queue.snapshot import read_snapshot, write_snapshot
from actors.queue.state import QueueState, State, Ticket

logger = logging.getLogger(__name__)


class ReplayQueue:
    """Slots, waiting groups and the group log of one run (async methods; wrapped with ``ray.remote`` by the job).

    Args:
        prompts_per_step, staleness, overtake, total: see :class:`QueueState`.
        groups_directory: where the groups of each finished step are written as Parquet; None writes nothing.
        journal: file of the accounting, written whenever positions are issued or acknowledged.
        snapshot: file that :meth:`snapshot` wrote into the checkpoint to resume from.
        recover: continue from the journal of a queue that died in this run.
    """

    def __init__(
        self,
        *,
        prompts_per_step: int,
        staleness: int,
        overtake: int,
        total: int,
        groups_directory: str | None,
        journal: str | None = None,
        snapshot: str | None = None,
        recover: bool = False,
    ) -> None:
        start_actor_log()
        self._state = QueueState(prompts_per_step=prompts_per_step, staleness=staleness, overtake=overtake, total=total)
        self._groups: dict[int, pa.RecordBatch] = {}
        self._changed = asyncio.Condition()
        self._directory = Path(groups_directory) if groups_directory else None
        self._journal = Path(journal) if journal else None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        if recover and self._journal is not None:
            self._state.recover(read_snapshot(self._journal)[0])
        elif snapshot is not None:
            state, self._groups = read_snapshot(Path(snapshot))
            self._state.resume(state, self._groups)
        if self._journal is not None and not recover:
            write_snapshot(self._journal, self._state.snapshot(), {})
        set_step(self._state.version)
        logger.info("opened; %s", "continues from the journal" if recover else f"{len(self._groups)} groups wait")

    async def reserve(self) -> list[Ticket]:
        """Tickets for every slot that is free now."""
        tickets = self._state.reserve()
        if tickets:
            await self._write_journal()
        return tickets

    async def tickets(self) -> list[Ticket]:
        """Issued positions whose groups have not arrived."""
        return self._state.tickets()

    async def held(self) -> dict[int, pa.RecordBatch]:
        """Waiting groups by position."""
        return {sequence: self._groups[sequence] for sequence in self._state.waiting()}

    async def commit(self, positions: Sequence[int], *groups: pa.RecordBatch) -> list[int]:
        """Graded groups arrive, one for each position; returns the positions that had not arrived before."""
        # deadline: the holder only changes the accounting, or waits inside asyncio.timeout
        async with self._changed:
            new = []
            for sequence, group in zip(positions, groups, strict=True):
                if self._state.commit(sequence):
                    self._groups[sequence] = group
                    new.append(sequence)
            if new:
                self._changed.notify_all()
                logger.debug("positions %s arrived", new)
            return new

    async def lease(
        self, timeout_s: float, positions: Sequence[int] | None = None
    ) -> tuple[list[pa.RecordBatch], tuple[list[int], dict[str, float]]]:
        """The P groups of the next optimizer step in stream order; their positions, and the queue's metrics.

        They are written to disk first, so that a step that fails does not lose them.

        Args:
            positions: lease exactly these again (see :meth:`QueueState.lease`).

        Raises:
            TimeoutError: after `timeout_s`, naming the positions that are missing.
        """
        # deadline: the holder only changes the accounting, or waits inside asyncio.timeout
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_s):
                    while (chosen := self._state.lease(positions)) is None:
                        await self._changed.wait()
            except TimeoutError:
                missing = self._state.missing()
                raise TimeoutError(
                    f"replay queue: step {self._state.version} waited {timeout_s:.0f} s for "
                    f"{len(missing)} of {self._state.prompts_per_step} groups (positions {missing[:8]}...): "
                    "raise deadlines.sample_s or deadlines.verify_s if sampling or grading takes that long"
                ) from None
        groups = [self._groups[q] for q in chosen]
        if self._directory is not None:
            await self._write(partial(write_groups, self._directory / LEASED_FILE, groups))
        return groups, (chosen, self._metrics())

    async def ack(self, version: int) -> None:
        """The samplers hold `version`: the leased groups are those of a finished step; free their slots."""
        trained = self._state.ack(version)
        for sequence in trained:
            del self._groups[sequence]
        if self._directory is not None and trained:
            # Before the journal, because a successor repeats an `ack` that is not in the journal.
            await self._write(partial((self._directory / LEASED_FILE).replace, self._directory / groups_file(version)))
        await self._write_journal()
        set_step(version)
        logger.info("%d groups were trained; %d wait", len(trained), self._state.count(State.COMMITTED))

    async def outcomes(self) -> list[Outcome]:
        """Correct and judged samples of the groups that the learner trains on now."""
        return [outcome_of(sequence, self._groups[sequence]) for sequence in self._state.leased()]

    async def version(self) -> int:
        """Finished and acknowledged steps."""
        return self._state.version

    async def snapshot(self, path: str) -> None:
        """Write the accounting and the waiting groups into a checkpoint; called between `ack` and `lease`."""
        await self._write(partial(write_snapshot, Path(path), self._state.snapshot(), await self.held()))
        logger.info("saved to %s", path)

    async def heartbeat(self) -> Heartbeat:
        """A heartbeat, from the event loop that serves all calls."""
        return own_heartbeat()

    async def _write(self, work: Callable[[], object]) -> None:
        # deadline: the caller's
        await asyncio.get_running_loop().run_in_executor(self._disk, work)

    async def _write_journal(self) -> None:
        if self._journal is not None:
            await self._write(partial(write_snapshot, self._journal, self._state.snapshot(), {}))

    def _metrics(self) -> dict[str, float]:
        return {
            "queue/depth": float(self._state.count(State.COMMITTED)),
            "queue/slots_in_use": float(self._state.in_use),
            "queue/staleness_max": float(self._state.observed_staleness),
            "queue/staleness_bound": float(self._state.staleness_bound),
        }
