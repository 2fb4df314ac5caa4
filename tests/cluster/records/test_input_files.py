"""The inputs of a job outlive its working directory: a resume and an evaluation find them in the run directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.commands.evaluate import _resolve
from cluster.commands.options import load_earlier
from cluster.commands.verifier_samples import recorded_config as config_of_samples
from cluster.config import RunConfig, build_config
from cluster.config.input_paths import value_at
from cluster.errors import UsageError
from cluster.records import software
from cluster.records.config_changes import changes, record_changes, recorded_config
from cluster.records.input_files import FILE, keep_input_files
from cluster.records.kept_files import changed_files, keep_files, kept_overrides
from cluster.records.run_directory import RunDirectory
from verifiers.tasks.registry import make_task

ROW = json.dumps({"problem": "1 + 1?", "answer": "2"}) + "\n"
SECRET = "job-environment.json"


def inputs(folder: Path) -> None:
    """What a job's directory holds, and a laptop's working directory."""
    (folder / "words").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data" / "problems.jsonl").write_text(ROW * 4)
    (folder / "words" / "en.txt").write_text("word")
    (folder / "words" / ".gitignore").write_text("*")  # is not packed
    (folder / "rewards.py").write_text("def score(response, *, lists, level): return 1.0\n")
    (folder / SECRET).write_text("{}")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a submitted job, which this process runs from."""
    folder = tmp_path / "package"
    inputs(folder)
    (folder / software.GIT_FILE).write_text("{}")
    monkeypatch.setattr(software, "__file__", str(folder / "cluster" / "records" / "software.py"))
    monkeypatch.chdir(folder)
    return folder


TASK = {
    "name": "jsonl",
    "jsonl": {"train": "data/problems.jsonl", "id": None},
    "reward": "rewards.py:score",
    "options": {"lists": ["words", "words/en.txt"], "level": "hard"},
}


def run_of(shared: Path, **sections: Any) -> Path:
    config = build_config({"task": TASK} | sections)
    with RunDirectory.create(shared, "run", config.to_mapping()) as directory:
        keep_files(directory, config)
    return shared / "run"


