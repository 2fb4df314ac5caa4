"""The best evaluated checkpoint stays and is found again after a crash; a run without progress ends early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from cluster.config import build_config
from cluster.errors import UsageError
from cluster.evaluation.summary import Evaluation
from cluster.records.best import FILE, read_best
from cluster.records.checkpoints import Checkpoints
from cluster.records.model_source import resolve_model
from cluster.records.run_directory import RunDirectory
from cluster.run.context import RunContext
from cluster.run.job import _train_until_asked
from cluster.run.recorder import NoWeightSync
from cluster.run.run import Run
from cluster.run.selection import NoFurtherGain, Selection, evaluations_without_gain
from cluster.run.shutdown import Shutdown
from cluster.telemetry.memory import JobMemory
from tests.cluster.running import quiet_supervisor

METRIC = "eval/pass@2"


def evaluation(step: int, value: float) -> Evaluation:
    row = {"evaluation/step": step, METRIC: value, f"{METRIC}_low": value - 0.1, f"{METRIC}_high": value + 0.1}
    return cast(Any, SimpleNamespace(step=step, row=lambda: row))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory.create(tmp_path, "run", {}) as made:
        yield made


def selection(directory: RunDirectory, first_step: int = 0, **changes: Any) -> Selection:
    settings = build_config({"evaluation": {"keep_best": "pass_at_k@2", "every": 1} | changes}).evaluation
    return Selection(settings, directory, Checkpoints(directory.checkpoints), first_step)


def write_checkpoint(directory: RunDirectory, step: int) -> None:
    checkpoints = Checkpoints(directory.checkpoints)
    model = checkpoints.begin(step) / "huggingface"
    model.mkdir()
    (model / "config.json").write_text("{}")
    checkpoints.finalise(step)


def test_the_largest_value_is_the_best_and_the_base_model_is_no_candidate(directory: RunDirectory) -> None:
    found = selection(directory)
    assert not found.add(evaluation(0, 0.9)) and found.best is None
    assert [found.add(evaluation(step, value)) for step, value in ((1, 0.3), (2, 0.5), (3, 0.5), (4, 0.4))] == [
        True, True, False, False,
    ]  # fmt: skip
    assert not found.add(evaluation(5, float("nan")))
    assert found.best is not None and (found.best.step, found.best.value, found.protected) == (2, 0.5, (2,))
    assert found.base_is_better and found.best.evaluations == 4, "as a resumed run counts them"
    assert str(found.best) == "step 2, pass_at_k@2 0.500 [0.400, 0.600]"
    assert not selection(directory, keep_best=None, patience=0).add(evaluation(1, 1.0))


@pytest.mark.parametrize(
    ("values", "gain", "count"),
    [
        ([], 0.0, 0),
        ([0.5], 0.0, 0),
        ([0.1, 0.2, 0.3], 0.0, 0),
        ([0.3, 0.2, 0.3], 0.0, 2),
        ([0.3, 0.2, 0.31, 0.3], 0.0, 1),
        ([0.30, 0.31, 0.32, 0.33], 0.025, 0),  # slow rises add up
        ([0.30, 0.31, 0.32], 0.025, 2),
    ],
)
def test_patience_counts_evaluations_without_gain(values: list[float], gain: float, count: int) -> None:
    assert evaluations_without_gain(values, gain) == count


def test_a_resumed_run_finds_the_best_among_the_steps_and_checkpoints_that_are_left(directory: RunDirectory) -> None:
    for step, value in ((0, 0.1), (1, 0.6), (2, 0.5), (3, 0.9)):
        directory.append_metrics(evaluation(step, value).row())
    for step in (1, 2):
        write_checkpoint(directory, step)
    (directory.path / FILE).write_text(json.dumps({"step": 3}))  # its checkpoint was lost
    directory.rewind(2)
    found = selection(directory, first_step=2, patience=2)
    assert found.best is not None and (found.best.step, found.best.checkpoint) == (1, "checkpoints/step-000001")
    assert read_best(directory.path) == found.best
    assert not found.exhausted and not found.add(evaluation(3, 0.6))
    with pytest.raises(NoFurtherGain, match=r"stopped early after step 3: pass_at_k@2 .* in the last 2 evaluations"):
        found.check(3)

    (directory.checkpoints / "step-000001" / "huggingface" / "config.json").unlink()
    assert selection(directory, first_step=2).protected == (2,), "the next best that is complete"
    assert selection(directory, first_step=2, keep_best="best_of_k@2").best is None, "never measured"
    assert not (directory.path / FILE).exists()


class Learner:
    """Counts steps; fails after saving a checkpoint of `dies_at`, as a run that is killed there."""

    version = 0

    def __init__(self, version: int = 0) -> None:
        self.version = version

    async def step(self, groups: Any, step: int, probes: Any = None) -> dict[str, float]:
        await probes
        self.version = step + 1
        return {"batch/tokens": 10.0}

    async def save(self, directory: str) -> None:
        model = Path(directory) / "huggingface"
        model.mkdir()
        (model / "config.json").write_text(f"{self.version}")


class Source:
    """Empty batches."""

    checkpoint_files = ()

    def rollouts_in(self, tasks: asyncio.TaskGroup) -> Any:
        import contextlib

        return contextlib.AsyncExitStack()

    async def start_rollouts(self) -> None: ...

    async def probe(self, version: int) -> list[pa.RecordBatch]:
        return []

    async def lease(self, step: int) -> tuple[Any, dict[str, float]]:
        return None, {}

    async def ack(self, version: int) -> None: ...

    async def save(self, directory: Path) -> None: ...


def trained(directory: RunDirectory, values: dict[int, float], monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Run:
    """A run whose evaluations have these values, through the control loop, resumed from its newest checkpoint."""
    config = build_config(
        {
            "run": {"steps": 8},
            "checkpoint": {"every": 0, "keep": 1},
            "evaluation": {"keep_best": "pass_at_k@2", "every": 1, "at_start": False} | changes,
        }
    )

    async def evaluate(self: Run, step: int) -> None:
        found = evaluation(step, values[step])
        self.context.directory.append_metrics(found.row())
        self.selection.add(found)

    monkeypatch.setattr(Run, "evaluate", evaluate)
    monkeypatch.setattr(Run, "evaluates_at", lambda self, step: step in values)
    dashboards: Any = SimpleNamespace(step=lambda row: None, phase=lambda name: None, message=lambda text: None)
    start = Checkpoints(directory.checkpoints).latest().checkpoint
    if start:
        directory.rewind(start.step)
    context = RunContext(config, directory, dashboards, start=start)
    supervisor = quiet_supervisor()
    learner, memory = Learner(context.first_step), JobMemory(supervisor)
    run = Run(context, cast(Any, Source()), learner, NoWeightSync(), None, supervisor, memory, Shutdown())
    asyncio.run(_train_until_asked(run))
    return run


def test_the_best_checkpoint_outlives_newer_ones(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(directory, {2: 0.3, 4: 0.7, 6: 0.5}, monkeypatch)
    assert Checkpoints(directory.checkpoints).steps() == [4, 8] and run.stopped is None
    found = read_best(directory.path)
    assert found is not None and (found.step, found.value, found.split) == (4, 0.7, "validation")
    assert (resolve_model(directory.path, best=True) / "config.json").read_text() == "4"
    assert (resolve_model(directory.path) / "config.json").read_text() == "8"


def test_a_run_without_progress_ends_with_its_last_checkpoint(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {1: 0.3, 2: 0.7, 3: 0.5, 4: 0.7, 5: 0.9}
    run = trained(directory, values, monkeypatch, patience=2)
    assert run.stopped is not None and "stopped early after step 4" in run.stopped
    assert Checkpoints(directory.checkpoints).steps() == [2, 4] and run.learner.version == 4

    again = trained(directory, values, monkeypatch, patience=2)
    assert again.learner.version == 4 and again.stopped == run.stopped, "a resumed run has no patience left either"
    longer = trained(directory, values | {6: 0.9, 7: 0.8}, monkeypatch, patience=3)
    assert longer.learner.version == 8 and longer.selection.protected == (5,)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_around_the_checkpoint_of_a_new_best_loses_neither(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed after the checkpoint of step 4 is complete, before or after best.json names it."""
    write, killed = Selection.write, RuntimeError("killed")

    def dying(self: Selection) -> None:
        if self.is_best(4) and moment == "before":
            raise killed
        write(self)
        if self.is_best(4):
            raise killed

    monkeypatch.setattr(Selection, "write", dying)
    with pytest.raises(ExceptionGroup):
        trained(directory, {2: 0.3, 4: 0.7, 6: 0.5}, monkeypatch)
    found = read_best(directory.path)
    assert found is not None and found.step == (2 if moment == "before" else 4)
    resolve_model(directory.path, best=True)
    monkeypatch.setattr(Selection, "write", write)
    run = trained(directory, {2: 0.3, 4: 0.7, 6: 0.5}, monkeypatch)
    assert run.first_step == 4 and Checkpoints(directory.checkpoints).steps() == [4, 8]
    assert read_best(directory.path) == run.selection.best


@pytest.mark.parametrize(
    ("prepare", "part"),
    [
        (lambda run: (run / FILE).unlink(), "holds no best.json"),
        (lambda run: (run / FILE).write_text("{"), "cannot be read"),
        (lambda run: (run / "checkpoints/step-000001/huggingface/config.json").write_text("other"), "leave --best out"),
    ],
)
def test_best_is_refused_where_there_is_none(
    directory: RunDirectory, prepare: Callable[[Path], object], part: str
) -> None:
    write_checkpoint(directory, 1)
    found = selection(directory)
    assert found.add(evaluation(1, 0.5))
    found.write()
    assert resolve_model(directory.path, best=True) == directory.checkpoints / "step-000001" / "huggingface"
    prepare(directory.path)
    with pytest.raises(UsageError, match=part):
        resolve_model(directory.path, best=True)
