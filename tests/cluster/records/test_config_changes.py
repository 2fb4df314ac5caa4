"""Pins that a resumed run keeps its latest settings, and that its history records every change."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from cluster.config import RunConfig, load_config
from cluster.records.config_changes import FILE, changes, record_changes, recorded_config, training_changes
from cluster.records.run_directory import RunDirectory

PRESET = "cluster/presets/local.yaml"
OVERRIDES = [
    "run.steps=400",
    "learner.learning_rate=1.0e-5",
    "schedule.temperature={end: 0.8, over: 4}",
    "schedule.n={shape: steps, at: {3: 10}}",
    "tracking=[wandb, tensorboard]",
    "wandb.project=it's größer",
]


def run_of(tmp_path: Path, overrides: list[str]) -> RunDirectory:
    config = load_config(PRESET, [*overrides, "run.name=run"])
    return RunDirectory.create(tmp_path, "run", config.to_mapping())


def resumed(directory: RunDirectory, overrides: list[str], step: int) -> RunConfig:
    """What `bonrl train --resume` with these overrides records after the start of its actors."""
    config = load_config(directory.path / "config.yaml", overrides)
    record_changes(directory, config, changes(recorded_config(directory.path), config), step)
    return config


def test_the_same_settings_change_nothing(tmp_path: Path) -> None:
    with run_of(tmp_path, []) as directory:
        before = (directory.path / "config.yaml").read_bytes()
        resumed(directory, ["run.name=run"], step=20)
        assert (directory.path / "config.yaml").read_bytes() == before
        assert not (directory.path / FILE).exists()


def test_a_later_resume_keeps_the_overrides_of_an_earlier_one(tmp_path: Path) -> None:
    with run_of(tmp_path, ["run.steps=40"]) as directory:
        resumed(directory, ["run.steps=80", "learner.learning_rate=1.0e-5"], step=20)
        resumed(directory, ["run.steps=120"], step=60)
        kept = recorded_config(directory.path)
        assert (kept.run.steps, kept.learner.learning_rate) == (120, 1e-5)
        history = [json.loads(line) for line in (directory.path / FILE).read_text().splitlines()]
        assert training_changes(directory.path) == ["after step 20: learner.learning_rate = 1e-05 (was 3e-05)"]
    assert [line["after_step"] for line in history] == [20, 60]
    assert history[0]["changes"] == {"run.steps": [40, 80], "learner.learning_rate": [3e-5, 1e-5]}
    assert history[1]["changes"] == {"run.steps": [80, 120]}


def test_a_half_written_change_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    with run_of(tmp_path, []) as directory:
        resumed(directory, ["learner.learning_rate=1.0e-5"], step=20)
        with (directory.path / FILE).open("a") as file:
            file.write('{"time": 1.0, "after_st')
        found = training_changes(directory.path)
    assert found == ["after step 20: learner.learning_rate = 1e-05 (was 3e-05)", f"{FILE}, line 2, cannot be read"]


@pytest.mark.parametrize("override", OVERRIDES)
def test_the_printed_override_makes_the_change_again(override: str) -> None:
    """The line "continue with" repeats the overrides of a resume whose actors did not start."""
    before = load_config(PRESET)
    after = load_config(PRESET, [override])
    found = changes(before, after)
    assert found
    again = shlex.split(" ".join(change.override() for change in found))
    assert load_config(PRESET, again) == after


def test_a_replaced_reward_is_recorded_with_its_copy(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / f"{name}.py").write_text("def reward(prompt, response):\n    return 1.0\n", encoding="utf-8")
    with run_of(tmp_path, [f"task.reward={tmp_path}/old.py:reward"]) as directory:
        resumed(directory, [f"task.reward={tmp_path}/new.py:reward"], step=20)
        assert recorded_config(directory.path).task.reward == f"{tmp_path}/new.py:reward"
        (tmp_path / "new.py").unlink()  # as on another machine
        assert Path(recorded_config(directory.path).task.reward.partition(":")[0]).is_relative_to(directory.path)
