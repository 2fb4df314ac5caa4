"""A run under rollout.allocation: chosen prompts, unequal groups, and a checkpoint from which both continue."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.queue.allocation import outcome_of
from actors.queue.group_log import read_groups
from cluster.config import load_config
from cluster.records.checkpoints import Checkpoint
from cluster.run.live_groups import allocation_of
from tests.cluster.run.test_job import metrics
from tests.cluster.running import bonrl

pytestmark = pytest.mark.slow

STEPS, PROMPTS, N = 6, 4, 8


Recorded = tuple[int, int, float]  # epoch, samples, weight


def recorded(directory: Path) -> list[list[Recorded]]:
    files = sorted((directory / "groups").glob("step-*.parquet"))
    rows = [pq.read_table(file).to_pylist() for file in files]
    return [[(group["epoch"], len(group["reward"]), group["weight"]) for group in step] for step in rows]


def test_a_run_chooses_prompts_and_sizes_and_a_resume_would_choose_the_same(tmp_path: Path) -> None:
    """Each step's candidates are all eight prompts, an epoch."""
    keys = [
        f"run.steps={STEPS}", f"rollout.prompts_per_step={PROMPTS}", f"rollout.n={N}",
        "rollout.allocation={candidates: 2}",
        "objective.k=2", "task.train_size=8", "evaluation.prompts=4", "evaluation.n=4", "evaluation.every=0",
        "evaluation.at_start=false", "evaluation.at_end=false", "checkpoint.every=4", f"run.directory={tmp_path}",
    ]  # fmt: skip
    whole = bonrl("train", *keys, "run.name=whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    found = recorded(tmp_path / "whole")
    assert found[0] == [(0, N, 1.0)] * PROMPTS, "nothing is known of the prompts"
    assert [epoch for step in found for epoch, _, _ in step] == [e for e in range(STEPS) for _ in range(PROMPTS)]
    sizes, weights = ([[group[column] for group in step] for step in found] for column in (1, 2))
    assert all(sum(step) == PROMPTS * N and min(step) >= 3 for step in sizes)
    assert any(len(set(step)) > 1 for step in sizes[1:]) and any(len(set(step)) > 1 for step in weights[1:])
    rows = metrics(tmp_path / "whole")
    assert [row["groups/weight_max"] for row in rows] == [max(step) for step in weights]
    assert rows[0]["groups/expected_noise"] == 1.0 and min(row["groups/expected_noise"] for row in rows) < 1.0
    assert [(row["groups/samples_min"], row["groups/samples_max"]) for row in rows] == [
        (min(step), max(step)) for step in sizes
    ]

    check_resume(tmp_path / "whole", found, step=4)


def check_resume(run: Path, found: list[list[Recorded]], step: int) -> None:
    """The checkpoint of `step` holds what a resumed run needs to choose the same groups as this one did."""
    config = load_config(run / "config.yaml")
    start = Checkpoint(step, run / "checkpoints" / f"step-{step:06d}")
    resumed = allocation_of(config, 8, start)
    assert resumed is not None
    for later in range(step, STEPS):
        plan = [resumed.planned(later * PROMPTS + i) for i in range(PROMPTS)]
        assert [(group.place // 8, group.n, group.weight) for group in plan] == found[later]
        groups = read_groups(run / "groups" / f"step-{later + 1:06d}.parquet")
        resumed.add(later, [outcome_of(later * PROMPTS + i, batch) for i, batch in enumerate(groups)])
