"""The replay queue as a Ray actor: the only owner of who-trains-when.

A thin shell round :class:`actors.queue_state.QueueState`: it holds the graded groups that wait, writes the groups of
every finished step to Parquet, and gives every wait a deadline.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.group import GROUP_SCHEMA
from actors.queue_state import QueueState, State, Ticket


class ReplayQueue:
    """Slots, waiting groups and the group log of one run (async methods; wrapped with ``ray.remote`` by the job).

    Args:
        prompts_per_step, staleness, overtake, total: see :class:`QueueState`.
        groups_directory: where the groups of each finished step are written as Parquet; None writes nothing.
        snapshot: what :meth:`snapshot` returned in the checkpoint to resume from.
    """

    def __init__(
        self,
        *,
        prompts_per_step: int,
        staleness: int,
        overtake: int,
        total: int,
        groups_directory: str | None,
        snapshot: dict[str, Any] | None = None,
    ) -> None:
        self._state = QueueState(prompts_per_step=prompts_per_step, staleness=staleness, overtake=overtake, total=total)
        if snapshot is not None:
            self._state.restore(snapshot)
        self._groups: dict[int, pa.RecordBatch] = {}
        self._changed = asyncio.Condition()
        self._directory = Path(groups_directory) if groups_directory else None

    async def reserve(self) -> list[Ticket]:
        """Tickets for every slot that is free now."""
        return self._state.reserve()

    async def commit(self, sequence: int, batch: pa.RecordBatch) -> bool:
        """A graded group arrives; False when it was there already."""
        async with self._changed:
            new = self._state.commit(sequence)
            if new:
                self._groups[sequence] = batch
                self._changed.notify_all()
            return new

    async def lease(self, timeout_s: float) -> tuple[list[pa.RecordBatch], dict[str, float]]:
        """The P groups of the next optimiser step, in stream order, and the queue's metrics.

        Raises:
            TimeoutError: after `timeout_s`, naming the positions that are missing.
        """
        async with self._changed:
            try:
                async with asyncio.timeout(timeout_s):
                    while (chosen := self._state.lease()) is None:
                        await self._changed.wait()
            except TimeoutError:
                missing = self._state.missing()
                raise TimeoutError(
                    f"replay queue: step {self._state.version} waited {timeout_s:.0f} s for "
                    f"{len(missing)} of {self._state.prompts_per_step} groups (positions {missing[:8]}...): "
                    "raise deadlines.sample_s if samples really take that long"
                ) from None
        return [self._groups[q] for q in chosen], self._metrics()

    async def ack(self, version: int) -> None:
        """The samplers hold `version`: log the leased groups and free their slots."""
        batches = [self._groups.pop(q) for q in self._state.ack(version)]
        if self._directory is not None:
            write_groups(self._directory / groups_file(version), batches)

    async def snapshot(self) -> dict[str, Any]:
        """The state that a checkpoint needs; taken between `ack` and `lease`."""
        return self._state.snapshot()

    async def lifeline(self, seconds: float) -> None:
        """Return after `seconds`; the caller learns of this actor's death at once."""
        await asyncio.sleep(seconds)

    def _metrics(self) -> dict[str, float]:
        return {
            "queue/depth": float(self._state.count(State.COMMITTED)),
            "queue/slots_in_use": float(self._state.in_use),
            "queue/staleness_max": float(self._state.observed_staleness),
            "queue/staleness_bound": float(self._state.staleness_bound),
        }


def groups_file(version: int) -> str:
    """Name of the Parquet file that holds the groups which made weight `version`."""
    return f"step-{version:06d}.parquet"


def write_groups(path: Path, batches: list[pa.RecordBatch]) -> None:
    """Write one step's groups; a crash leaves the old file or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    try:
        pq.write_table(pa.Table.from_batches(batches, GROUP_SCHEMA), temporary, compression="zstd")
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write groups to {path}: {error.strerror}; free space or change run.directory"
        ) from error
