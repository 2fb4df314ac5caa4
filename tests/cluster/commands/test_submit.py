"""`bonrl submit` against a real `ray start --head` on this machine, with Ray's token authentication."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.errors import UsageError
from cluster.jobs.server import check_address
from cluster.records.software import git_state

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[3]


def test_nothing_listening_is_refused_quickly() -> None:
    started = time.monotonic()
    with pytest.raises(UsageError, match="no cluster answers"):
        check_address("http://127.0.0.1:1")
    with pytest.raises(UsageError, match="no user name or password") as error:
        check_address("http://me:s3cret@127.0.0.1:99999")
    assert "s3cret" not in str(error.value)
    with pytest.raises(UsageError, match="no cluster answers"):
        check_address("no-such-host.invalid:8265")
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("address", ["ray://head:10001", "http://", "http://head:99999"])
def test_odd_addresses_are_refused(address: str) -> None:
    with pytest.raises(UsageError, match="--address"):
        check_address(address)


@pytest.mark.slow
def test_something_else_at_the_address_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that takes the connection and says nothing must not hang the command."""
    monkeypatch.setattr("cluster.jobs.server.CONNECT_SECONDS", 1.0)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(UsageError, match="not a Ray job server"):
            check_address(f"http://127.0.0.1:{mute.getsockname()[1]}")


