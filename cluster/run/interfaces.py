"""What the control loop needs of the parts of a run, so that it is the same for training, recording and replaying.

=============  ======================  ============================  ===========================
part           `bonrl train`           `bonrl train --rollout-only`  `bonrl train --replay`
=============  ======================  ============================  ===========================
`GroupSource`  `LiveGroups`            `LiveGroups`                  `RecordedGroups`
`Learner`      `LearnerGroup`          `GroupRecorder`               `LearnerGroup`
`WeightSync`   `Broadcaster`           `NoWeightSync`                `NoWeightSync`
=============  ======================  ============================  ===========================
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from ray import ObjectRef

from actors.fleet.learner_group import Probes


class GroupSource(Protocol):
    """Provides the graded groups of every optimizer step."""

    @property
    def checkpoint_files(self) -> Sequence[str]:
        """Names of the files that :meth:`save` writes."""

    def rollouts_in(self, tasks: asyncio.TaskGroup) -> AbstractAsyncContextManager[None]:
        """While the body runs, rollouts are tasks of `tasks`; afterwards no new one is started."""

    async def start_rollouts(self) -> None:
        """Start a rollout for every prompt that may be sampled now."""

    async def probe(self, version: int) -> list[pa.RecordBatch]:
        """Groups that samplers draw with weights `version` only to be compared with the learner."""

    async def lease(self, step: int) -> tuple[ObjectRef, dict[str, float]]:
        """The groups of `step` (0: the first), and metrics about them."""

    async def ack(self, version: int) -> None:
        """The leased groups are trained, and the samplers hold weights `version`."""

    async def save(self, directory: Path) -> None:
        """Write what a resumed run needs into the checkpoint `directory`; called between `ack` and `lease`."""


class Learner(Protocol):
    """Turns groups into optimizer steps."""

    @property
    def version(self) -> int | None:
        """Finished optimizer steps; None before the start."""

    async def step(self, groups: ObjectRef, step: int, probes: Probes | None = None) -> dict[str, float]:
        """Train one step on `groups`; its metrics."""

    async def save(self, directory: str) -> None:
        """Write model, optimizer and random state into the checkpoint `directory`."""


class WeightSync(Protocol):
    """Gives the samplers the learner's weights."""

    async def broadcast(self, version: int) -> dict[str, float]:
        """Every sampler holds weights `version` when this returns; ``sync/*`` metrics."""
