"""What travels with a submitted job, at the edge of the process: Ray's job client is replaced."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config import RunConfig
from cluster.config.input_paths import input_paths, user_code
from cluster.errors import UsageError
from cluster.jobs import submission
from cluster.jobs.command import Job, make_job
from cluster.jobs.environment import NAME, plain
from cluster.jobs.submission import submit_job
from cluster.records.software import git_state

PRESETS = Path("cluster/presets")
LOCAL = PRESETS / "local.yaml"


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
        ({"resume_or_start": True}, "python -m cluster.cli train --config job.yaml --resume-or-start"),
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
        (
            {"command": "sft --output /shared/m --resume"},
            "python -m cluster.cli sft --output /shared/m --resume run.directory=/r",
        ),
        ({"entrypoint": "echo started; exit 3"}, "echo started; exit 3"),
    ],
)
def test_command_of_the_job(checkout: Path, options: dict[str, Any], expected: str) -> None:
    named = ["run.name=mine"] if "resume_or_start" in options else []
    assert make_job(None, LOCAL, ["run.directory=/r", *named], **options).command == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": Path("runs/a")}, "--resume = runs/a"),
        ({"replay": Path("runs/none-such")}, "--replay runs/none-such"),
        ({"command": "sft --output mine"}, "sft: --output = mine"),
        ({"command": "eval --checkpoint /r --output=mine"}, "eval: --output = mine"),
        ({"command": "grade --input x"}, "begin with eval, sft, train-verifier, report, samples, compare, logs"),
        ({"command": "eval 'x"}, "close its quotes"),
        ({"command": "sft --output /m --config mine.yaml"}, "--config is an option of submit itself"),
        ({"command": "sft --output /m", "dry_run": True}, "with --command the job would really run: leave one of them"),
        ({"entrypoint": "echo started", "dry_run": True}, "with --entrypoint the job would really run: leave one of"),
        ({"command": "sft --output /m task.path=data"}, "task.path=data is an option of submit itself"),
        ({"resume": Path("/r"), "replay": Path("/r")}, "--resume and --replay"),
        ({"resume": Path("/r"), "resume_or_start": True}, "--resume and --resume-or-start"),
        ({"resume_or_start": True}, r"set run\.name, the same at every start"),
    ],
)
def test_results_that_would_be_lost_are_refused(checkout: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_job(None, LOCAL, ["run.directory=/r"], **options)
    with pytest.raises(UsageError, match="leave --config out"):
        make_job([LOCAL], LOCAL, [], resume=Path("/r"))


def test_a_cluster_that_is_stated_to_be_too_small_is_refused_before_the_submission(checkout: Path) -> None:
    overrides = ["run.directory=/r", "cluster.num_cpus=1"]
    with pytest.raises(UsageError, match="the layout takes 3 CPUs .* but cluster.num_cpus = 1"):
        make_job(None, LOCAL, overrides)
    make_job(None, LOCAL, overrides, command="sft --output /shared/m")


class FakeClient:
    """Ray's job client at the edge of the process: notes what is submitted, with the files of its package."""

    def __init__(self, status: str = "SUCCEEDED", failure: Exception | None = None) -> None:
        self.status, self.failure = status, failure
        self.files: dict[str, str] = {}
        self.breaks = 0  # streams of the log that break

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], **resources: Any) -> str:
        self.entrypoint, self.runtime_env, self.resources = entrypoint, runtime_env, resources
        if self.failure:
            raise self.failure
        root = Path(runtime_env["working_dir"])
        self.files = {str(f.relative_to(root)): str(f.stat().st_size) for f in root.rglob("*") if f.is_file()}
        self.modes = {name: (root / name).stat().st_mode for name in self.files}
        self.git = json.loads((root / "git.json").read_text())
        if (root / NAME).exists():
            self.variables, self.mode = json.loads((root / NAME).read_text()), (root / NAME).stat().st_mode & 0o777
        self.text = b"".join(f.read_bytes() for f in root.rglob("*") if f.is_file() and f.name != NAME)
        return submission_id

    def get_job_info(self, job: str) -> Any:
        from ray.job_submission import JobStatus

        return SimpleNamespace(status=JobStatus(self.status), driver_exit_code=3, message="failed")

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "log of the job\n"
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        yield "its end\n"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    monkeypatch.setattr(submission, "make_client", lambda url: client)
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
    data = ("data/train.jsonl", "data/test.jsonl", "scorer/config.json", "model/config.json")
    for name in (*data, "my.py", "neighbor.py", "parts/__init__.py", "parts/inner.py", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "data/.gitignore").write_text("*")  # Ray would leave out what it names
    monkeypatch.chdir(tmp_path)
    keys = ["task.jsonl.train=data/train.jsonl", "task.jsonl.test=data/test.jsonl", "task.name=jsonl"]
    keys += ["task.scorer.kind=learned", "task.scorer.path=scorer"]
    keys += ["task.jsonl.validation=hf://datasets/a/b/c.jsonl", "model.path=model"]
    job = make_job(None, checkout / LOCAL, ["run.directory=/r", *keys], entrypoint="python my.py --n 3")
    status, output = send(job, {"WANDB_API_KEY": "the-secret"})
    assert status == 0 and "log of the job" in output
    wanted = {"data/train.jsonl", "data/test.jsonl", "scorer/config.json", "model/config.json", "my.py", "job.yaml"}
    wanted |= {"neighbor.py", "parts/__init__.py", "parts/inner.py"}
    assert wanted <= set(client.files) and not {"data/.gitignore", "README.md"} & set(client.files)
    assert plain(client.entrypoint) == "python my.py --n 3"
    assert client.variables == {"WANDB_API_KEY": "the-secret"} and client.mode == 0o600
    assert "the-secret" not in str(client.runtime_env)
    assert "WANDB_API_KEY" in output and "the-secret" not in output and b"the-secret" not in client.text
    assert client.git["commit"] == git_state()["commit"]


