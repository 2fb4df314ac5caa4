"""Pins what a run directory promises: it describes itself, is locked, survives kills and full disks."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from actors.queue.group_log import groups_file
from cluster.records import disk, run_directory
from cluster.records.disk import RunDirectoryError
from cluster.records.metric_names import MetricError
from cluster.records.run_directory import RunDirectory, read_metrics

CONFIG = {"run": {"name": None, "steps": 3}, "model": {"path": "models/größe"}}


def row(step: int, **more: float) -> dict[str, float]:
    return {"train/step": step, "reward/mean": step / 10, **more}


def test_it_describes_itself(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "runs", "first", CONFIG) as directory:
        path = directory.path
        assert path == tmp_path / "runs" / "first"
        directory.write_summary({"pass@16": np.float64(0.5), "gap": float("nan"), "path": path})
    assert sorted(p.name for p in path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "git.json",
        "groups",
        "lock",
        "logs",
        "summary.json",
        "versions.json",
    ]
    versions = json.loads((path / "versions.json").read_text())
    assert versions["python"].startswith("3.") and versions["packages"]["numpy"] == np.__version__
    assert set(json.loads((path / "git.json").read_text())) == {"commit", "dirty", "reason"}
    assert json.loads((path / "summary.json").read_text())["gap"] == "NaN"
    assert yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")) == CONFIG
    RunDirectory.open(path).close()


def test_names(tmp_path: Path) -> None:
    first, second = (RunDirectory.create(tmp_path, None, CONFIG) for _ in range(2))
    assert first.path != second.path
    first.close()
    second.close()
    for bad in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(RunDirectoryError, match=r"run\.name"):
            RunDirectory.create(tmp_path, bad, CONFIG)
    RunDirectory.create(tmp_path, "taken", CONFIG).close()
    with pytest.raises(RunDirectoryError, match=r"holds a run without a checkpoint: .* or remove that directory"):
        RunDirectory.create(tmp_path, "taken", CONFIG)
    (tmp_path / "taken" / "checkpoints" / "step-000001").mkdir()
    with pytest.raises(RunDirectoryError, match=r"holds a run already.*--resume"):
        RunDirectory.create(tmp_path, "taken", CONFIG)
    with pytest.raises(RunDirectoryError, match=r"not a run directory.*--resume"):
        RunDirectory.open(tmp_path)


def test_metrics_are_in_the_file_at_once_and_strict_json(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "a", CONFIG) as directory:
        directory.append_metrics(row(1, **{"policy/ratio_max": float("inf"), "reward/std": np.float32(0.5)}))
        lines = (directory.path / "metrics.jsonl").read_text().splitlines()
        parsed = json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"not strict JSON: {name}"))
        assert parsed == row(1) | {"policy/ratio_max": "Infinity", "reward/std": 0.5}
        assert directory.read_metrics()[0]["policy/ratio_max"] == float("inf")
        with pytest.raises(MetricError, match="nearest"):
            directory.append_metrics(row(2, **{"reward/meen": 1.0}))
        assert len(directory.read_metrics()) == 1


def test_a_run_that_is_under_way_queues_its_lines_and_flush_puts_them_into_the_files(tmp_path: Path) -> None:
    async def run(directory: RunDirectory) -> None:
        async with directory.written_on_a_thread(60):
            for step in (1, 2):
                directory.append_metrics(row(step))
                directory.append_incident("actor", f"sampler-{step}")
                directory.replace_json("quarantine/training-1.json", {"step": step})
            with pytest.raises(MetricError, match=r"reward/meen"):
                directory.append_metrics(row(3, **{"reward/meen": 1.0}))
            await directory.flush(60)
            assert [one["train/step"] for one in directory.read_metrics()] == [1, 2]
            assert (directory.path / "incidents.jsonl").read_text().count("sampler-") == 2
            assert json.loads((directory.path / "quarantine/training-1.json").read_text()) == {"step": 2}
            directory.append_metrics(row(3))
        assert [one["train/step"] for one in directory.read_metrics()] == [1, 2, 3], "the end of the block"
        directory.append_metrics(row(4))
        assert len(directory.read_metrics()) == 4

    with RunDirectory.create(tmp_path, "run", CONFIG) as directory:
        asyncio.run(run(directory))


def test_a_disk_that_hangs_leaves_the_event_loop_free_and_ends_the_run_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    append = RunDirectory._append_row

    def hang(directory: RunDirectory, line: str) -> None:
        assert answers.wait(30)
        append(directory, line)

    monkeypatch.setattr(RunDirectory, "_append_row", hang)
    monkeypatch.setattr(run_directory, "_END_SECONDS", 0.1)

    async def run(directory: RunDirectory) -> None:
        async with directory.written_on_a_thread(0.3):
            directory.append_metrics(row(1))  # returns, although the disk does not answer
            await directory.flush(0.3)

    directory = RunDirectory.create(tmp_path, "run", CONFIG)
    with pytest.raises(TimeoutError, match=r"the driver did not write to .*run \(see deadlines.checkpoint_s\) within"):
        asyncio.run(run(directory))
    directory.close()  # without waiting for the disk
    answers.set()
    with RunDirectory.open(directory.path):
        pass


def test_a_full_disk_ends_a_run_that_is_under_way_with_its_message(tmp_path: Path) -> None:
    async def run(directory: RunDirectory) -> None:
        async with directory.written_on_a_thread(60):
            directory.append_metrics(row(1))
            await directory.flush(60)

    with RunDirectory.create(tmp_path, "run", CONFIG) as directory:
        (directory.path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(RunDirectoryError, match=r"the disk \(or quota\) is full.*checkpoint\.keep"):
            asyncio.run(run(directory))


def test_rewind_leaves_every_step_once(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "a", CONFIG) as directory:
        directory.append_metrics({"evaluation/step": 0, "eval/pass@1": 0.2})
        for step in (1, 2, 3):
            directory.append_metrics(row(step))
            directory.append_metrics({"time/s": float(step), "queue/depth": 1})
            (directory.groups / groups_file(step)).write_bytes(b"PAR1")
        directory.append_metrics({"evaluation/step": 3, "eval/pass@1": 0.3})
        file = directory.path / "metrics.jsonl"
        file.write_text(file.read_text() + '{"train/step": 4, "rew')  # killed while it wrote
        assert len(read_metrics(directory.path)) == 8
        assert directory.rewind(2) == 4
        directory.append_metrics(row(3))
        rows = directory.read_metrics()
        steps = [r.get("train/step", r.get("evaluation/step", "time")) for r in rows]
        assert steps == [0, 1, "time", 2, "time", 3]
        assert sorted(path.name for path in directory.groups.iterdir()) == [groups_file(1), groups_file(2)]
        assert directory.elapsed_s() == 2.0, "the clock of a resumed run continues from the kept steps"
        assert directory.rewind(3) == 0


def test_rewind_repairs_a_missing_last_newline(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "a", CONFIG) as directory:
        directory.append_metrics(row(1))
        file = directory.path / "metrics.jsonl"
        file.write_text(file.read_text().rstrip("\n"))
        directory.rewind(1)
        directory.append_metrics(row(2))
        assert [r["train/step"] for r in directory.read_metrics()] == [1, 2]
        assert directory.rewind(0) == 2
        assert directory.read_metrics() == []


def test_two_runs_never_share_a_directory(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "a", CONFIG) as directory:
        with pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()} on"):
            RunDirectory.open(directory.path)
        with pytest.raises(RunDirectoryError, match="in use"):
            RunDirectory.create(tmp_path, "a", CONFIG)
    RunDirectory.open(directory.path).close()


def test_a_killed_run_frees_the_lock_and_its_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    script = """
import os, signal, sys, time
from cluster.records.run_directory import RunDirectory
directory = RunDirectory.create(sys.argv[1], "a", {})
if (child := os.fork()) == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[3]
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert run.stdin is not None and run.stdout is not None
    child = int(run.stdout.readline())
    try:
        with pytest.raises(RunDirectoryError, match=f"in use by process {run.pid}"):
            RunDirectory.open(tmp_path / "a")
        run.stdin.write("die\n")
        run.stdin.close()
        assert run.wait(timeout=20) == -9
        deadline = time.monotonic() + 10  # the child drops its copy when it is first scheduled
        while True:
            try:
                RunDirectory.open(tmp_path / "a").close()
                break
            except RunDirectoryError:
                assert time.monotonic() < deadline, "the forked child keeps the lock"
                time.sleep(0.01)
    finally:
        os.kill(child, 9)
        run.kill()
        run.stdout.close()


