"""A run under rollout.allocation: unequal groups, which its checkpoint lets a resume choose again."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.queue.group_log import read_groups
from actors.queue.group_sizes import outcome_of
from cluster.config import load_config
from cluster.records.checkpoints import Checkpoint
from cluster.run.live_groups import group_sizes_of
from tests.cluster.run.test_job import metrics
from tests.cluster.running import bonrl

pytestmark = pytest.mark.slow

STEPS, PROMPTS, N = 6, 4, 8


def group_sizes(directory: Path) -> list[list[int]]:
    files = sorted((directory / "groups").glob("step-*.parquet"))
    return [[len(group["reward"]) for group in pq.read_table(file).to_pylist()] for file in files]


def test_a_run_trains_unequal_groups_and_a_resume_would_choose_the_same(tmp_path: Path) -> None:
    keys = [
        f"run.steps={STEPS}", f"rollout.prompts_per_step={PROMPTS}", f"rollout.n={N}", "rollout.allocation={}",
        "objective.k=2", "task.train_size=8", "evaluation.prompts=4", "evaluation.n=4", "evaluation.every=0",
        "evaluation.at_start=false", "evaluation.at_end=false", "checkpoint.every=4", f"run.directory={tmp_path}",
    ]  # fmt: skip
    whole = bonrl("train", *keys, "run.name=whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    sizes = group_sizes(tmp_path / "whole")
    assert sizes[:2] == [[N] * PROMPTS] * 2, "the first epoch"
    assert all(sum(step) == PROMPTS * N and min(step) >= 3 for step in sizes)
    assert any(len(set(step)) > 1 for step in sizes[2:])
    rows = metrics(tmp_path / "whole")
    assert rows[0]["groups/expected_noise"] == 1.0 and min(row["groups/expected_noise"] for row in rows) < 1.0
    assert [(row["groups/samples_min"], row["groups/samples_max"]) for row in rows] == [
        (min(step), max(step)) for step in sizes
    ]

    check_resume(tmp_path / "whole", sizes, step=4)


def check_resume(run: Path, sizes: list[list[int]], step: int) -> None:
    """The checkpoint of `step` holds what a resumed run needs to choose the same sizes as this one did."""
    config = load_config(run / "config.yaml")
    start = Checkpoint(step, run / "checkpoints" / f"step-{step:06d}")
    resumed = group_sizes_of(config, 8, start)
    assert resumed is not None
    for later in range(step, STEPS):
        assert [resumed.of(later * PROMPTS + i) for i in range(PROMPTS)] == sizes[later]
        groups = read_groups(run / "groups" / f"step-{later + 1:06d}.parquet")
        resumed.add(later, [outcome_of(later * PROMPTS + i, batch) for i, batch in enumerate(groups)])
