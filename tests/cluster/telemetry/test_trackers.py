"""TensorBoard and MLflow hold each metric over its axis, continue and rewind with a run, and cannot stop one."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cluster.checks import preflight
from cluster.config import build_config
from cluster.telemetry import mlflow_writer, tensorboard_writer
from cluster.telemetry.mlflow_writer import MlflowWriter
from cluster.telemetry.tensorboard_writer import TensorBoardWriter
from cluster.telemetry.tracker import Tracker


def row(step: int) -> dict[str, float]:
    return {
        "train/step": step,
        "rollout/step": step,
        "time/s": 10.0 * step,
        "reward/mean": step / 10,
        "throughput/sampled_tokens_per_s": 0.5,
        "queue/depth": 3,
    }


def evaluated(step: int) -> dict[str, float]:
    return {"evaluation/step": step, "eval/pass@8": 0.5}


def scalars(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], list[int]]:
    """Points by tag of a folder's event files, oldest first, and the steps from which a file hides earlier ones."""
    from tensorboardX.proto.event_pb2 import Event

    points: dict[str, list[tuple[int, float]]] = {}
    hidden_from = []
    for file in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                points.setdefault(value.tag, []).append((event.step, round(value.simple_value, 6)))
            if event.HasField("session_log") and event.session_log.status == event.session_log.START:
                hidden_from.append(event.step)
    return points, hidden_from


def test_tensorboard_draws_each_metric_over_its_axis(tmp_path: Path) -> None:
    from cluster.records.metric_names import split_by_axis

    session = tensorboard_writer._Session()
    session.start(str(tmp_path), {})
    for part in [*split_by_axis(row(1)), *split_by_axis(row(2)), *split_by_axis(evaluated(2))]:
        session.log(part)
    session.finish(0)
    assert scalars(tmp_path / "train")[0] == {"reward/mean": [(1, 0.1), (2, 0.2)]}
    assert scalars(tmp_path / "rollout")[0] == {"throughput/sampled_tokens_per_s": [(1, 0.5), (2, 0.5)]}
    assert scalars(tmp_path / "time")[0] == {"queue/depth": [(10, 3.0), (20, 3.0)]}
    assert scalars(tmp_path / "evaluation")[0] == {"eval/pass_at_8": [(2, 0.5)]}


@pytest.mark.slow
def test_tensorboard_continues_after_a_resume_and_after_its_helper_is_killed(tmp_path: Path) -> None:
    first = TensorBoardWriter(tmp_path)
    assert f"tensorboard --logdir {tmp_path / 'tensorboard'}" in first.describe()
    for step in (1, 2, 3):
        first.log(row(step))
    assert first.finish() is None and first.losses() == []

    second = TensorBoardWriter(tmp_path, first_step=2, elapsed_s=20.4)
    second.log(row(3))
    (helper,) = [p for p in psutil.Process().children() if "tensorboard_writer" in " ".join(p.cmdline())]
    _until(lambda: (3, 0.3) in scalars(tmp_path / "tensorboard" / "train")[0]["reward/mean"][3:])
    os.kill(helper.pid, signal.SIGKILL)
    second.log(row(4))
    assert second.finish() is None
    (loss,) = second.losses()
    assert loss.tracker == "TensorBoard" and loss.recovered_s is not None and "killed by SIGKILL" in loss.message
    points, hidden_from = scalars(tmp_path / "tensorboard" / "train")
    assert hidden_from == [3] and scalars(tmp_path / "tensorboard" / "time")[1] == [21]
    assert points["reward/mean"][:3] == [(1, 0.1), (2, 0.2), (3, 0.3)] and points["reward/mean"][-1] == (4, 0.4)


def _until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_mlflow_holds_every_step_once_after_a_resume_from_an_earlier_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in MlflowWriter.environment.items():
        monkeypatch.setenv(name, value)
    from mlflow import MlflowClient

    settings: Any = SimpleNamespace(tracking_uri=None, experiment="bonrl-test")

    def write(rows: list[dict[str, float]], first_step: int, status: int) -> MlflowWriter:
        writer = MlflowWriter(settings, tmp_path, config={"objective": {"k": 8}}, name="x", first_step=first_step)
        for found in rows:
            with (tmp_path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(found) + "\n")
            writer.log(found)
        assert writer.finish(status) is None and writer.losses() == []
        return writer

    writer = write([row(1), evaluated(1), row(2), row(3)], 0, 1)
    assert "mlflow ui --backend-store-uri" in writer.describe()
    assert "needs the package mlflow, not only mlflow-skinny" in writer.describe()
    client = MlflowClient(tracking_uri=writer.uri)
    old = (tmp_path / "mlflow" / "run_id.txt").read_text()
    assert client.get_run(old).info.status == "FAILED"
    assert client.get_run(old).data.params["objective.k"] == "8"

    write([row(4)], 3, 130)  # from the last step: the same run
    assert (tmp_path / "mlflow" / "run_id.txt").read_text() == old and client.get_run(old).info.status == "KILLED"

    kept = (tmp_path / "metrics.jsonl").read_text().splitlines()[:3]  # rewound to step 2
    (tmp_path / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    write([row(3)], 2, 0)
    new = (tmp_path / "mlflow" / "run_id.txt").read_text()
    assert new != old and client.get_run(old).info.lifecycle_stage == "deleted"
    run = client.get_run(new)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "x")

    def points(name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in client.get_metric_history(new, name)]

    assert points("reward/mean") == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert points("eval/pass_at_8") == [(1, 0.5)] and points("queue/depth") == [(10, 3), (20, 3), (30, 3)]


def test_rows_of_plugins_strategies_are_split_without_the_plugin() -> None:
    parts = list(mlflow_writer._by_axis({"evaluation/step": 3, "eval/mine@4": 0.5, "eval/pass@8": 0.25}))
    assert parts == [{"evaluation/step": 3, "eval/mine@4": 0.5, "eval/pass@8": 0.25}]


class Unstartable(Tracker):
    """Its helper's module does not exist."""

    name = "Nothing"
    module = "cluster.telemetry.no_such_module"

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def describe(self) -> str:
        return self._why_off

    def _kept(self) -> str:
        return ""

    def _start_arguments(self) -> dict[str, Any]:
        return {}


@pytest.mark.slow
def test_a_tracker_that_cannot_start_is_off_and_says_why() -> None:
    tracker = Unstartable()
    assert "Nothing could not start" in tracker.describe() and "no_such_module" in tracker.describe()
    tracker.log(row(1))
    assert tracker.finish() is None


def test_a_tracker_whose_helper_cannot_start_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cluster.telemetry.helper_process.tempfile.TemporaryFile", full)
    tracker = Unstartable()
    assert "its process could not be started" in tracker.describe() and "No space left" in tracker.describe()
    assert tracker.finish() is None


def test_a_missing_package_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = build_config({"tracking": ["tensorboard", "mlflow"]})
    assert list(preflight.tracker_problems(config)) == []
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    problems = "\n".join(preflight.tracker_problems(config))
    assert "pip install 'bonrl[tensorboard]'" in problems and "pip install 'bonrl[mlflow]'" in problems
    assert list(preflight.tracker_problems(build_config({}))) == [], "wandb is always there"
