"""Training on recorded groups: settings that do not fit them are refused, and the loop is that of every run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.group import SampleRequest, quarantined_group
from actors.queue.group_log import groups_file, read_groups, write_groups
from actors.sampling import Sampling
from cluster.checks.earlier import replay_problems, replay_text, replayed_steps
from cluster.checks.memory.shape import has_samplers
from cluster.config import build_config
from cluster.errors import UsageError
from cluster.records.checkpoints import QUEUE_FILE, Checkpoints
from cluster.records.config_changes import recorded_config
from cluster.records.run_directory import RunDirectory
from cluster.run.context import RunContext
from cluster.run.job import _train_until_asked, replay
from cluster.run.recorder import NoWeightSync
from cluster.run.replay import RecordedGroups
from cluster.run.run import Run
from cluster.run.shutdown import Shutdown
from cluster.telemetry.memory import JobMemory
from tests.actors.workers.test_learning_step import graded
from tests.cluster.running import quiet_supervisor

QUARANTINED = quarantined_group(
    SampleRequest(
        sequence=1,
        epoch=0,
        prompt_id="p",
        level="all",
        prompt_tokens=np.array([1], np.int32),
        admitted_version=0,
        n=4,
        sampling=Sampling(),
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
        ({"rollout": {"n": 8}}, ("rollout.n = 8", "of step 1 were sampled with 4", "set rollout.n and schedule.n")),
        ({"rollout": {"n": 4}}, ("rollout.n = 4", "of step 3 were sampled with 2")),
        ({"rollout": {"n": 4, "temperature": 0.7}}, ("rollout.temperature = 0.7", "of step 1 were sampled with 1;")),
        ({"rollout": {"n": 4}, "schedule": {"n": {"shape": "steps", "at": {1: 3}}}}, ("rollout.n = 3 (changed by",)),
        (
            {"rollout": {"n": 4}, "run": {"steps": 2}, "objective": {"imitation": "sft"}},
            ("objective.imitation = sft", "hold no demonstration"),
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused(
    recorded: Path, changes: dict[str, Any], parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.run.job.RunDirectory.create", lambda *_: pytest.fail("something was started"))
    config = build_config({"objective": {"k": 1}} | changes)
    with pytest.raises(UsageError) as refused:
        replay(config, recorded)
    for part in parts:
        assert part in str(refused.value)


def test_groups_that_cannot_be_read_are_refused(recorded: Path) -> None:
    (recorded / "groups" / groups_file(2)).write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="step-000002.parquet cannot be read"):
        replay(build_config({"rollout": {"n": 4}, "objective": {"k": 1}}), recorded)


@pytest.mark.parametrize(("missing", "remedy"), [(2, "with run.steps=1"), (1, "restore that file")])
def test_a_missing_step_before_others_is_refused(recorded: Path, missing: int, remedy: str) -> None:
    (recorded / "groups" / groups_file(missing)).unlink()
    tree = {"rollout": {"n": 4}, "objective": {"k": 1}}
    for start in (replay, lambda config, run: replay_problems(config, run, groups=False)):
        with pytest.raises(UsageError) as refused:
            start(build_config(tree), recorded)
        assert f"groups/{groups_file(missing)} is missing" in str(refused.value)
        assert "the last is 3" in str(refused.value) and str(refused.value).endswith(remedy)
    if missing == 2:
        assert replayed_steps(build_config(tree | {"run": {"steps": 1}}), recorded) == 1


def test_groups_that_fit_are_trained_on(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(Exception):
        pass

    def create(*_: Any) -> None:
        raise Started

    monkeypatch.setattr("cluster.run.job.RunDirectory.create", create)
    assert replay_text(build_config({}), recorded) == f"3 steps of {recorded}, which recorded no more (run.steps = 160)"
    assert replay_text(build_config({"run": {"steps": 2}}), recorded) == f"2 steps of {recorded}"
    shrinking = {"n": {"shape": "steps", "at": {2: 2}}}
    for changes in ({"run": {"steps": 2}}, {"schedule": shrinking}):
        with pytest.raises(Started):
            replay(build_config({"rollout": {"n": 4}, "objective": {"k": 1}} | changes), recorded)


def test_a_replay_starts_no_samplers_but_records_the_settings_of_those_of_the_run(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bonrl eval` of the replayed model reads them."""
    monkeypatch.setattr("cluster.run.job._run", lambda context: context)
    monkeypatch.setattr("cluster.run.job.Dashboards", lambda *_, **__: nullcontext(SimpleNamespace(message=print)))
    config = build_config(
        {
            "rollout": {"n": 4},
            "objective": {"k": 1},
            "run": {"steps": 2, "directory": str(tmp_path / "runs")},
            "actors": {"samplers": 2},
            "queue": {"staleness": 1},
        }
    )
    context: Any = replay(config, recorded)
    assert not has_samplers(context.config) and context.config.actors.verifier_range.max == 0
    kept = recorded_config(context.directory.path)
    assert (kept.actors, kept.queue) == (config.actors, config.queue)


