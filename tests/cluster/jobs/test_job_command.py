"""Commands of `bonrl submit` that begin from an earlier run, or read one: what they take from this machine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from cluster.config import build_config
from cluster.config.input_paths import READ_BY, input_paths
from cluster.errors import UsageError
from cluster.jobs.command import Job, make_job
from cluster.jobs.packaging import stage
from cluster.records.input_files import FILE
from tests.cluster.jobs.test_job_package import write
from verifiers.settings import TASKS

PRESETS = Path("cluster/presets").resolve()
NO_DEFAULT = Path("no-default.yaml")  # reading it fails
RUN = "/shared/runs/a"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def packed(job: Job, here: Path) -> set[str]:
    """Names of files that travel, without bonrl's own packages."""
    folder = Path(tempfile.mkdtemp(dir=here))
    stage(job.config, folder, job.files)
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    return {name for name in names if name.split("/")[0] not in ("actors", "bonrl", "cluster", "learner", "verifiers")}


def submit(command: str, *overrides: str, config: Path | None = None) -> Job:
    return make_job([config] if config else None, NO_DEFAULT, overrides, command=command)


def recorded_run(path: Path, **sections: Any) -> Path:
    """A run directory with a resolved configuration."""
    task = {"name": "jsonl", "jsonl": {"train": "problems.jsonl"}, "reward": "gone.py:f"}
    tree = build_config({"model": {"path": "model"}, "task": task, **sections}).to_mapping()
    (path / "groups").mkdir(parents=True)
    write(path / "config.yaml", json.dumps(tree))
    return path


def test_train_verifier_takes_the_configuration_of_the_run_that_wrote_the_samples(here: Path) -> None:
    command = f"train-verifier --samples {RUN} --output /shared/v"
    job = submit(command, "task.template=chat")
    assert job.command == f"python -m cluster.cli {command} task.template=chat cluster.address=auto"
    assert job.config == {"task": {"template": "chat"}}, "the run's own is read on the cluster"
    with_config = submit(command, "model.path=/m", config=PRESETS / "local.yaml")
    assert with_config.command == f"python -m cluster.cli {command} --config job.yaml"


def test_train_verifier_waits_for_a_gpu_where_the_run_had_one(here: Path) -> None:
    run = recorded_run(here / "shared" / "run", sampler={"gpus": 1}, learner={"gpus_per_rank": 1})
    command = f"train-verifier --samples={run} -o /v"
    assert submit(command).resources == {"GPU": 1.0}
    assert submit(command, "learner.gpus_per_rank=0").resources == {}


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ("", {"model/config.json"}),
        ("--split train", {"model/config.json", "problems.jsonl"}),
        ("--backbone /shared/m", set()),
        ("--refresh=/shared/v --split=train", {"problems.jsonl"}),
    ],
)
def test_train_verifier_sends_what_it_reads_of_a_visible_run(here: Path, options: str, files: set[str]) -> None:
    run = recorded_run(here / "shared" / "run")
    for name in ("model/config.json", "problems.jsonl"):
        write(here / name)
    found = packed(submit(f"train-verifier --samples={run} -o /v {options}"), here)
    assert {"model/config.json", "problems.jsonl"} & found == files


def test_train_verifier_knows_an_evaluation_and_plain_rows(here: Path) -> None:
    tree = build_config({"model": {"path": "model"}}).to_mapping()
    write(here / "model" / "config.json")
    write(here / "samples" / "evaluation.json", json.dumps({"config": tree}))
    assert {"model/config.json", "samples/evaluation.json"} <= packed(
        submit("train-verifier --samples samples -o /v"), here
    )
    write(here / "rows.jsonl")
    with pytest.raises(UsageError, match="no-default"):  # no run wrote them: the default configuration
        submit("train-verifier --samples rows.jsonl -o /v")


def test_eval_of_a_run_elsewhere_ignores_a_configuration_of_the_user(here: Path) -> None:
    write(here / "config.yaml", "task: {name: gsm8k, path: none-such}\n")
    job = submit(f"eval --checkpoint {RUN}", "evaluation.n=8")
    assert job.config == {"evaluation": {"n": 8}}
    assert packed(job, here) >= {"git.json"}


