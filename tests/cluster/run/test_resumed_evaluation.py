"""An evaluation that a signal stops is made when the run is resumed, and the summary has those of all processes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.config import build_config
from cluster.evaluation.summary import Evaluation, evaluation_file, read_evaluation
from cluster.records.best import read_best
from cluster.records.checkpoints import Checkpoints
from cluster.records.run_directory import RunDirectory
from cluster.run import run as run_module
from cluster.run.conclusion import conclude
from cluster.run.context import RunContext
from cluster.run.job import _train_until_asked
from cluster.run.recorder import NoWeightSync
from cluster.run.run import Run
from cluster.run.shutdown import Shutdown, ShutdownRequested
from cluster.telemetry.memory import JobMemory
from tests.cluster.results.recorded import N, evaluation_groups, write
from tests.cluster.run.test_selection import Learner, Source
from tests.cluster.running import quiet_supervisor

STEPS = 4
SETTINGS: dict[str, Any] = {
    "run": {"steps": STEPS},
    "rollout": {"n": N},
    "objective": {"k": 2},
    "checkpoint": {"every": 0, "keep": 1},
    "evaluation": {"keep_best": "pass_at_k@2", "every": 2, "n": N},
}


def trained(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, *, stops_at: int | None = None) -> Run:
    """A run, resumed from its newest checkpoint; a signal arrives while it evaluates step `stops_at`."""
    config = build_config(SETTINGS)

    async def evaluate(*_: Any, step: int, log: Path, **__: Any) -> Evaluation:
        if step == stops_at:
            raise ShutdownRequested
        write(log, evaluation_groups(0.2 + step / 10, step))
        found = read_evaluation(config, log, step)
        assert found is not None
        return found

    monkeypatch.setattr(run_module, "evaluate_prompts", evaluate)
    start = Checkpoints(directory.checkpoints).latest().checkpoint
    if start:
        directory.rewind(start.step)
    context = RunContext(config, directory, _dashboards(), start=start)
    pool = SimpleNamespace(
        sampling_seconds=lambda: 0.0, sampled_tokens=0, quarantined=0,
        samplers=SimpleNamespace(serving=1), verifiers=SimpleNamespace(serving=1),
    )  # fmt: skip
    supervisor, learner = quiet_supervisor(), Learner(context.first_step)
    shutdown, memory = Shutdown(), JobMemory(quiet_supervisor())
    run = Run(context, cast(Any, Source()), learner, NoWeightSync(), cast(Any, pool), supervisor, memory, shutdown)
    asyncio.run(_train_until_asked(run))
    return run


def _dashboards() -> Any:
    quiet = dict.fromkeys(("step", "phase", "message", "evaluation", "best"), lambda *_: None)
    return SimpleNamespace(**quiet, final_message=lambda *_: None, curves=lambda evaluations: {})


@pytest.mark.parametrize("stops_at", [2, STEPS])
def test_a_resumed_run_makes_the_evaluation_that_a_signal_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops_at: int
) -> None:
    with RunDirectory.create(tmp_path, "run", {}) as directory:
        stopped = trained(directory, monkeypatch, stops_at=stops_at)
        assert stopped.saved == stops_at and not (directory.groups / evaluation_file(stops_at)).exists()
        resumed = trained(directory, monkeypatch)
        assert resumed.learner.version == STEPS
        assert [e.step for e in (*stopped.evaluations, *resumed.evaluations)] == [0, 2, 4], "each of them once"
        best = read_best(directory.path)
        assert best == resumed.selection.best and best is not None and best.evaluations == 2
        assert best.step in Checkpoints(directory.checkpoints).steps()
        assert not trained(directory, monkeypatch).evaluations, "none is made twice"


def test_the_summary_of_a_resumed_run_has_the_evaluations_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.run.conclusion.weights_sha256", lambda model: "00")
    with RunDirectory.create(tmp_path, "run", {}) as directory:
        trained(directory, monkeypatch)
        again = trained(directory, monkeypatch)
        compared: list[list[int]] = []
        curves = lambda evaluations: compared.append([e.step for e in evaluations]) or {}  # noqa: E731
        monkeypatch.setattr(again.context.dashboards, "curves", curves)
        assert conclude(again.context, again).status == 0
        summary = json.loads((directory.path / "summary.json").read_text())
    assert [row["evaluation/step"] for row in summary["evaluations"]] == [0, 2, 4]
    assert compared == [[0, 4]]
