"""Training from recorded groups: what does not go with them is refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.group import SampleRequest, quarantined_group
from actors.queue.group_log import groups_file, write_groups
from cluster.config import build_config
from cluster.errors import UsageError
from cluster.run.replay import recorded_steps, replay
from tests.actors.test_learning_step import graded

QUARANTINED = quarantined_group(
    SampleRequest(
        sequence=1,
        epoch=0,
        prompt_id="p",
        level="all",
        prompt_tokens=np.array([1], np.int32),
        admitted_version=0,
        n=4,
        temperature=1.0,
        max_tokens=8,
        seed=0,
    )
)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A run of three steps; the groups of the last hold two samples instead of four."""
    (tmp_path / "run" / "groups").mkdir(parents=True)
    for step, rewards in enumerate(([1, 0, 0, 0], [1, 1, 0, 0], [1, 0])):
        groups = [graded(rewards), QUARANTINED]
        write_groups(tmp_path / "run" / "groups" / groups_file(step + 1), [g.to_record_batch() for g in groups])
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"rollout": {"n": 8}}, ("rollout.n = 8", "of step 1 were sampled with 4", "give rollout.n and schedule.n")),
        ({"rollout": {"n": 4}}, ("rollout.n = 4", "of step 3 were sampled with 2")),
        ({"rollout": {"n": 4, "temperature": 0.7}}, ("rollout.temperature = 0.7", "of step 1 were sampled with 1;")),
        ({"rollout": {"n": 4}, "schedule": {"n": {"shape": "steps", "at": {1: 3}}}}, ("rollout.n = 3 (moved by",)),
        (
            {"rollout": {"n": 4}, "run": {"steps": 2}, "objective": {"imitation": "sft"}},
            ("objective.imitation = sft", "hold no demonstration"),
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused(
    recorded: Path, changes: dict[str, Any], parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.run.replay.RunDirectory.create", lambda *_: pytest.fail("something was started"))
    config = build_config({"objective": {"k": 1}} | changes)
    with pytest.raises(UsageError) as refused:
        replay(config, recorded)
    for part in parts:
        assert part in str(refused.value)


def test_groups_that_cannot_be_read_are_refused(recorded: Path) -> None:
    (recorded / "groups" / groups_file(2)).write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="step-000002.parquet cannot be read"):
        replay(build_config({"rollout": {"n": 4}, "objective": {"k": 1}}), recorded)


def test_groups_that_fit_are_trained_on(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(Exception):
        pass

    def create(*_: Any) -> None:
        raise Started

    monkeypatch.setattr("cluster.run.replay.RunDirectory.create", create)
    assert recorded_steps(recorded) == 3
    shrinking = {"n": {"shape": "steps", "at": {2: 2}}}
    for changes in ({"run": {"steps": 2}}, {"schedule": shrinking}):
        with pytest.raises(Started):
            replay(build_config({"rollout": {"n": 4}, "objective": {"k": 1}} | changes), recorded)