NEEDED_BY = {
    "task.path": ["task.name=gsm8k"],
    "task.scorer.path": ["task.scorer.kind=learned"],
    "task.jsonl.train": ["task.name=jsonl"],
    "task.jsonl.test": ["task.name=jsonl", "task.jsonl.train=/data.jsonl"],
    "model.path": [],
}


@pytest.mark.parametrize("key", NEEDED_BY)
def test_paths_that_cannot_travel_are_refused(checkout: Path, client: FakeClient, key: str) -> None:
    task = NEEDED_BY[key]
    job = make_job(None, LOCAL, ["run.directory=/r", *task, f"{key}=none-such"])
    with pytest.raises(UsageError, match=re.escape(f"{key} = none-such")):
        send(job)


def test_a_script_can_read_the_configuration_by_its_name(
    checkout: Path, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.yaml").write_text("run: {name: mine}")
    monkeypatch.chdir(tmp_path)
    keys = ["run.directory=/r", f"model.path={checkout / 'models' / 'countdown-base'}"]
    assert send(make_job([Path("my.yaml")], Path("none"), keys, entrypoint="python -c 'print(1)'"))[0] == 0
    assert {"my.yaml", "job.yaml"} <= set(client.files)


def test_files_of_a_configuration_are_one_in_the_job(
    checkout: Path, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base.yaml").write_text("run: {name: mine, steps: 3}")
    (tmp_path / "mine.yaml").write_text("run: {steps: 4}")
    monkeypatch.chdir(tmp_path)
    keys = ["run.directory=/r", f"model.path={checkout / 'models' / 'countdown-base'}"]
    files = [Path("base.yaml"), Path("mine.yaml")]
    job = make_job(files, Path("none"), keys)
    assert isinstance(job.config, RunConfig) and (job.config.run.name, job.config.run.steps) == ("mine", 4)
    assert send(make_job(files, Path("none"), keys, entrypoint="python -c 'print(1)'"))[0] == 0
    assert {"base.yaml", "mine.yaml", "job.yaml"} <= set(client.files)


def test_a_command_that_trains_in_its_own_process_waits_for_a_gpu(checkout: Path, client: FakeClient) -> None:
    """Ray starts a job on the head node unless it asks for more; learner ranks of the other commands ask themselves."""
    one_gpu, mixed = PRESETS / "one-gpu.yaml", ["cluster.node_types.cpu={cpus: 8, memory_gib: 64, roles: [verifier]}"]
    mixed += ["cluster.node_types.gpu={gpus: 8, cpus: 64, memory_gib: 900}"]
    verifier, nothing = "train-verifier --samples /s --output /v", {"entrypoint_num_gpus": None}
    for config, keys, command, expected in (
        (one_gpu, [], verifier, {"entrypoint_num_gpus": 1, "entrypoint_resources": None}),
        (one_gpu, mixed, verifier, {"entrypoint_num_gpus": 1, "entrypoint_resources": {"bonrl-learner": 0.001}}),
        (one_gpu, [], "sft --output /m --learning-rate 1e-5", nothing | {"entrypoint_resources": None}),
        (PRESETS / "local.yaml", [], verifier, nothing | {"entrypoint_resources": None}),
    ):
        absolute = ["run.directory=/r", "model.path=/m", "task.path=/t"]
        status, out = send(make_job([config], LOCAL, [*absolute, *keys], command=command))
        assert status == 0 and client.resources == expected
        assert ("it waits for a node with 1 GPU" in out) == bool(expected["entrypoint_num_gpus"])


def test_a_script_that_is_not_here_is_refused(checkout: Path, client: FakeClient) -> None:
    with pytest.raises(UsageError, match=r"--entrypoint: my\.py"):
        send(make_job(None, LOCAL, ["run.directory=/r"], entrypoint="python my.py"))
    assert send(make_job(None, LOCAL, [], entrypoint="python -c 'import cluster.cli; print(1)'"))[0] == 0
    assert send(make_job(None, LOCAL, [], entrypoint="cat job.yaml cluster/presets/local.yaml; ls /tmp"))[0] == 0


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("echo started; python tools/my.py; exit 3", {"tools/my.py", "tools/near.py"}),
        ("python -m tools.my --n 3", {"tools/my.py", "tools/near.py"}),
        ("python -m tools", {"tools/__main__.py"}),
        ("cd . && ./run.sh --data=rows.jsonl", {"run.sh", "rows.jsonl"}),
        ("ROWS=rows.jsonl ./run.sh > result.txt 2>&1", {"run.sh", "rows.jsonl"}),
        ("python -m cluster.cli --version", set()),
    ],
)
def test_files_of_a_shell_command_travel(
    checkout: Path, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, files: set[str]
) -> None:
    (tmp_path / "tools").mkdir()
    for name in ("tools/my.py", "tools/near.py", "tools/__main__.py", "run.sh", "rows.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "run.sh").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    given = ["run.directory=/r", "model.path=/m"]
    assert send(make_job(None, checkout / LOCAL, given, entrypoint=command))[0] == 0
    mine = {name for name in client.files if name.startswith(("tools", "run.sh", "rows"))}
    assert files <= mine and (files or not mine)
    assert "run.sh" not in mine or client.modes["run.sh"] & 0o100, "it is to be run"


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


@pytest.mark.parametrize("option", ["resume", "replay", "eval"])
def test_inputs_of_an_earlier_run_travel(
    checkout: Path, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """What its record names, where it can be read from here, and what overrides name; its user code has a copy."""
    record = "model: {path: model}\ntask: {path: data, reward: 'gone.py:f'}\nplugins: [gone.py]\n"
    run = write(tmp_path / "shared" / "run" / "config.yaml", record).parent
    (run / "checkpoints").mkdir()
    for name in ("model/config.json", "data/train.jsonl", "new.jsonl", "mine/reward.py", "mine/helper.py"):
        write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    overrides = ["run.directory=/r", "task.jsonl.train=new.jsonl", "task.reward=mine/reward.py:f"]
    options: dict[str, Any] = {option: run} if option != "eval" else {"command": f"eval --checkpoint {run}"}
    assert send(make_job(None, checkout / LOCAL, overrides, **options))[0] == 0
    wanted = {"data/train.jsonl", "new.jsonl", "mine/reward.py", "mine/helper.py"}
    assert wanted <= set(client.files) and ("model/config.json" in client.files) == (option != "eval")
    with pytest.raises(UsageError, match=r"task\.jsonl\.test = none\.jsonl: there is no such file"):
        send(make_job(None, checkout / LOCAL, [*overrides, "task.jsonl.test=none.jsonl"], **options))
    write(tmp_path.parent / "away.py")
    with pytest.raises(UsageError, match=r"task\.reward = \.\./away\.py:f is outside of the working directory"):
        send(make_job(None, checkout / LOCAL, [*overrides, "task.reward=../away.py:f"], **options))


@pytest.mark.parametrize("override", ["task=[1]", "task.jsonl=[a.jsonl]", "plugins=[1]", "plugins={a: b}"])
def test_overrides_of_a_wrong_type_are_left_to_the_job(checkout: Path, override: str) -> None:
    """The rest of the configuration is known on the cluster only, so that the job refuses them."""
    job = make_job(None, LOCAL, [override], resume=Path("/shared/runs/none"))
    assert override in job.command
    assert not input_paths(job.config) and not user_code(job.config)


def test_files_that_task_options_name_travel(
    checkout: Path, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "reward.py", "def score(response, *, words, level): return 1.0\n")
    for name in ("words/en.txt", "model/config.json"):
        write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    given = ["run.directory=/r", "model.path=model", "task.reward=reward.py:score"]
    given += ["task.options={words: [words/en.txt], level: hard}"]
    assert send(make_job(None, checkout / LOCAL, given))[0] == 0
    assert "words/en.txt" in client.files
    write(tmp_path.parent / "outside.txt")
    with pytest.raises(UsageError, match=r"task\.options\.words = \.\./outside\.txt is outside"):
        send(make_job(None, checkout / LOCAL, [*given, "task.options={words: ../outside.txt, level: x}"]))


def test_user_code_that_is_not_here_is_refused(checkout: Path, client: FakeClient) -> None:
    with pytest.raises(UsageError, match=r"task\.reward = gone\.py: there is no such file"):
        send(make_job(None, LOCAL, ["run.directory=/r", "task.reward=gone.py:f"]))


@pytest.mark.parametrize("uri", ["mlruns", "file:mlruns", "file:./mlruns", "sqlite:///mlflow.db", "./x"])
def test_mlflow_files_in_the_package_would_be_lost(checkout: Path, uri: str) -> None:
    options = ["run.directory=/r", "tracking=[mlflow]", f"mlflow.tracking_uri={uri}"]
    with pytest.raises(UsageError, match=r"mlflow\.tracking_uri"):
        make_job(None, LOCAL, options)
    for kept in ("http://host:5000", "/shared/mlruns", "file:///shared/mlruns", "sqlite:////shared/mlflow.db", "null"):
        make_job(None, LOCAL, ["run.directory=/r", "tracking=[mlflow]", f"mlflow.tracking_uri={kept}"])


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_refused_upload_names_the_limit(checkout: Path, client: FakeClient) -> None:
    client.failure = RuntimeError("Request failed with status code 413: Maximum request body size exceeded")
    with pytest.raises(UsageError, match="at most 100 MiB"):
        send(make_job(None, LOCAL, ["run.directory=/r"]))


def test_a_failed_job_says_where_its_logs_are(checkout: Path, client: FakeClient) -> None:
    client.status = "FAILED"
    status, output = send(make_job(None, LOCAL, ["run.directory=/r"]))
    assert status == 3
    assert re.search(r"bonrl jobs logs bonrl-\S+ --address http://head:8265", output)
    assert "/tmp/ray/session_latest/logs/job-driver-bonrl-" in output and "worker-*.err" in output


def test_a_log_stream_that_breaks_is_followed_again_and_printed_once(
    checkout: Path, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network to the head node was down for a while."""
    monkeypatch.setattr("cluster.jobs.submission.AGAIN_SECONDS", 0.0)
    client.breaks = 1
    status, output = send(make_job(None, LOCAL, ["run.directory=/r"]))
    assert status == 0 and output.count("log of the job") == output.count("its end") == 1
    assert output.count("trying again") == 1
    client.breaks = 1_000_000
    status, output = send(make_job(None, LOCAL, ["run.directory=/r"]))
    assert status == 0 and output.count("broke") == 2, "the job has ended, and its log cannot be read"


def test_a_head_node_that_is_gone_ends_the_following(
    checkout: Path, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.jobs.submission.AGAIN_SECONDS", 0.0)
    monkeypatch.setattr("cluster.jobs.submission.LOST_SECONDS", 0.05)
    client.breaks = 1

    def gone(job: str) -> Any:
        if not client.breaks:
            raise ConnectionError("No route to host")
        return FakeClient.get_job_info(client, job)

    monkeypatch.setattr(client, "get_job_info", gone)
    status, output = send(make_job(None, LOCAL, ["run.directory=/r"]))
    assert status == 1 and "from http://head:8265 (No route to host)" in output
    assert "bonrl jobs logs bonrl-" in output