def test_unusable_directory_names_key_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"run\.directory"):
        RunDirectory.create(tmp_path / "file", "a", CONFIG)
    with pytest.raises(RunDirectoryError, match=r"run\.directory"):
        RunDirectory.create(tmp_path / "file" / "deeper", None, CONFIG)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # tests may run as root, which ignores permission bits
    with pytest.raises(RunDirectoryError, match=r"not writable: set run\.directory"):
        RunDirectory.create(tmp_path / "new", "a", CONFIG)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, "a", CONFIG) as directory:
        (directory.path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(RunDirectoryError, match=r"full: free space.*run\.directory"):
            directory.append_metrics(row(1))
    RunDirectory.open(directory.path).close()  # it closed without another error, and gave the lock back


def test_an_error_is_not_hidden_because_the_directory_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a rank cannot write"), disk.full_disk_named(tmp_path / "deleted"):
        raise ValueError("a rank cannot write")


@pytest.mark.parametrize(
    "row", ["null", "[1]", '{"train/step": null}', '{"train/step": "NaN"}', '{"reward/mean": [1]}']
)
def test_rows_that_are_damaged_are_passed_over(tmp_path: Path, row: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{row}\n{{"train/step": 1, "reward/mean": "NaN"}}\n')
    (found,) = read_metrics(tmp_path)
    assert found["train/step"] == 1 and np.isnan(found["reward/mean"])
