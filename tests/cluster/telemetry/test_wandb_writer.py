"""Pins the wandb writer: an offline run's file, read back, holds every metric over its axis."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.checks.wandb_mode import choose_mode
from cluster.records.metric_names import AXES, METRICS, MetricError
from cluster.telemetry.wandb_writer import WandbWriter
from tests.cluster.telemetry.wandb_reader import read_run_file

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Settings:
    project: str = "bonrl-test"
    entity: str | None = None
    mode: str = "auto"
    tags: tuple[str, ...] = ("a",)


@contextlib.contextmanager
def counting_server() -> Iterator[tuple[str, list[object]]]:
    """A local address that takes connections, counts them and never answers."""
    taken: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stopped = threading.Event()

        def accept() -> None:
            while not stopped.is_set():
                with contextlib.suppress(TimeoutError):
                    taken.append(server.accept()[0])

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", taken
        finally:
            stopped.set()
            thread.join(timeout=5)
            for connection in taken:
                connection.close()  # type: ignore[attr-defined]


DRIVER = """
import json, sys
from types import SimpleNamespace
from cluster.telemetry.wandb_writer import WandbWriter
settings = SimpleNamespace(project="p", entity=None, mode=sys.argv[2], tags=("a",))
writer = WandbWriter(settings, sys.argv[1], config={"objective": {"k": 8}}, name="first", init_deadline_s=2.0)
for row in json.load(sys.stdin):
    writer.log(row)
print(json.dumps([writer.describe(), writer.run_id, str(writer.directory), writer.finish(exit_code=0)]))
"""


def drive(directory: Path, rows: list[dict[str, Any]], mode: str = "auto", **env: str) -> tuple[Any, str]:
    """A run in a process of its own: what it reports, and what wandb put on the terminal besides."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    home = directory / "home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(directory), mode],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=home,
        env={**clean, "PYTHONPATH": str(ROOT), "HOME": str(home), **env},
    )
    assert done.returncode == 0, done.stderr
    *noise, report = done.stdout.splitlines()
    return json.loads(report), "\n".join(noise) + done.stderr


def every_metric(step: int) -> dict[str, float]:
    """A row with every metric of the table, patterns filled in, each with a value of its own."""
    row: dict[str, float] = {axis: step + number for number, axis in enumerate(AXES)}
    for number, metric in enumerate(METRICS):
        for k in (1, 16):
            key = metric.key.replace("<k>", str(k)).replace("<status>", "wrong").replace("<part>", "format")
            key = key.replace("<actor>", "sampler-0")
            if "<strategy>" not in key:  # of a plugin; the others have a line of their own
                row[key] = step + number / 100 + k / 10000
    return row


@pytest.mark.slow
def test_offline_file_read_back_holds_every_metric_over_its_axis_and_nothing_was_sent(tmp_path: Path) -> None:
    rows = [every_metric(step) for step in (1, 2, 3)] + [{"evaluation/step": 9, "eval/pass@8": math.nan}]
    with counting_server() as (address, taken):
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
        report, noise = drive(tmp_path, rows, WANDB_BASE_URL=address, **proxies)
        assert taken == [], "offline mode must not touch the network"
    described, run_id, directory, failure = report
    assert failure is None and noise == ""
    assert described == (
        "wandb: offline (no API key is set: `wandb login` sets one). "
        f"Look at it with: wandb leet {shlex.quote(directory)}. Upload later with: wandb sync {shlex.quote(directory)}"
    )
    run = read_run_file(Path(directory) / f"run-{run_id}.wandb")
    assert (run.name, run.config["objective"], run.exit_code) == ("first", {"k": 8}, 0)

    for metric in METRICS:
        defined = metric.key.split("<")[0] + "*" if metric.is_pattern else metric.key
        assert run.axis_of[defined] == metric.axis
    assert [axis for axis in AXES if run.axis_of.get(axis) != ""] == [], "axes are defined, over nothing"

    # One logged row per axis, never two clocks in a row, and every number where it belongs.
    assert all(len(set(row) & set(AXES)) == 1 for row in run.rows)
    assert len(run.rows) == 3 * len(AXES) + 1
    for row in rows[:3]:
        for key, value in row.items():
            if key not in AXES:
                axis = next(a for a in AXES if any(key in r and a in r for r in run.rows))
                values = [r[key] for r in run.rows if key in r and r[axis] == row[axis]]
                assert values == [pytest.approx(value)], key
    assert run.rows[-1]["evaluation/step"] == 9


@pytest.mark.slow
def test_a_resumed_run_keeps_its_wandb_id(tmp_path: Path) -> None:
    reports = []
    for step in (1, 2):
        report, _ = drive(tmp_path, [{"train/step": step, "reward/mean": 0.5}], mode="offline")
        reports.append(report)
        time.sleep(1.1 - time.time() % 1)  # wandb names directories by the second
    assert reports[0][1] == reports[1][1]
    assert reports[0][2] != reports[1][2]
    assert reports[1][0].endswith(f"wandb sync {tmp_path}/wandb/offline-run-*")


@pytest.mark.slow
def test_auto_falls_back_to_offline_when_the_server_does_not_answer(tmp_path: Path) -> None:
    with counting_server() as (address, taken):
        key = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": address}
        row = {"train/step": 1, "reward/mean": 0.5}
        (described, run_id, directory, _), noise = drive(tmp_path, [row], **key)
        assert taken, "with a key it tries"
    assert described.startswith("wandb: offline (wandb could not start online")
    run = read_run_file(Path(directory) / f"run-{run_id}.wandb")
    assert run.rows == [row] and noise == ""


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    return netrc


def test_auto_mode_looks_for_a_key(no_key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_mode("auto")[0] == "offline"
    no_key.write_text("machine api.wandb.ai login user password x\n")
    assert choose_mode("auto") == ("online", f"API key from {no_key}")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert choose_mode("auto")[0] == "offline"
    no_key.write_text("machine")
    assert choose_mode("auto")[0] == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert choose_mode("auto") == ("online", "API key from WANDB_API_KEY")
    assert choose_mode("offline")[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_mode("auto")[0] == "disabled"


def test_disabled_writes_and_imports_nothing_but_still_checks_names(tmp_path: Path, no_key: Path) -> None:
    writer = WandbWriter(Settings(mode="disabled"), tmp_path / "run", config={}, name="x")
    writer.log({"train/step": 1, "reward/mean": 0.5})
    with pytest.raises(MetricError):
        writer.log({"train/step": 1, "reward/meen": 0.5})
    assert writer.describe() == "wandb: disabled (wandb.mode is disabled)"
    assert writer.directory is None and writer.finish() is None
    assert not (tmp_path / "run").exists()
