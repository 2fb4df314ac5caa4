"""The sbatch script: bash reads it; with SLURM's programs replaced it starts the steps and keeps the run's status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.launch.layout import make_layout
from cluster.launch.render import Platform, render
from tests.cluster.launch.clusters import SIZES, configuration


def script(*overrides: str) -> str:
    return render(make_layout(configuration(*overrides), SIZES), Platform.SLURM)["job.sbatch"]


OVERRIDES = [
    (),
    ("cluster.head=gpu", "cluster.slurm={gpu_option: gres, account: lab, qos: high, directives: ['--exclusive']}"),
    ('cluster.environment={GLOO_SOCKET_IFNAME: ib0, NOTE: "it\'s $HOME"}', 'wandb.project="It\'s $(rm) `x`\\nEND"'),
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=["heterogeneous", "one component", "quotes"])
def test_bash_reads_the_script(overrides: tuple[str, ...]) -> None:
    subprocess.run(["bash", "-n"], input=script(*overrides), text=True, check=True, timeout=20)


def test_node_types_become_components_with_their_resources() -> None:
    head, gpu, cpu = (part.splitlines() for part in script().split("#SBATCH hetjob\n"))
    options = [line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH")]
    assert options[:2] == ["--job-name=tuner", "--time=24:00:00"] and "--signal=B:TERM@120" in options
    assert options[-4:] == ["--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=16", "--mem=61440M"]
    assert [line.removeprefix("#SBATCH ") for line in gpu] == [
        "--partition=h100", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=192", "--mem=1843200M",
        "--gpus-per-node=8",
    ]  # fmt: skip
    assert "#SBATCH --nodes=2" in cpu and not any("gpus" in line for line in cpu if line.startswith("#SBATCH"))
    one = script(*OVERRIDES[1])
    assert "#SBATCH --gres=gpu:8" in one and "#SBATCH --exclusive" in one and "#SBATCH --account=lab" in one


FAKES = {
    "srun": 'echo "srun $*" >> "$LOG"; exec sleep 60',
    "ray": "exit 1",
    "python": 'echo "waits for $4 nodes as $RAY_AUTH_MODE with ${#RAY_AUTH_TOKEN} characters" >> "$LOG"',
    "bonrl": 'echo "bonrl $*" >> "$LOG"; cp "$3" "$LOG.yaml" 2> /dev/null; trap "echo stopped >> $LOG; exit 130" TERM; '
    "for _ in $(seq $SECONDS_TO_RUN); do sleep 0.1; done; exit 7",
    "seq": 'for i in $(/usr/bin/seq "$@"); do echo $i; done',
    "sleep": 'exec /usr/bin/sleep "$@"',
    "hostname": "echo 127.0.0.1",
}


def start(
    tmp_path: Path, seconds: int, *overrides: str, arguments: tuple[str, ...] = ()
) -> tuple[subprocess.Popen[str], Path]:
    """The script with SLURM's programs, Ray and bonrl replaced; a listener plays Ray's head."""
    bin_, log = tmp_path / "bin", tmp_path / "log"
    bin_.mkdir()
    for name, text in FAKES.items():
        (bin_ / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin_ / name).chmod(0o755)
    file = tmp_path / "job.sbatch"
    file.write_text(script(*overrides).replace("seq 60", "seq 2").replace("sleep 1; done", "sleep 0.01; done"))
    variables = {
        "PATH": f"{bin_}:/usr/bin:/bin", "LOG": str(log), "SLURM_JOB_ID": "42", "SLURMD_NODENAME": "n1",
        "TMPDIR": str(tmp_path), "SECONDS_TO_RUN": str(seconds),
    }  # fmt: skip
    job = subprocess.Popen(
        ["bash", str(file), *arguments], env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return job, log


def test_status_of_the_run_is_that_of_the_job_and_every_step_is_started(tmp_path: Path) -> None:
    job, log = start(tmp_path, 1)
    output, _ = job.communicate(timeout=60)
    lines = log.read_text().splitlines()
    assert job.returncode == 7, output
    head, gpu, cpu = sorted(line for line in lines if line.startswith("srun"))
    assert "--het-group=0 --nodes=1" in head and "ray start --head --block" in head and "--num-cpus=0" in head
    assert "--het-group=1 --nodes=2" in gpu and "--num-gpus=8" in gpu and "bonrl-sampler" in gpu
    assert "--het-group=2 --nodes=2" in cpu and "--num-gpus=0" in cpu and "--address=127.0.0.1:6421" in cpu
    assert "waits for 5 nodes as token with 64 characters" in lines
    (run,) = (line for line in lines if line.startswith("bonrl"))
    assert run.startswith("bonrl train --config ") and run.endswith(" cluster.address=127.0.0.1:6421")
    sent = Path(f"{log}.yaml").read_text()
    assert "name: tuner" in sent and not list(tmp_path.glob("bonrl-42-*")), "the scratch directory is removed"


@pytest.mark.parametrize("arguments", [("--resume", "runs/a", "run.steps=9"), ("--replay=runs/a",)])
def test_a_run_is_continued_on_a_new_cluster_with_its_own_configuration(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    job, log = start(tmp_path, 1, arguments=arguments)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 7, output
    (run,) = (line for line in log.read_text().splitlines() if line.startswith("bonrl"))
    assert run == " ".join(["bonrl train", *arguments, "cluster.address=127.0.0.1:6421"])


def test_a_requeued_job_keeps_its_configuration(tmp_path: Path) -> None:
    job, log = start(tmp_path, 1, arguments=("--resume-or-start", "run.name=mine"))
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 7, output
    (run,) = (line for line in log.read_text().splitlines() if line.startswith("bonrl"))
    assert run.startswith("bonrl train --config ") and "run.yaml --resume-or-start run.name=mine cluster" in run


def test_sigterm_of_slurm_reaches_the_run_which_ends_the_job(tmp_path: Path) -> None:
    job, log = start(tmp_path, 600)
    end = time.monotonic() + 60
    while not (log.is_file() and "bonrl train" in log.read_text()):
        assert job.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.2)  # until the trap is set
    os.kill(job.pid, signal.SIGTERM)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 130, output
    assert "stopped" in log.read_text()


def test_nodes_that_do_not_join_end_the_job_with_the_reason(tmp_path: Path) -> None:
    """The program that waits for the nodes, with Ray replaced."""
    (tmp_path / "ray.py").write_text(
        "def init(*a, **k): ...\ndef nodes(): return [{'Alive': True}, {'Alive': False}]\n"
    )
    lines = script()
    text = lines[lines.index("python -c '") + len("python -c '") :]
    program = text[: text.index("' \"$head_ip")].replace("'\"'\"'", "'")
    done = subprocess.run(
        [sys.executable, "-c", program, "127.0.0.1:1", "5", "0.2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1 and done.stderr == "bonrl: 1 of 5 nodes joined within 0.2 s (deadlines.start_s)\n"
