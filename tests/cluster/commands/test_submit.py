"""`bonrl submit` against a real `ray start --head` on this machine, with Ray's token authentication."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.commands import submission
from cluster.commands.job_command import Job, environment, make_job
from cluster.commands.submission import check_address, submit_job
from cluster.errors import UsageError
from cluster.records.software import git_state

BIN = Path(sys.executable).parent


def test_nothing_listening_is_refused_quickly() -> None:
    started = time.monotonic()
    with pytest.raises(UsageError, match="no cluster answers"):
        check_address("http://127.0.0.1:1")
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
    monkeypatch.setattr("cluster.commands.submission.CONNECT_SECONDS", 1.0)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(UsageError, match="no Ray job server"):
            check_address(f"http://127.0.0.1:{mute.getsockname()[1]}")


LOCAL = Path("cluster/presets/local.yaml")


@pytest.fixture
def checkout(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(repository)
    return repository


def test_relative_run_directory_would_be_lost(checkout: Path) -> None:
    with pytest.raises(UsageError, match=r"run\.directory"):
        make_job(None, LOCAL, [])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "python -m cluster.cli train --config job.yaml"),
        ({"dry_run": True}, "python -m cluster.cli train --config job.yaml --dry-run"),
        (
            {"resume": Path("/shared/runs/a")},
            "python -m cluster.cli train --resume /shared/runs/a run.directory=/r cluster.address=auto",
        ),
        (
            {"replay": Path("/shared/runs/a")},
            "python -m cluster.cli train --replay /shared/runs/a run.directory=/r cluster.address=auto",
        ),
        (
            {"command": "eval --checkpoint /shared/runs/a --n 64"},
            "python -m cluster.cli eval --checkpoint /shared/runs/a --n 64 run.directory=/r cluster.address=auto",
        ),
        (
            {"command": "sft --output /shared/m --objective bon_sft"},
            "python -m cluster.cli sft --output /shared/m --objective bon_sft --config job.yaml",
        ),
        ({"entrypoint": "echo started; exit 3"}, "echo started; exit 3"),
    ],
)
def test_command_of_the_job(checkout: Path, options: dict[str, Any], expected: str) -> None:
    assert make_job(None, LOCAL, ["run.directory=/r"], **options).command == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": Path("runs/a")}, "--resume = runs/a"),
        ({"replay": Path("runs/none-such")}, "--replay runs/none-such"),
        ({"command": "sft --output mine"}, "sft: --output = mine"),
        ({"command": "eval --checkpoint /r --output=mine"}, "eval: --output = mine"),
        ({"command": "grade --input x"}, "begin with eval, sft"),
        ({"command": "eval 'x"}, "close its quotes"),
        ({"resume": Path("/r"), "replay": Path("/r")}, "--resume and --replay"),
    ],
)
def test_results_that_would_be_lost_are_refused(checkout: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_job(None, LOCAL, ["run.directory=/r"], **options)
    with pytest.raises(UsageError, match="leave --config out"):
        make_job(LOCAL, LOCAL, [], resume=Path("/r"))


def test_variables_of_the_job() -> None:
    here = {"WANDB_API_KEY": "secret", "HF_TOKEN": "", "HOME": "/home/x", "OTHER": "1"}
    assert environment([], here) == {"WANDB_API_KEY": "secret"}
    found = environment(["OTHER", "NEW=a=b", "WANDB_API_KEY=mine"], here)
    assert found == {"WANDB_API_KEY": "mine", "OTHER": "1", "NEW": "a=b"}
    with pytest.raises(UsageError, match="--env MISSING: it is not set here"):
        environment(["MISSING"], here)
    with pytest.raises(UsageError) as error:
        environment(["-bad=secret"], here)
    assert "secret" not in str(error.value)


class FakeClient:
    """Ray's job client at the edge of the process: notes what is submitted, with the files of its package."""

    def __init__(self, status: str = "SUCCEEDED", failure: Exception | None = None) -> None:
        self.status, self.failure = status, failure
        self.files: dict[str, str] = {}

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any]) -> str:
        self.entrypoint, self.variables = entrypoint, runtime_env["env_vars"]
        if self.failure:
            raise self.failure
        root = Path(runtime_env["working_dir"])
        self.files = {str(f.relative_to(root)): str(f.stat().st_size) for f in root.rglob("*") if f.is_file()}
        self.git = json.loads((root / "git.json").read_text())
        self.text = b"".join(f.read_bytes() for f in root.rglob("*") if f.is_file())
        return submission_id

    def get_job_info(self, job: str) -> Any:
        from ray.job_submission import JobStatus

        return SimpleNamespace(status=JobStatus(self.status), driver_exit_code=3, message="failed")

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "log of the job\n"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    monkeypatch.setattr(submission, "_client", lambda url: client)
    monkeypatch.setattr(submission, "check_address", lambda address: address)
    return client


def send(job: Job, variables: dict[str, str] | None = None) -> tuple[int, str]:
    lines: list[str] = []
    status = submit_job(
        job, address="http://head:8265", variables=variables or {}, echo=lambda text, **_: lines.append(text)
    )
    return status, "\n".join(lines)