@pytest.mark.parametrize("option", ["resume", "eval"])
def test_inputs_that_the_run_keeps_need_not_be_here(here: Path, option: str) -> None:
    run = recorded_run(here / "shared" / "run")

    def job() -> Job:
        if option == "eval":
            return submit(f"eval --checkpoint {run}")
        return make_job(None, NO_DEFAULT, ["model.path=/m"], resume=run)

    with pytest.raises(UsageError, match=r"task\.jsonl\.train = problems\.jsonl: there is no such file"):
        packed(job(), here)
    entry = {"path": "problems.jsonl", "file": "/gone/problems.jsonl", "sha256": "0", "copy": "input_files/0/p.jsonl"}
    write(run / FILE, json.dumps({"task.jsonl.train": entry}))
    assert "problems.jsonl" not in packed(job(), here)
    write(here / "problems.jsonl")  # perhaps changed since, which the run notices
    assert "problems.jsonl" in packed(job(), here)


def test_a_replayed_run_travels_with_its_copies(here: Path) -> None:
    run = recorded_run(here / "runs" / "a", model={"path": "/m"}, task={"name": "countdown"})
    write(run / FILE, "{}")
    write(run / "input_files" / "0" / "p.jsonl")
    job = make_job(None, NO_DEFAULT, ["run.directory=/r"], replay=Path("runs/a"))
    assert {f"runs/a/{FILE}", "runs/a/input_files/0/p.jsonl"} <= packed(job, here)


def test_a_preset_with_another_task_keeps_no_path_of_the_old_one(here: Path) -> None:
    write(here / "problems.jsonl")
    write(here / "model" / "config.json")
    keys = ["task.name=jsonl", "task.jsonl.train=problems.jsonl", "model.path=model", "run.directory=/r"]
    job = make_job(PRESETS / "8xh100.yaml", NO_DEFAULT, [*keys, "task.scorer.path=unused"])
    assert {"problems.jsonl", "model/config.json"} <= packed(job, here)
    assert "task.path" not in input_paths(job.config) and "task.scorer.path" not in input_paths(job.config)


def test_every_task_says_which_paths_it_reads() -> None:
    assert {task for tasks in READ_BY.values() for task in tasks} | {"countdown"} == set(TASKS)
    assert input_paths({"task": {"name": "my.py:Task", "path": "data"}}) == {}
    assert input_paths({"task": {"path": "data"}}) == {"task.path": "data"}, "another task may be meant"


@pytest.mark.parametrize(
    "command",
    [
        f"report {RUN} --groups 10",
        f"samples {RUN} --only wrong --json -",
        f"compare {RUN} base --json=/shared/c.json",
        f"logs {RUN} driver --level WARNING",
        f"export --checkpoint {RUN} --best --to /shared/models/mine",
    ],
)
def test_runs_on_the_cluster_can_be_read(here: Path, command: str) -> None:
    write(here / "base" / "evaluation.json", "{}")  # of `bonrl eval --output` here
    job = submit(command)
    assert job.command == f"python -m cluster.cli {command}"
    assert ("base/evaluation.json" in packed(job, here)) == command.startswith("compare")


@pytest.mark.parametrize(
    ("command", "overrides", "message"),
    [
        ("report runs/a", [], "give the absolute path of one.*needs no submit: bonrl report"),
        (f"report {RUN} -o page.html", [], r"report: -o = page\.html"),
        (f"report {RUN} --open", [], "--open shows the page where the command runs"),
        (f"samples {RUN} --json s.json", [], r"samples: --json = s\.json"),
        (f"compare {RUN} {RUN} --figure c.png", [], r"compare: --figure = c\.png"),
        (f"export --checkpoint {RUN} --to mine", [], "export: --to = mine"),
        (f"logs {RUN}", ["run.steps=4"], r"takes no configuration: leave run\.steps=4 out"),
        (f"samples {RUN} -c x.yaml", [], "-c is an option of submit itself"),
    ],
)
def test_what_a_reading_command_cannot_do_on_the_cluster(
    here: Path, command: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        submit(command, *overrides)
