"""`bonrl train --rollout-only`: the control loop records graded groups and trains nothing.

The groups are written to the run directory step by step, as in any run; `bonrl train --replay RUN_DIR` trains on them.
"""

from __future__ import annotations

import numpy as np
from ray import ObjectRef

from actors.fleet.learner_group import Probes
from actors.group import Group
from actors.group_metrics import group_metrics
from actors.remote_calls import ActorFailure, call

FETCH_SECONDS = 300.0


class GroupRecorder:
    """A :class:`cluster.run.interfaces.Learner` that measures every batch and trains nothing."""

    def __init__(self, version: int) -> None:
        self.version = version

    async def step(self, groups: ObjectRef, step: int, probes: Probes | None = None) -> dict[str, float]:
        """Metrics of the step's groups.

        Raises:
            ActorFailure: the groups could not be fetched, or the verifier failed on all of them.
        """
        batches = await call(
            groups, owner="object store", to=f"return the groups of step {step}", deadline_s=FETCH_SECONDS
        )
        parsed = [Group.from_record_batch(batch) for batch in batches]
        usable = [group for group in parsed if group.usable]
        if not usable:
            raise ActorFailure(f"the verifier failed on every group of step {step + 1}: {parsed[0].fault}")
        self.version = step + 1
        none = [np.zeros(group.n) for group in usable]
        row = group_metrics(usable, none, 0, [group for group in parsed if not group.usable])
        del row["groups/no_signal_share"]  # describes advantages, which are not computed here
        return row

    async def save(self, directory: str) -> None:
        """Nothing: the checkpoint of a recording is the queue's snapshot."""


class NoWeightSync:
    """A :class:`cluster.run.interfaces.WeightSync` for runs without samplers, or whose weights do not change."""

    async def broadcast(self, version: int) -> dict[str, float]:
        return {}
