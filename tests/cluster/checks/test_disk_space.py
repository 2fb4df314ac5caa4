"""Disk space of checkpoints: against the files of a real one, and the warning where they do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.checks import disk_space
from cluster.checks.disk_space import checkpoint_bytes, disk_warnings, kept_checkpoints
from cluster.checks.dry_run import report
from cluster.checks.memory.estimates import derive
from cluster.checks.model_facts import read_model
from cluster.config import RunConfig, build_config

SHIPPED = Path(__file__).parents[3] / "models" / "countdown-base"
WRITTEN = 21_357_487 + 7_106_504  # bytes of DeepSpeed's state and of model.safetensors, of a run of the shipped model


def size_of(config: RunConfig) -> float:
    shape = derive(config, read_model(SHIPPED)).shape
    assert shape is not None
    return checkpoint_bytes(config, shape)


def test_the_size_is_that_of_a_written_checkpoint() -> None:
    assert size_of(build_config({})) == pytest.approx(WRITTEN, rel=0.01)
    assert size_of(build_config({"model": {"dtype": "bfloat16"}})) == pytest.approx(WRITTEN, rel=0.01), "2 + 2 + 12"


@pytest.mark.parametrize(
    ("sections", "count"),
    [
        ({"run": {"steps": 160}, "checkpoint": {"every": 50, "keep": 2}}, 3),
        ({"run": {"steps": 60}, "checkpoint": {"every": 50, "keep": 9}}, 2),
        ({"run": {"steps": 60}, "checkpoint": {"every": 0}}, 1),
        (
            {"run": {"steps": 60}, "checkpoint": {"every": 0}, "evaluation": {"every": 10, "keep_best": "pass_at_k@1"}},
            2,
        ),
    ],
)
def test_checkpoints_on_the_disk_at_once(sections: dict[str, Any], count: int) -> None:
    assert kept_checkpoints(build_config(sections)) == count


def test_a_disk_without_enough_space_is_warned_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = build_config({"run": {"directory": str(tmp_path / "not" / "yet")}})
    derived = derive(config, read_model(SHIPPED))
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda place: SimpleNamespace(free=3 * WRITTEN * 1.02))
    assert disk_warnings(config, derived) == []
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda place: SimpleNamespace(free=3 * WRITTEN * 0.98))
    (warning,) = disk_warnings(config, derived)
    assert "its disk has 79.8 MiB free, but up to 3 checkpoints of 27.1 MiB are kept at the same time" in warning
    assert ("disk", "27.1 MiB for a checkpoint; up to 3 at once") in report(config, derived)
    assert disk_warnings(config, derive(config, None)) == [], "the size is unknown"
    monkeypatch.undo()
    assert shutil.disk_usage(tmp_path).free < 3 * WRITTEN or disk_warnings(config, derived) == []
