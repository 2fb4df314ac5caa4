"""The reports of verifier workers that become ready, and of actors that are still starting."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import pytest

from actors.fleet.supervision import Supervisor
from actors.fleet.units import Member, Unit
from actors.process_stats import Heartbeat
from actors.workers.verifier_worker import Ready, VerifierWorker
from cluster.config import build_config, load_config
from cluster.records.run_directory import RunDirectory
from cluster.run.processes import Processes
from cluster.run.startup import FILE, Startup, announced_start, still_starting
from tests.cluster.running import LOCAL
from verifiers.rewards.environment import of_user_code

LINE = "code sandbox: level L3"


def test_each_line_is_shown_once_and_each_measurement_is_kept(tmp_path: Any) -> None:
    shown: list[str] = []
    with RunDirectory.create(tmp_path, "run", {}) as directory:
        startup = Startup(shown.append, directory)
        for worker, level in (("verifier-0", "L3"), ("verifier-1", "L3"), ("verifier-1", "L2b")):
            startup(worker, Ready((f"code sandbox: level {level}",), {"level": level}))
        startup("verifier-2", Ready())
        assert shown == ["verifier-0: code sandbox: level L3", "verifier-1: code sandbox: level L2b"]
        kept = json.loads((directory.path / FILE).read_text())
    assert kept == {"verifier-0": {"level": "L3"}, "verifier-1": {"level": "L2b"}}


def test_processes_pass_on_the_report_of_a_verifier_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, Ready]] = []
    processes = Processes(load_config(LOCAL), "run", lambda incident: None, lambda *report: shown.append(report))

    async def start(member: Any, request: Any) -> Any:
        return request(SimpleNamespace(ready=SimpleNamespace(remote=lambda: Ready((LINE,)))))

    monkeypatch.setattr(processes, "_start", start)
    asyncio.run(processes._verifier("verifier-0", "AutoTokenizer").prepare())
    assert shown == [("verifier-0", Ready((LINE,)))]


def test_an_actor_is_offline_and_its_user_code_is_as_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    given: dict[str, Any] = {}
    monkeypatch.setattr("ray.remote", lambda cls: SimpleNamespace(options=given.update))
    processes = Processes(load_config(LOCAL), "run", lambda incident: None, lambda *report: None)
    processes._actor(VerifierWorker, "verifier-0")
    variables = given["runtime_env"]["env_vars"]
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert of_user_code(variables)["HF_HUB_OFFLINE"] == "0"


@pytest.mark.parametrize(("sleep", "partial"), [("none", True), ("cache", True), ("weights", False)])
def test_a_sampler_that_frees_its_weights_gets_all_of_them(
    sleep: str, partial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under LoRA too, where others get only the layers that have adapters."""
    card = {
        "sampler": {"gpus": 1, "sleep": sleep},
        "learner": {"gpus_per_rank": 1, "lora": {"rank": 4}},
        "cluster": {"placement": "colocated"},
    }
    processes = Processes(build_config(card), "run", lambda incident: None)
    passed: dict[str, Any] = {}
    actor = SimpleNamespace(remote=lambda **arguments: passed.update(arguments))
    monkeypatch.setattr(processes, "_actor", lambda *_, **__: actor)
    monkeypatch.setattr(processes, "_placement", SimpleNamespace(learner=lambda rank: {}, shares_cards=True))
    processes._learner_rank(0, 0)
    assert passed["partial_updates"] is partial


@pytest.mark.parametrize(("send", "expects"), [("merged", False), ("adapters", True)])
def test_a_sampler_expects_adapters_if_these_are_sent(
    send: str, expects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config({"learner": {"lora": {"send": send}}})
    processes = Processes(config, "run", lambda incident: None)
    passed: dict[str, Any] = {}
    actor = SimpleNamespace(remote=lambda *_, **arguments: passed.update(arguments))
    placement = SimpleNamespace(sampler=lambda index: {}, needs=lambda role, gpus: {}, shares_cards=False)
    monkeypatch.setattr(processes, "_actor", lambda *_, **__: actor)
    monkeypatch.setattr(processes, "_placement", placement)
    processes._sampler(0).members[0].spawn(0)
    assert passed["lora"] == (config.learner.lora if expects else None)


@pytest.mark.parametrize("placement", ["colocated", "separate"])
def test_a_sampler_on_a_shared_card_starts_when_the_learner_has_left_it(placement: str) -> None:
    card = {"sampler": {"gpus": 1}, "learner": {"gpus_per_rank": 1}, "cluster": {"placement": placement}}
    processes = Processes(build_config(card), "run", lambda incident: None)
    events: list[str] = []

    async def start() -> float:
        events.append("start")
        return 1.0

    unit = processes._sampler(0)
    unit.members[0].handle = SimpleNamespace(start=SimpleNamespace(remote=start))

    async def scenario() -> None:
        async with processes._cards.learner_turn([], 0, to="train step 1"):
            preparing = asyncio.ensure_future(unit.prepare())
            await asyncio.sleep(0.05)
            events.append("trained")
        await preparing

    asyncio.run(scenario())
    assert events == (["trained", "start"] if placement == "colocated" else ["start", "trained"])


def test_a_slow_start_names_the_actors_that_are_missing() -> None:
    config = load_config(LOCAL)
    supervisor = Supervisor(config.supervision, 300.0, lambda node: None, kill=lambda handle: None)
    members = {name: Member(name, lambda incarnation: None) for name in ("sampler-0", "learner rank 0", "verifier-0")}

    async def ready() -> None: ...

    for name, member in members.items():
        supervisor.add(Unit("learner" if name.startswith("learner") else name, [member], ready))
        member.handle = object()
    members["sampler-0"].heartbeat = Heartbeat("node", ())
    members["verifier-0"].serving = True
    supervisor.add(Unit("sampler-1", [Member("sampler-1", lambda incarnation: None)], ready))  # may join later
    line = still_starting(supervisor, 45.2)
    assert line == (
        "still starting after 45 s: sampler-0 (loading the weights and building the vLLM engine), learner (waiting for "
        "a free CPU or GPU, or importing packages); limit 300 s (deadlines.start_s)"
    )
    for member in members.values():
        member.serving = True
    assert "sending the first weights" in still_starting(supervisor, 61.0)

    shown: list[float] = []  # seconds since the start

    async def start(announcements: int) -> None:
        began = time.monotonic()
        async with announced_start(supervisor, lambda _: shown.append(time.monotonic() - began), first_s=0.02):
            while len(shown) < announcements:
                assert time.monotonic() < began + 60
                await asyncio.sleep(0.001)
        before = len(shown)
        await asyncio.sleep(0.3)
        assert len(shown) == before, "none after the start"

    asyncio.run(start(0))
    assert shown == []
    asyncio.run(start(3))
    assert all(at >= due for at, due in zip(shown[:3], (0.02, 0.04, 0.08), strict=True))
