"""SIGKILL of any process of a run, and Ctrl-C: within a minute it ends with a message that names what died or how to
go on, nothing is left behind, and the last checkpoint can be loaded."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.checkpoints import Checkpoints
from tests.cluster.running import REPOSITORY, command, environment, run_directory

pytestmark = pytest.mark.slow

LIMIT_S = 60
VICTIMS = {
    "sampler": (r"ray::SamplerActor", r"sampler-0"),
    "engine core": (r"VLLM::EngineCore", r"sampler-0"),
    "verifier": (r"ray::VerifierWorker", r"verifier-0"),
    "replay queue": (r"ray::ReplayQueue", r"replay queue"),
    "learner": (r"ray::LearnerRank", r"learner rank 0"),
}


def find(root: psutil.Process, pattern: str) -> psutil.Process | None:
    for process in root.children(recursive=True):
        try:
            title = " ".join(process.cmdline()) + " " + process.name()
        except psutil.NoSuchProcess:
            continue
        if re.search(pattern, title):
            return process
    return None


@pytest.mark.parametrize("kind", VICTIMS)
def test_a_killed_process_ends_the_run_with_its_name(kind: str, tmp_path: Path):
    pattern, named = VICTIMS[kind]

    def kill(root: psutil.Process) -> None:
        victim = find(root, pattern)
        assert victim is not None, f"no process matches {pattern}"
        victim.send_signal(signal.SIGKILL)

    status, output = end_a_run_by(kill, tmp_path)
    assert status == 1, output
    assert re.search(named, output), output


def test_a_terminated_run_says_how_to_go_on(tmp_path: Path):
    """What Ray's job stop and a pre-empted node send; Ctrl-C takes the same way (test_job_parts.py)."""
    status, output = end_a_run_by(lambda root: root.send_signal(signal.SIGTERM), tmp_path)
    assert status == 130, output
    assert "interrupted" in output and "continue with: bonrl train --resume" in output, output


def end_a_run_by(blow: Callable[[psutil.Process], None], directory: Path) -> tuple[int, str]:
    """Start a run, wait for its first checkpoint, strike; exit status and output.

    Whatever struck: the run ends in time and without a traceback, its checkpoint can be loaded, no process is left.
    """
    arguments = [
        "train", "run.steps=100000", f"run.directory={directory}", "rollout.prompts_per_step=4", "rollout.n=8",
        "objective.k=4", "evaluation.at_start=false", "evaluation.every=0", "checkpoint.every=1",
    ]  # fmt: skip
    log = directory.parent / f"{directory.name}.log"
    with log.open("w") as sink:
        run = subprocess.Popen(
            command(*arguments), cwd=REPOSITORY, env=environment(), stdout=sink, stderr=subprocess.STDOUT
        )
        try:
            wait_for(lambda: list(directory.glob("*/checkpoints/step-*")), "the first checkpoint", run, log, 240)
            root = psutil.Process(run.pid)
            everyone = root.children(recursive=True)
            blow(root)
            struck = time.monotonic()
            status = run.wait(timeout=LIMIT_S)
        finally:
            run.kill()
            run.wait(timeout=10)
    output = log.read_text()
    assert time.monotonic() - struck < LIMIT_S
    assert "Traceback" not in output, output
    latest = Checkpoints(run_directory(directory) / "checkpoints").latest()
    assert latest.checkpoint is not None and str(run_directory(directory)) in output
    _, alive = psutil.wait_procs(everyone, timeout=20)
    assert not alive, f"left behind: {alive}"
    return status, output


def wait_for(condition, what: str, run: subprocess.Popen, log: Path, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert run.poll() is None, f"the run ended before {what}:\n{log.read_text()}"
        assert time.monotonic() < end, f"no sign of {what} within {limit_s} s:\n{log.read_text()}"
        time.sleep(0.2)
