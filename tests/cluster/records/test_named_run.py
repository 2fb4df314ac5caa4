"""`bonrl train --resume-or-start`: what it finds under the name of a run, and what it does then."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import cli
from cluster.config import build_config
from cluster.errors import UsageError
from cluster.records.disk import RunDirectoryError
from cluster.records.named_run import continued, named_run, set_aside

JSONL = {"name": "jsonl", "jsonl": {"train": "rows.jsonl", "test": "test.jsonl"}}
ON_TEST = {"split": "test", "prompts": 8}
FEW = ("task.train_size=64", "evaluation.prompts=8", "rollout.prompts_per_step=16")


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run that was lost before its first checkpoint."""
    run = tmp_path / "mine"
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"train/step": 1}\n')
    config = build_config({"run": {"directory": str(tmp_path), "name": "mine"}, "task": {"train_size": 64}})
    (run / "config.yaml").write_text(yaml.safe_dump(config.to_mapping()))
    return run


@pytest.fixture
def dry_run(begun: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, repository: Path) -> Any:
    """`bonrl train --resume-or-start --dry-run`: (exit status, stderr)."""

    def call(*more: str, name: str = "mine") -> tuple[int, str]:
        words = ["--resume-or-start", "--dry-run", *FEW, f"run.directory={begun.parent}", f"run.name={name}"]
        monkeypatch.setattr(sys, "argv", ["bonrl", "train", *words, *more])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), capfd.readouterr().err

    monkeypatch.chdir(repository)
    return call


def test_a_dry_run_says_what_would_happen_and_changes_nothing(dry_run: Any, begun: Path) -> None:
    status, err = dry_run(name="other")
    assert status == 0 and "other holds no run, so a new one starts" in err, err
    status, err = dry_run()
    assert status == 0 and "mine holds a run without a checkpoint, which begins again" in err, err
    assert [path.name for path in begun.parent.iterdir()] == ["mine"]


def test_what_cannot_be_continued_is_refused(dry_run: Any, begun: Path) -> None:
    status, err = dry_run(name="null")
    assert status == 2 and "set run.name, the same at every start" in err
    status, err = dry_run("--resume", str(begun))
    assert status == 2 and "--resume-or-start takes the run that run.name names" in err
    with (begun / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, err = dry_run()
    assert status == 2 and "is in use by" in err
    (begun / "checkpoints" / "step-000002").mkdir()  # damaged; a new run would not be what the user expects
    status, err = dry_run()
    assert status == 2 and "holds a checkpoint, so its run continues" in err and "no usable checkpoint" in err


def test_a_run_is_continued_as_the_command_says_with_what_its_start_filled_in(tmp_path: Path) -> None:
    """A rendered sbatch script states every key, also those that are null."""
    recorded = build_config(
        {
            "task": {**JSONL, "date": "2026-11-23", "validation_size": 0},
            "run": {"directory": "runs", "name": None, "steps": 40},
            "learner": {"weight_decay": 0.5},
            "evaluation": ON_TEST,
        }
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(recorded.to_mapping()))
    asked = build_config(
        {"task": JSONL, "run": {"directory": "/elsewhere/runs", "name": "stamp", "steps": 80}, "evaluation": ON_TEST}
    )
    found = continued(build_config(asked.to_mapping()), tmp_path)
    assert str(found.task.date) == "2026-11-23" and found.task.validation_size == 0
    assert (found.run.directory, found.run.name, found.run.steps) == ("runs", None, 80)
    assert found.learner == asked.learner, "a key that differs is a change"
    stated = asked.task.model_copy(update={"validation_size": 5})
    assert continued(asked.model_copy(update={"task": stated}), tmp_path).task.validation_size == 5


def test_the_name_finds_the_directory() -> None:
    assert named_run(build_config({"run": {"directory": "~/runs", "name": "a"}})) == Path.home() / "runs" / "a"
    with pytest.raises(UsageError, match=r"set run\.name"):
        named_run(build_config({}))


def test_what_a_lost_run_recorded_is_kept(begun: Path) -> None:
    (begun.parent / "mine-no-checkpoint-1").mkdir()
    moved = set_aside(begun)
    assert moved.name == "mine-no-checkpoint-2" and (moved / "metrics.jsonl").read_text() and not begun.exists()
    (moved / "checkpoints" / "step-000002").mkdir()
    with pytest.raises(RunDirectoryError, match="holds a run already"):
        set_aside(moved)
    with (moved / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunDirectoryError, match="is in use by"):
            set_aside(moved)