@dataclass(frozen=True)
class Head:
    """A running head node."""

    url: str
    environment: dict[str, str]
    directory: Path

    def submit(self, *arguments: str, directory: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
        preset = ROOT / "cluster" / "presets" / "local.yaml"
        return subprocess.Popen(
            [BIN / "bonrl", "submit", "--config", preset, "--address", self.url, *arguments],
            env={**self.environment, **environment},
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def command(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [BIN / program, *arguments], env=self.environment, capture_output=True, text=True, timeout=180
        )
        return done.stdout + done.stderr

    def job(self, *arguments: str, directory: Path = ROOT, **environment: str) -> tuple[int, str]:
        process = self.submit(*arguments, directory=directory, **environment)
        try:
            output, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired as error:
            logs = {log.name: log.read_text()[-2000:] for log in self.directory.glob("session_*/logs/job-driver*")}
            pytest.fail(f"{error.output!r}\n{logs}\n{self.command('ray', 'job', 'list', '--address', self.url)}")
        finally:
            process.kill()
        return process.returncode, output


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head node with its own ports, directory and token. Other clusters on this machine are left alone."""
    scratch = tmp_path_factory.mktemp("ray")
    token = scratch / "token"
    token.write_text("0123456789abcdef" * 4)
    gcs, dashboard, agent, client = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    # Unix socket paths are short: Ray's directory cannot lie deep below pytest's.
    temporary = Path(tempfile.mkdtemp(prefix="bonrl-"))
    process = subprocess.Popen(
        [
            BIN / "ray",
            "start",
            "--head",
            "--block",
            f"--port={gcs}",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}",
            "--num-cpus=2",
            "--include-dashboard=true",
            "--object-store-memory=80000000",
            f"--temp-dir={temporary}",
            "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1",
        ],
        env=environment,
        start_new_session=True,
        stdout=(scratch / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for(dashboard, process, scratch / "log")
        yield Head(f"http://127.0.0.1:{dashboard}", environment, temporary)
    finally:
        end(process)
        shutil.rmtree(temporary, ignore_errors=True)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ray start ended: {log.read_text()[-2000:]}"
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the dashboard did not come up: {log.read_text()[-2000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """`ray start --block` ends its children on SIGTERM; what is left of its session is killed."""
    import psutil

    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=10)
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=10)


@pytest.mark.slow
def test_dry_run_job_streams_its_log_and_succeeds(head: Head) -> None:
    status, output = head.job("--dry-run", "objective.k=4")
    assert status == 0, output
    assert "packaged" in output and "succeeded" in output
    assert "groups in flight (slots)" in output  # printed by the job, on the cluster
    assert "k: 4" in output and "address: auto" in output


ENVIRONMENT_CODE = """
import actors, os, ray
from importlib.metadata import distribution
from cluster.records.software import git_state
print(distribution("bonrl").locate_file("").resolve(), "commit", git_state()["commit"], os.environ["MINE"])
ray.init()
read = ray.remote(lambda: (os.environ["WANDB_API_KEY"][:7], os.environ["MINE"], os.environ["PYTHONUTF8"]))
print(ray.get([read.remote(), read.options(runtime_env={"env_vars": {"MINE": "its own"}}).remote()], timeout=60))
"""


@pytest.mark.slow
def test_variables_reach_the_job_and_its_actors_and_nothing_else(head: Head, tmp_path: Path) -> None:
    """Neither the job's log, Ray's list of jobs nor a log file of the node holds a value."""
    (tmp_path / "my_job.py").write_text(ENVIRONMENT_CODE)
    secret = "secret-not-to-be-printed"
    status, output = head.job(
        "--entrypoint",
        'python my_job.py && test -n "$WANDB_API_KEY" && echo the key for $WANDB_BASE_URL arrived',
        *("--env", "MINE=a value", "--env", "PYTHONUTF8=1", "model.path=/m"),
        directory=tmp_path,
        WANDB_API_KEY=secret,
        WANDB_BASE_URL="http://wandb.invalid",
    )
    assert status == 0, output
    assert "working_dir_files" in output, "the job read the metadata of an installed bonrl, not of its package"
    assert f"commit {git_state()['commit']} a value" in output
    assert "[('secret-', 'a value', '1'), ('secret-', 'its own', '1')]" in output
    assert "the key for http://wandb.invalid arrived" in output and secret not in output
    listed = head.command("ray", "job", "list", "--address", head.url)
    assert "RAY_JOB_STOP_WAIT_TIME_S" in listed and secret not in listed
    found = [file for file in head.directory.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]
    assert [file.name for file in found] == ["job-environment.json"], found
    assert stat.S_IMODE(found[0].stat().st_mode) == 0o600


@pytest.mark.slow
def test_exit_status_of_the_job_is_returned(head: Head) -> None:
    status, output = head.job("--entrypoint", "echo started; exit 3")
    assert status == 3
    assert "started" in output and "failed with exit status 3" in output
    assert "job-driver-bonrl-" in output


@pytest.mark.slow
def test_refusal_on_the_cluster_comes_back_as_status_2(head: Head) -> None:
    status, output = head.job("run.directory=/proc/no", "model.path=/no/such/model")
    assert status == 2
    assert "model.path = /no/such/model" in output


@pytest.mark.slow
def test_missing_token_is_explained(head: Head, tmp_path: Path) -> None:
    status, output = head.job("--dry-run", RAY_AUTH_MODE="disabled", HOME=str(tmp_path))
    assert status == 2
    assert "ray get-auth-token" in output and "RAY_AUTH_MODE=token" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_job_is_listed_followed_and_stopped_with_time_to_save(head: Head) -> None:
    """Ray's own limit for a stopped job is 3 s, too short for a checkpoint."""
    saving = "trap 'sleep 5; echo saved; exit 0' TERM; echo ticking; while true; do sleep 0.2; done"
    process = head.submit("--entrypoint", saving)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "ticking" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=180)
    output = "".join(lines) + rest
    assert process.returncode == 130, output
    job = next(line.split()[1] for line in lines if line.startswith("job "))
    assert "continues" in output and "Traceback" not in output
    for command in (f"bonrl jobs logs {job} --follow", "bonrl jobs", f"bonrl jobs stop {job}"):
        assert f"{command} --address {head.url}" in output
    assert re.search(rf"^{job} +RUNNING ", head.command("bonrl", "jobs", "--address", head.url), re.MULTILINE)
    assert "STOPPED" in head.command("bonrl", "jobs", "-a", head.url, "stop", job)
    assert {"ticking", "saved"} <= set(head.command("bonrl", "jobs", "logs", job, "-a", head.url).splitlines())
    assert "the cluster has no such job" in head.command("bonrl", "jobs", "stop", "none", "-a", head.url)
