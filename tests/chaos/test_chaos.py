"""Eight faults in one run, in every kind of process: nothing is lost, nothing is trained twice, and the weights are
bit by bit those of an undisturbed run. Three faults come while the run recovers from an earlier one. The long version:
``python -m tests.chaos.campaign``."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from cluster.records.checkpoints import Checkpoints
from tests.chaos.campaign import SMALL, Campaign
from tests.chaos.faults import without_ray_agents
from tests.chaos.schedule import Fault
from tests.cluster.running import REPOSITORY, bonrl, command, environment, run_directory

pytestmark = [pytest.mark.slow, pytest.mark.alone]

STEPS = 40
FAULTS = [
    Fault("engine core", "kill", then=("verifier", "kill")),
    Fault("verifier", "stop"),
    Fault("learner", "pause"),
    Fault("sampler", "kill", then=("learner", "kill")),
    Fault("driver", "kill", then=("replay queue", "kill")),
]


def test_a_run_with_faults_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path):
    """The undisturbed run is also evaluated, and its weights travel another way: neither may change them."""
    evaluated = ["evaluation.at_start=true", "evaluation.prompts=4", "evaluation.n=4", "broadcast.backend=nccl"]
    undisturbed = bonrl("train", *SMALL, f"run.steps={STEPS}", *evaluated, f"run.directory={tmp_path / 'undisturbed'}")
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    (tmp_path / "faults").mkdir()
    campaign = Campaign(tmp_path / "faults", [*SMALL, f"run.steps={STEPS}", "queue.staleness=0"], seed=0)
    report = campaign.execute(FAULTS)
    assert not report.problems, report.problems
    assert len(report.recoveries) == sum(fault.count for fault in FAULTS) == 8
    for recovery in report.recoveries:
        assert recovery.detected_s is None or recovery.detected_s < 12, recovery  # 10 s, and a busy machine
    assert report.staleness == (0, 0)
    assert report.weights == re.search(r"^weights +([0-9a-f]{64})$", undisturbed.stdout, re.MULTILINE).group(1)


def test_a_run_without_restarts_left_ends_with_a_report(tmp_path: Path):
    """Within half a minute and without a traceback; its checkpoint can be loaded, and no process is left."""
    limits = ["run.steps=100000", "checkpoint.every=1", "supervision.max_restarts=0"]
    log = tmp_path / "output.log"
    with log.open("w") as sink:
        run = subprocess.Popen(
            command("train", *SMALL, *limits, f"run.directory={tmp_path / 'runs'}"),
            cwd=REPOSITORY,
            env=environment(),
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            end = time.monotonic() + 240
            while not list(tmp_path.glob("runs/*/checkpoints/step-*")):
                assert run.poll() is None and time.monotonic() < end, log.read_text()
                time.sleep(0.2)
            everyone = without_ray_agents(psutil.Process(run.pid).children(recursive=True))
            next(p for p in everyone if "ray::VerifierWorker" in " ".join(p.cmdline())).kill()
            killed = time.monotonic()
            status = run.wait(timeout=60)
            took = time.monotonic() - killed
        finally:
            run.kill()
            run.wait(timeout=10)
    output = log.read_text()
    assert status == 1, output
    assert took < 35, f"{took:.0f} s to leave; 30 s, and a busy machine"
    assert "verifier-0 was lost" in output and "supervision.max_restarts is 0" in output, output
    assert "continue with: bonrl train --resume" in output and "Traceback" not in output, output
    assert Checkpoints(run_directory(tmp_path / "runs") / "checkpoints").latest().checkpoint is not None
    _, alive = psutil.wait_procs(everyone, timeout=20)
    assert not alive, f"left behind: {alive}"