def gone(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job has ended, and the next one runs from another directory."""
    shutil.rmtree(package)
    later = package.parent / "later"
    later.mkdir(exist_ok=True)
    (later / software.GIT_FILE).write_text("{}")
    monkeypatch.setattr(software, "__file__", str(later / "cluster" / "records" / "software.py"))
    monkeypatch.chdir(later)


def check_reads_copies(config: RunConfig, run: Path) -> None:
    assert len(make_task(config.task).prompts("train")) > 0
    words = [Path(path) for path in config.task.options["lists"]]
    assert (words[0] / "en.txt").read_text() == words[1].read_text() == "word"
    for path in (*words, Path(str(config.task.jsonl.train))):
        assert path.is_relative_to(run)
    assert config.task.options["level"] == "hard"


def test_a_later_job_reads_the_copies(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path / "shared")
    assert kept_overrides(run) == [], "the files are still here"
    gone(package, monkeypatch)
    check_reads_copies(load_earlier("--resume", run, []), run)
    checkpoint = run / "checkpoints" / "step-000001"
    (checkpoint / "huggingface").mkdir(parents=True)
    (checkpoint / "huggingface" / "config.json").write_text("{}")
    model, evaluated = _resolve(checkpoint, False, None, [], {})
    assert evaluated.model.path == str(model) == str(checkpoint / "huggingface")
    check_reads_copies(evaluated, run)
    samples = config_of_samples([run / "groups"], [])
    assert samples is not None and Path(str(samples.task.jsonl.train)).is_relative_to(run)


@pytest.mark.parametrize("train", ["data", ["data/problems.jsonl", "more/b.jsonl"], ["more", "data/a.jsonl"]])
def test_several_files_of_a_split_are_read_from_copies(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: str | list[str]
) -> None:
    (package / "more").mkdir()
    for name in ("data/a.jsonl", "more/a.jsonl", "more/b.jsonl"):
        (package / name).write_text(ROW.replace("1 + 1", name))
    run = run_of(tmp_path / "shared", task=TASK | {"jsonl": {"train": train, "id": None}})
    before = [prompt.text for prompt in make_task(recorded_config(run).task).prompts("train")]
    gone(package, monkeypatch)
    config = load_earlier("--resume", run, [])
    assert [prompt.text for prompt in make_task(config.task).prompts("train")] == before
    with RunDirectory.open(run) as directory:
        record_changes(directory, config, changes(recorded_config(run), config), 1)
    again = load_earlier("--resume", run, [])
    assert [prompt.text for prompt in make_task(again.task).prompts("train")] == before


@pytest.mark.parametrize("override", ["run.steps=400", "run.name=run"])
def test_resumes_of_resumes_read_them_too(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    """Whether the resume changed a setting, and so wrote config.yaml with the paths that it used, or not."""
    run = run_of(tmp_path / "shared")
    gone(package, monkeypatch)
    for step in (1, 2):
        config = load_earlier("--resume", run, [override])
        with RunDirectory.open(run) as directory:
            record_changes(directory, config, changes(recorded_config(run), config), step)
    moved = run.rename(tmp_path / "moved")
    check_reads_copies(load_earlier("--resume", moved, []), moved)


def test_a_copy_is_made_once_and_another_content_is_noticed(package: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "shared")
    config = recorded_config(run)
    data = package / "data" / "problems.jsonl"
    before = sorted(run.glob("input_files/*/*"))
    first = (before[0].stat().st_ino, before[0].stat().st_mtime_ns)
    assert changed_files(run, config) == []
    with RunDirectory.open(run) as directory:
        keep_files(directory, config)
    assert sorted(run.glob("input_files/*/*")) == before and len(before) == 3
    assert (before[0].stat().st_ino, before[0].stat().st_mtime_ns) == first
    data.write_text(ROW * 5)  # packed again with other rows
    (line,) = changed_files(run, config)
    assert "task.jsonl.train = data/problems.jsonl has changed" in line and str(run) in line
    with RunDirectory.open(run) as directory:
        keep_files(directory, config)
    assert changed_files(run, config) == []
    copies = {path.read_text() for path in run.glob("input_files/*/problems.jsonl")}
    assert copies == {ROW * 4, ROW * 5}, "the earlier copy stays"


def test_only_what_the_configuration_names_is_copied(package: Path, tmp_path: Path) -> None:
    """The package itself holds the variables of the job, which no file of the run may hold."""
    (package / "gsm8k_train.jsonl").write_text("")
    run = run_of(tmp_path / "shared", task={"name": "gsm8k", "path": "."}, model={"path": "/absolute"})
    assert not list(run.rglob(SECRET)) and not (run / "input_files").exists()


def test_elsewhere_files_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on this machine records the absolute places, for commands in another working directory."""
    here = tmp_path / "here"
    inputs(here)
    monkeypatch.chdir(here)
    run = run_of(tmp_path / "runs")
    assert not (run / "input_files").exists()
    monkeypatch.chdir(tmp_path)
    config = load_earlier("--resume", run, ["task.reward=null", "task.options={}"])
    assert config.task.jsonl.train == str(here / "data" / "problems.jsonl")
    (here / "data" / "problems.jsonl").unlink()
    assert recorded_config(run).task.jsonl.train == "data/problems.jsonl", "the message names what the user wrote"


def test_a_run_without_relative_paths_has_no_record(tmp_path: Path) -> None:
    config = build_config({"model": {"path": "/m"}})
    with RunDirectory.create(tmp_path, "run", config.to_mapping()) as directory:
        keep_input_files(directory, config)
    assert not (tmp_path / "run" / FILE).exists() and kept_overrides(tmp_path / "run") == []
    assert value_at(config.to_mapping(), "model.path") == "/m"


@pytest.mark.parametrize("name", ["user_code.json", "input_files.json"])
@pytest.mark.parametrize("content", ["", '{"task.path": {"pa', "[1]", "[]x", '{"task.path": 3}', '{"task.path": {}}'])
def test_a_damaged_record_is_refused_with_its_name(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(build_config({}).to_mapping()))
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=rf"{name} cannot be read .*restore it, or remove it"):
        load_earlier("--resume", tmp_path, [])
