"""A process is known by number and start: the kernel gives the numbers of dead processes again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from actors.process_stats import LOG_LINES, GpuUse, NodeMonitor, Process


@pytest.fixture
def parent() -> Iterator[subprocess.Popen]:
    """A process with one child, both asleep."""
    code = "import subprocess, sys; subprocess.Popen(['sleep', '60']); print(flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdin is not None
    child.stdout.readline()
    family = psutil.Process(child.pid).children()
    yield child
    for process in (*family, child):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    child.wait(timeout=10)
    child.stdin.close()
    child.stdout.close()


def test_a_stopped_process_is_seen_and_so_is_its_child(parent):
    monitor, process = NodeMonitor(), Process.of(parent.pid)
    assert [stats.stopped for stats in asyncio.run(monitor.inspect([process])).values()] == [False]
    (child,) = psutil.Process(parent.pid).children()
    os.kill(child.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10
    while child.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
        time.sleep(0.01)  # a signal takes effect when its process is scheduled
    family = asyncio.run(monitor.inspect([process], family=True))
    assert {pid: stats.stopped for pid, stats in family.items()} == {parent.pid: False, child.pid: True}


@pytest.mark.slow
def test_killing_takes_the_children_too(parent):
    held = psutil.Process(parent.pid)
    (child,) = held.children()
    os.kill(parent.pid, signal.SIGSTOP)
    asyncio.run(NodeMonitor().kill([Process.of(parent.pid)]))
    ended = [not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in (held, child)]
    assert ended == [True, True], "their memory is not free when `kill` returns"
    assert parent.wait(timeout=10) == -signal.SIGKILL


def test_memory_counts_descendants_and_the_monitor_itself_and_every_process_once(parent):
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]  # `parent` and its child are in it
    separately = sum(process.memory_full_info().pss for process in family) / 2**30
    listed_twice = [Process.of(parent.pid), Process.of(parent.pid), Process.of(os.getpid())]
    assert asyncio.run(NodeMonitor().memory_gib(listed_twice)) == pytest.approx(separately, rel=0.05)


def test_a_process_that_only_has_the_number_of_a_dead_one_is_left_alone(parent):
    stranger = dataclasses.replace(Process.of(parent.pid), create_time=1)
    assert not stranger.alive
    assert asyncio.run(NodeMonitor().inspect([stranger], family=True)) == {}
    asyncio.run(NodeMonitor().kill([stranger]))
    assert parent.poll() is None


def test_the_end_of_a_log_is_read_and_a_missing_one_is_no_error(tmp_path):
    log = tmp_path / "worker.err"
    log.write_text(
        ":actor_name:SamplerActor\n" + "\n\n".join(f"line {i}" for i in range(5000)) + "\n" + "x" * 1000 + "\n"
    )
    tails = asyncio.run(NodeMonitor().tail([str(log), str(tmp_path / "gone")]))
    assert tails[str(tmp_path / "gone")] == []
    assert tails[str(log)][:2] == [f"line {i}" for i in range(5001 - LOG_LINES, 5003 - LOG_LINES)]
    assert len(tails[str(log)]) == LOG_LINES and len(tails[str(log)][-1]) < 400, "a long line is cut"


def test_gpus_are_read_by_index_or_uuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another program leaves a GPU out of CUDA_VISIBLE_DEVICES; a field that the driver does not know."""
    program = tmp_path / "nvidia-smi"
    rows = ["0, GPU-a, 1024, 50", "1, GPU-b, 2048, 100", "2, GPU-c, 512, [N/A]", "3, GPU-d, 512, 7"]
    program.write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(f"'{row}'" for row in rows) + "\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = asyncio.run(NodeMonitor().gpu_use(["0", "GPU-b", "2"]))
    assert found == [GpuUse(1.0, 0.5), GpuUse(2.0, 1.0)]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert asyncio.run(NodeMonitor().gpu_use(["0"])) == []
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert asyncio.run(NodeMonitor().gpu_use(["0"])) == []