def test_everything_that_the_job_reads_travels(
    checkout: Path, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("data/train.jsonl", "data/test.jsonl", "scorer/config.json", "model/config.json", "my.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "data/.gitignore").write_text("*")  # Ray would leave out what it names
    monkeypatch.chdir(tmp_path)
    keys = ["task.jsonl.train=data/train.jsonl", "task.jsonl.test=data/test.jsonl", "task.name=jsonl"]
    keys += ["task.scorer.path=scorer", "task.jsonl.validation=hf://datasets/a/b/c.jsonl", "model.path=model"]
    job = make_job(None, checkout / LOCAL, ["run.directory=/r", *keys], entrypoint="python my.py --n 3")
    status, output = send(job, {"WANDB_API_KEY": "the-secret"})
    assert status == 0 and "log of the job" in output
    wanted = {"data/train.jsonl", "data/test.jsonl", "scorer/config.json", "model/config.json", "my.py", "job.yaml"}
    assert wanted <= set(client.files) and "data/.gitignore" not in client.files
    assert client.entrypoint == "python my.py --n 3"
    assert client.variables == {"WANDB_API_KEY": "the-secret"}
    assert "WANDB_API_KEY" in output and "the-secret" not in output and b"the-secret" not in client.text
    assert client.git["commit"] == git_state()["commit"]


@pytest.mark.parametrize("key", ["task.path", "task.scorer.path", "task.jsonl.train", "task.jsonl.test", "model.path"])
def test_paths_that_cannot_travel_are_refused(checkout: Path, client: FakeClient, key: str) -> None:
    job = make_job(None, LOCAL, ["run.directory=/r", f"{key}=none-such"])
    with pytest.raises(UsageError, match=re.escape(f"{key} = none-such")):
        send(job)


def test_a_script_that_is_not_here_is_refused(checkout: Path, client: FakeClient) -> None:
    with pytest.raises(UsageError, match=r"--entrypoint: my\.py"):
        send(make_job(None, LOCAL, ["run.directory=/r"], entrypoint="python my.py"))
    assert send(make_job(None, LOCAL, [], entrypoint="python -c 'import cluster.cli; print(1)'"))[0] == 0
    assert send(make_job(None, LOCAL, [], entrypoint="cat job.yaml cluster/presets/local.yaml; ls /tmp"))[0] == 0


def test_groups_of_a_replayed_run_travel(
    checkout: Path, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "a"
    (run / "groups").mkdir(parents=True)
    (run / "checkpoints").mkdir()
    for name in ("config.yaml", "groups/step-000001.parquet", "checkpoints/large"):
        (run / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert send(make_job(None, LOCAL, ["run.directory=/r", "model.path=/m"], replay=Path("runs/a")))[0] == 0
    assert {"runs/a/config.yaml", "runs/a/groups/step-000001.parquet"} <= set(client.files)
    assert "runs/a/checkpoints/large" not in client.files
    with pytest.raises(UsageError, match=r"run\.directory"):
        make_job(None, LOCAL, [], replay=Path("runs/a"))


def test_a_refused_upload_names_the_limit(checkout: Path, client: FakeClient) -> None:
    client.failure = RuntimeError("Request failed with status code 413: Maximum request body size exceeded")
    with pytest.raises(UsageError, match="at most 100 MiB"):
        send(make_job(None, LOCAL, ["run.directory=/r"]))


def test_a_failed_job_says_where_its_logs_are(checkout: Path, client: FakeClient) -> None:
    client.status = "FAILED"
    status, output = send(make_job(None, LOCAL, ["run.directory=/r"]))
    assert status == 3
    assert "ray job logs --address http://head:8265 bonrl-" in output
    assert "/tmp/ray/session_latest/logs/job-driver-bonrl-" in output and "worker-*.err" in output


@dataclass(frozen=True)
class Head:
    """A running head node."""

    url: str
    environment: dict[str, str]
    repository: Path

    def submit(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "bonrl", "submit", "--config", "cluster/presets/local.yaml", "--address", self.url, *arguments],
            env={**self.environment, **environment},
            cwd=self.repository,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def job(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.submit(*arguments, **environment)
        try:
            output, _ = process.communicate(timeout=180)
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
        yield Head(f"http://127.0.0.1:{dashboard}", environment, Path(__file__).resolve().parents[3])
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


@pytest.mark.slow
def test_job_finds_the_packaged_plugin(head: Head) -> None:
    code = (
        "import actors, os; from importlib.metadata import distribution; "
        "from cluster.records.software import git_state; "
        "print(distribution('bonrl').locate_file('').resolve(), 'commit', git_state()['commit'], os.environ['MINE'])"
    )
    secret = "not-to-be-printed"
    status, output = head.job(
        "--entrypoint",
        f'python -c "{code}" && test -n "$WANDB_API_KEY" && echo the key for $WANDB_BASE_URL arrived',
        "--env",
        "MINE=a value",
        WANDB_API_KEY=secret,
        WANDB_BASE_URL="http://wandb.invalid",
    )
    assert status == 0, output
    assert "working_dir_files" in output, "the job read the metadata of an installed bonrl, not of its package"
    assert f"commit {git_state()['commit']} a value" in output
    assert "the key for http://wandb.invalid arrived" in output and secret not in output


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
def test_interrupt_says_what_happens_to_the_job(head: Head) -> None:
    process = head.submit("--entrypoint", "echo ticking; sleep 20; echo over")
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "ticking" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    output = "".join(lines) + rest
    assert process.returncode == 130, output
    job = next(line.split()[1] for line in lines if line.startswith("job "))
    for verb in ("logs", "status", "stop"):
        assert f"ray job {verb} --address {head.url}" in output
    assert "goes on" in output and "Traceback" not in output
    status = subprocess.run(
        [BIN / "ray", "job", "status", "--address", head.url, job],
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "RUNNING" in status.stdout + status.stderr