class Learner:
    """Counts steps instead of training; `at_step` is called in each of them."""

    version = 0

    def __init__(self, at_step: Callable[[int], None] = lambda step: None) -> None:
        self.trained: list[Any] = []
        self._at_step = at_step

    async def step(self, groups: Any, step: int, probes: Any = None) -> dict[str, float]:
        assert await probes == []
        self.trained.append(groups)
        self._at_step(step)
        self.version = step + 1
        return {"batch/tokens": 10.0, "logprob_gap/mean": 0.5}

    async def save(self, directory: str) -> None:
        (Path(directory) / "model").write_text(f"{self.version}")


def replayed(
    recorded: Path, directory: RunDirectory, learner: Learner, shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """A run of three steps that has gone through the control loop, with the dashboards and Ray replaced."""
    monkeypatch.setattr("cluster.run.replay.ray.put", lambda groups: groups)
    config = build_config({"run": {"steps": 3}, "checkpoint": {"every": 2}, "evaluation": {"every": 1}})
    dashboards: Any = SimpleNamespace(step=lambda row: None, phase=lambda name: None, message=lambda text: None)
    context = RunContext(config, directory, dashboards, replay=recorded)
    source = RecordedGroups(recorded / "groups", deadline_s=60.0)
    supervisor = quiet_supervisor()
    run = Run(context, source, learner, NoWeightSync(), None, supervisor, JobMemory(supervisor), shutdown)

    async def train() -> None:
        async with directory.written_on_a_thread(60.0):
            await _train_until_asked(run)

    asyncio.run(train())
    return run


def test_a_replay_is_the_control_loop_with_recorded_groups(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner()
    with RunDirectory.create(tmp_path, "replay", {}) as directory:
        run = replayed(recorded, directory, learner, Shutdown(), monkeypatch)
        assert Checkpoints(directory.checkpoints).steps() == [2, 3] and not run.evaluations
        assert not (directory.checkpoints / "step-000003" / QUEUE_FILE).exists(), "--resume refuses it by this"
        rows = directory.read_metrics()
    assert [row["train/step"] for row in rows] == [1, 2, 3]
    assert "throughput/sampled_tokens_per_s" not in rows[0] and rows[0]["time/sampling_share"] == 0
    for step, groups in enumerate(learner.trained, start=1):
        assert groups == read_groups(recorded / "groups" / groups_file(step))


def test_a_checkpoint_is_written_after_the_rows_of_its_steps(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume removes the rows of later steps and keeps these; here the disk is slow."""
    append, rows = RunDirectory._append_row, list[int]()

    def slow(directory: RunDirectory, line: str) -> None:
        time.sleep(0.3)
        append(directory, line)

    class Saved(Learner):
        async def save(self, path: str) -> None:
            await super().save(path)
            rows.append(len(directory.read_metrics()))

    monkeypatch.setattr(RunDirectory, "_append_row", slow)
    with RunDirectory.create(tmp_path, "replay", {}) as directory:
        replayed(recorded, directory, Saved(), Shutdown(), monkeypatch)
    assert rows == [2, 3]


def test_a_signal_stops_a_replay_after_its_step_with_a_checkpoint(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutdown = Shutdown()
    with RunDirectory.create(tmp_path, "replay", {}) as directory:
        replayed(recorded, directory, Learner(lambda step: shutdown._asked_thread.set()), shutdown, monkeypatch)
        assert Checkpoints(directory.checkpoints).steps() == [1]
