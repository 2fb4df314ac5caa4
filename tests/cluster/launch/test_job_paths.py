"""A RayJob of Kubernetes takes no files along, so relative paths are refused before it starts."""

from __future__ import annotations

import re

import pytest

from cluster.errors import UsageError
from cluster.launch.job_paths import check_job_paths
from tests.cluster.launch.clusters import configuration

PROBLEMS = "task.name=jsonl"
TRAIN = "task.jsonl.train=problems.jsonl"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["run.directory=runs"], "run.directory = runs"),
        ([PROBLEMS, TRAIN], "task.jsonl.train = problems.jsonl"),
        (["task.reward=rewards.py:score"], "task.reward = rewards.py"),
        (["task.name=mine.py:Task"], "task.name = mine.py"),
        (["tracking=[mlflow]", "mlflow.tracking_uri=mlruns"], "mlflow.tracking_uri = mlruns"),
        (["model.path=models/mine", "run.directory=runs"], "run.directory = runs, model.path = models/mine"),
    ],
)
def test_relative_paths_of_a_rayjob_are_refused(overrides: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=f"must be absolute: {re.escape(named)};.*bonrl submit"):
        check_job_paths(configuration(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [PROBLEMS, "task.jsonl.train=/shared/problems.jsonl", "task.reward=package.module:score"],
        ["model.path=OWNER/NAME", "task.path=data/math"],  # countdown reads no task.path
        ["tracking=[mlflow]", "mlflow.tracking_uri=http://host:5000", "task.reward=/shared/rewards.py:score"],
    ],
)
def test_what_the_pods_can_follow_is_taken(overrides: list[str]) -> None:
    check_job_paths(configuration(*overrides))
