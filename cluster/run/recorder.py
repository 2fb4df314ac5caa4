"""Rollouts without a learner (`bonrl train --rollout-only`): the same loop records graded groups, weights stay.

The groups lie in the run directory step by step, as in any run; `bonrl train --replay RUN_DIR` trains from them.
"""

from __future__ import annotations

import numpy as np
from ray import ObjectRef

from actors.fleet.learner_group import Probes
from actors.fleet.supervision import ActorFailure, call
from actors.group import Group
from actors.group_metrics import group_metrics
from cluster.config import RunConfig

FETCH_SECONDS = 300.0


class Recorder:
    """Stands where learner and broadcaster stand: takes every batch, keeps count, and changes nothing."""

    def __init__(self, version: int) -> None:
        self.version = version

    async def step(self, groups: ObjectRef, step: int, probes: Probes | None = None) -> dict[str, float]:
        """What the groups of the step say about the policy."""
        batches = await call(
            groups, owner="object store", to=f"return the groups of step {step}", deadline_s=FETCH_SECONDS
        )
        parsed = [Group.from_record_batch(batch) for batch in batches]
        usable = [group for group in parsed if group.usable]
        if not usable:
            raise ActorFailure(f"the verifier failed on every group of step {step + 1}: {parsed[0].fault}")
        self.version = step + 1
        nothing_GN = np.zeros((len(usable), usable[0].n))
        row = group_metrics(usable, nothing_GN, 0, [group for group in parsed if not group.usable])
        del row["groups/no_signal_share"]  # a figure of advantages, of which there are none
        return row

    async def broadcast(self, version: int) -> dict[str, float]:
        """Nothing: the samplers keep the weights that they began with."""
        return {}

    async def save(self, directory: str) -> None:
        """Nothing: a checkpoint of a recording is the queue's snapshot."""


def recording(config: RunConfig) -> RunConfig:
    """`config` without evaluations: the model is the same before and after."""
    quiet = config.evaluation.model_copy(update={"at_start": False, "at_end": False, "every": 0})
    return config.model_copy(update={"evaluation": quiet})
