"""What verifier workers say when they become ready reaches the user and the run directory."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from actors.verifier_worker import Ready
from cluster.config import load_config
from cluster.processes import Processes
from cluster.readiness import FILE, Readiness
from cluster.run_directory import RunDirectory
from tests.cluster.running import LOCAL

LINE = "code sandbox: level L3"


def test_each_line_is_told_once_and_each_measurement_kept(tmp_path: Any) -> None:
    told: list[str] = []
    with RunDirectory.create(tmp_path, "run", {}) as directory:
        readiness = Readiness(told.append, directory)
        for worker, level in (("verifier-0", "L3"), ("verifier-1", "L3"), ("verifier-1", "L2b")):
            readiness(worker, Ready((f"code sandbox: level {level}",), {"level": level}))
        readiness("verifier-2", Ready())
        assert told == ["verifier-0: code sandbox: level L3", "verifier-1: code sandbox: level L2b"]
        kept = json.loads((directory.path / FILE).read_text())
    assert kept == {"verifier-0": {"level": "L3"}, "verifier-1": {"level": "L2b"}}


def test_the_processes_pass_on_what_a_verifier_worker_says(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Ready]] = []
    processes = Processes(load_config(LOCAL), "run", lambda incident: None, lambda *said: told.append(said))

    async def start(member: Any, method: str) -> Ready:
        assert method == "ready"
        return Ready((LINE,))

    monkeypatch.setattr(processes, "_start", start)
    asyncio.run(processes._verifier("verifier-0").prepare())
    assert told == [("verifier-0", Ready((LINE,)))]
