"""Groups that an earlier run recorded, for `bonrl train --replay RUN_DIR`: no samplers, verifiers or queue are started.

A run writes the groups of every step to its directory, in the order in which the learner took them. So an asynchronous
run, whose timing cannot be repeated, can still be repeated from them: on CPUs the same configuration gives the same
weights, bit by bit. With another objective or learning rate, the samples come from another policy; the importance
ratios measure how different it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import ray
from ray import ObjectRef

from actors.queue.group_log import groups_file, read_groups
from actors.threads import in_daemon_thread


class RecordedGroups:
    """A :class:`cluster.run.interfaces.GroupSource` that reads the groups of a run.

    Args:
        directory: holds one file of groups per optimizer step.
        deadline_s: seconds to read one file (``deadlines.checkpoint_s``).
    """

    checkpoint_files = ()  # without a queue file, --resume refuses the checkpoint and names --replay

    def __init__(self, directory: Path, deadline_s: float) -> None:
        self._directory = directory
        self._deadline_s = deadline_s

    @asynccontextmanager
    async def rollouts_in(self, tasks: asyncio.TaskGroup) -> AsyncIterator[None]:
        """Nothing is sampled."""
        yield

    async def start_rollouts(self) -> None:
        """Nothing is sampled."""

    async def probe(self, version: int) -> list[pa.RecordBatch]:
        """None: there is no sampler to compare with."""
        return []

    async def lease(self, step: int) -> tuple[ObjectRef, dict[str, float]]:
        """The groups of `step`, without metrics.

        Raises:
            TimeoutError: the file was not read within the deadline.
        """
        groups = await in_daemon_thread(
            partial(read_groups, self._directory / groups_file(step + 1)),
            owner="the driver",
            to=f"read the groups of step {step + 1} in {self._directory} (see deadlines.checkpoint_s)",
            deadline_s=self._deadline_s,
        )
        return ray.put(groups), {}

    async def ack(self, version: int) -> None:
        """Nothing: no slot is freed."""

    async def save(self, directory: Path) -> None:
        """Nothing: a replay is not resumed but started again."""
