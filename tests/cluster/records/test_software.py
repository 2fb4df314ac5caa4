"""The record of the software that a run was made with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.records import software
from cluster.records.software import changed_software, git_state


def test_git_state_with_and_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(tmp_path)["commit"] is None
    assert git_state(tmp_path)["reason"]
    if shutil.which("git"):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "x"]):
            subprocess.run(["git", "-C", str(tmp_path), *command], check=True, timeout=20)
        state = git_state(tmp_path)
        assert len(state["commit"]) == 40 and state["dirty"] is False
        (tmp_path / "new").write_text("")
        assert git_state(tmp_path)["dirty"] is True
    monkeypatch.setenv("PATH", "")
    assert "git could not run" in git_state(tmp_path)["reason"]


def test_git_state_of_a_submitted_job(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of the code has no repository, and the file at its top says what it was made from."""
    module = Path(software.__file__).relative_to(repository)
    monkeypatch.setattr(software, "__file__", str(tmp_path / module))
    (tmp_path / software.GIT_FILE).write_text('{"commit": "abc"}')
    assert git_state() == {"commit": "abc"}


def test_other_software_than_at_the_start_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "versions", lambda: {"python": "3.12.1", "packages": {"torch": "2.13.0", "ray": "2"}})
    monkeypatch.setattr(software, "git_state", lambda: {"commit": "b" * 40})
    assert changed_software(tmp_path) == [], "a copy without the records"
    files = tmp_path / software.VERSIONS_FILE, tmp_path / software.GIT_FILE
    files[0].write_text('{"python": "3.12.1", "packages": {"torch": "2.12.0", "ray": "2", "wandb": null}}')
    files[1].write_text('{"commit": null, "reason": "no repository"}')
    (line,) = changed_software(tmp_path)
    assert line.endswith("undisturbed run: torch 2.12.0 -> 2.13.0")
    files[0].write_text('{"python": "3.12.1", "pack')
    files[1].write_text(f'{{"commit": "{"a" * 40}"}}')
    damaged, line = changed_software(tmp_path)
    assert "versions.json cannot be read" in damaged and line.endswith(f": commit {'a' * 40} -> {'b' * 40}")
