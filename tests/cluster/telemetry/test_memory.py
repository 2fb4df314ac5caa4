"""The memory of a job is the sum over its nodes; no step waits for it, and a silent node does not end the run."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from actors.fleet.supervision import Supervisor
from actors.fleet.units import Member, Unit
from actors.process_stats import GpuUse, Heartbeat, Process
from actors.settings import SupervisionSettings
from cluster.telemetry import memory
from cluster.telemetry.memory import JobMemory


class Monitor:
    """The simulated monitor of a node: a process with number p occupies p GiB; it answers unless the node hangs."""

    def __init__(self) -> None:
        self.hangs = False
        self.memory_gib = SimpleNamespace(remote=self._memory_gib)
        self.gpu_use = SimpleNamespace(remote=self._gpu_use)

    async def _memory_gib(self, processes: list[Process]) -> float:
        if self.hangs:
            await asyncio.sleep(60)
        return float(sum({process.pid for process in processes}))

    async def _gpu_use(self, gpus: list[str]) -> list[GpuUse]:
        return [GpuUse(10.0 * int(gpu), 0.25 * int(gpu)) for gpu in gpus]


async def _unused() -> None: ...


def job(monkeypatch: pytest.MonkeyPatch) -> tuple[JobMemory, dict[str, Monitor]]:
    """A driver (1 GiB) and a verifier (2) on one node, two samplers (4 + 8 with its engine, 16) on two others."""
    monkeypatch.setattr("actors.fleet.node_monitors.INSPECT_SECONDS", 0.05)
    monkeypatch.setattr(memory, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(memory, "own_heartbeat", lambda: Heartbeat("head", (Process(1, 0),)))
    monitors: dict[str, Monitor] = {}

    def monitor(node: str) -> Any:
        return monitors.setdefault(node, Monitor())

    supervisor = Supervisor(SupervisionSettings(), start_s=1.0, spawn_monitor=monitor, kill=lambda handle: None)
    for name, node, pids in (("verifier-0", "head", (2,)), ("sampler-0", "a", (4, 8)), ("sampler-1", "b", (16,))):
        member = Member(name, lambda incarnation: None)  # type: ignore[arg-type, return-value]
        member.heartbeat = Heartbeat(node, tuple(Process(pid, 0) for pid in pids))
        supervisor.add(Unit(name, [member], prepare=_unused))
    lost = Member("sampler-2", lambda incarnation: None)  # type: ignore[arg-type, return-value]
    supervisor.add(Unit("sampler-2", [lost], prepare=_unused))  # it has not answered yet
    return JobMemory(supervisor), monitors


async def _until(row: JobMemory, gib: float) -> None:
    async with asyncio.timeout(5):
        while row.row().get("memory/pss_gib") != gib:
            await asyncio.sleep(0.005)


def test_the_reading_sums_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        job_memory, monitors = job(monkeypatch)
        assert job_memory.row() == {}, "no step waits for the first reading"
        async with job_memory.measuring():
            await _until(job_memory, 1 + 2 + 4 + 8 + 16)
        assert set(monitors) == {"head", "a", "b"}

    asyncio.run(scenario())


def test_gpus_of_all_nodes_are_read_and_every_reading_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        job_memory, _ = job(monkeypatch)
        supervisor, exported = job_memory._supervisor, []
        for unit, gpus in zip(supervisor.units[1:3], [("1", "2"), ("3",)], strict=True):
            member = unit.members[0]
            assert member.heartbeat is not None
            member.heartbeat = replace(member.heartbeat, gpus=gpus)
        async with JobMemory(supervisor, exported.append).measuring():
            async with asyncio.timeout(5):
                while not exported:
                    await asyncio.sleep(0.005)
        assert exported[0] == {"memory/pss_gib": 31.0, "memory/gpu_gib": 60.0, "time/gpu_busy_share": 0.5}

    asyncio.run(scenario())


def test_gpus_that_nvidia_smi_does_not_report_are_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        job_memory, monitors = job(monkeypatch)
        supervisor = job_memory._supervisor
        for unit, gpus in zip(supervisor.units[1:3], [("1", "2"), ("3",)], strict=True):
            member = unit.members[0]
            assert member.heartbeat is not None
            member.heartbeat = replace(member.heartbeat, gpus=gpus, host=f"host of {unit.name}")

        async def failed(gpus: list[str]) -> list[GpuUse]:
            return []

        await supervisor.gpu_use()
        assert not caplog.records
        monitors["a"].gpu_use.remote = failed
        assert [use.memory_gib for use in await supervisor.gpu_use()] == [30.0]
        assert [use.memory_gib for use in await supervisor.gpu_use()] == [30.0]

    with caplog.at_level("WARNING"):
        asyncio.run(scenario())
    assert [record.getMessage() for record in caplog.records] == [
        "nvidia-smi on host of sampler-0 (node a) reports 0 of the GPUs 1, 2 that actors have: memory/gpu_gib and "
        "time/gpu_busy_share leave the others out"
    ]


def test_a_node_that_does_not_answer_is_left_out_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        job_memory, monitors = job(monkeypatch)
        async with job_memory.measuring():
            await _until(job_memory, 31)
            monitors["b"].hangs = True
            await _until(job_memory, 15)
            monitors["b"].hangs = False
            await _until(job_memory, 31)

    asyncio.run(scenario())
