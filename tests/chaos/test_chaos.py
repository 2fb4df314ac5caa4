"""Eight blows against one run, of every kind of process: nothing is lost, nothing is trained twice, and the weights are
bit by bit those of a run that nobody disturbed. The long version is ``python -m tests.chaos.campaign``."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from cluster.checkpoints import Checkpoints
from tests.chaos.blows import ours
from tests.chaos.campaign import SMALL, Campaign
from tests.chaos.schedule import Strike
from tests.cluster.running import REPOSITORY, bonrl, command, environment, run_directory

pytestmark = pytest.mark.slow

STEPS = 50
BLOWS = [
    Strike("engine core", "kill"),
    Strike("verifier", "stop"),
    Strike("learner", "kill"),
    Strike("replay queue", "kill"),
    Strike("learner", "pause"),
    Strike("sampler", "kill"),
    Strike("driver", "kill"),
    Strike("verifier", "kill"),
]


def test_a_run_under_fire_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path):
    quiet = bonrl("train", *SMALL, f"run.steps={STEPS}", f"run.directory={tmp_path / 'quiet'}")
    assert quiet.returncode == 0, quiet.stdout + quiet.stderr
    (tmp_path / "fire").mkdir()
    campaign = Campaign(tmp_path / "fire", [*SMALL, f"run.steps={STEPS}", "queue.staleness=0"], seed=0)
    report = campaign.execute(BLOWS)
    assert not report.problems, report.problems
    assert len(report.blows) == len(BLOWS)
    for blow in report.blows:
        assert blow.detected_s is None or blow.detected_s < 12, blow  # 10 s, and a busy machine
    assert report.staleness == (0, 0)
    assert report.weights == re.search(r"^weights +([0-9a-f]{64})$", quiet.stdout, re.MULTILINE).group(1)


def test_a_run_without_restarts_left_ends_with_a_report(tmp_path: Path):
    def kill(root: psutil.Process) -> None:
        victim = next(p for p in root.children(recursive=True) if "ray::VerifierWorker" in " ".join(p.cmdline()))
        victim.kill()

    status, output = end_a_run_by(kill, tmp_path, "supervision.max_restarts=0")
    assert status == 1, output
    assert "verifier-0 was lost" in output and "supervision.max_restarts is 0" in output, output
    assert "continue with: bonrl train --resume" in output, output


def test_a_terminated_run_saves_and_says_how_to_go_on(tmp_path: Path):
    """What Ray's job stop and a pre-empted node send; Ctrl-C takes the same way (test_job_parts.py)."""
    status, output = end_a_run_by(lambda root: root.send_signal(signal.SIGTERM), tmp_path, "checkpoint.every=3")
    assert status == 130, output
    left = int(re.search(r"left after step (\d+)", output).group(1))
    assert "continue with: bonrl train --resume" in output, output
    assert Checkpoints(run_directory(tmp_path) / "checkpoints").latest().checkpoint.step == left


def end_a_run_by(blow, directory: Path, *overrides: str) -> tuple[int, str]:
    """Start a run, wait for its first checkpoint, strike; exit status and output.

    It ends within half a minute and without a traceback, its checkpoint can be loaded, no process is left.
    """
    arguments = ["train", *SMALL, "run.steps=100000", "checkpoint.every=1", f"run.directory={directory}", *overrides]
    log = directory.parent / f"{directory.name}.log"
    with log.open("w") as sink:
        run = subprocess.Popen(
            command(*arguments), cwd=REPOSITORY, env=environment(), stdout=sink, stderr=subprocess.STDOUT
        )
        try:
            end = time.monotonic() + 240
            while not list(directory.glob("*/checkpoints/step-*")):
                assert run.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            root = psutil.Process(run.pid)
            everyone = ours(root.children(recursive=True))
            blow(root)
            struck = time.monotonic()
            status = run.wait(timeout=60)
            took = time.monotonic() - struck
        finally:
            run.kill()
            run.wait(timeout=10)
    output = log.read_text()
    assert took < 35, f"{took:.0f} s to leave; 30 s, and a busy machine"
    assert "Traceback" not in output, output
    assert Checkpoints(run_directory(directory) / "checkpoints").latest().checkpoint is not None
    _, alive = psutil.wait_procs(everyone, timeout=20)
    assert not alive, f"left behind: {alive}"
    return status, output
