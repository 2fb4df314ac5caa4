"""A prompt that kills its verifier process is quarantined with evidence, on a real Ray cluster; the others continue."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.config import load_config
from cluster.records.run_directory import RunDirectory
from tests.actors.fleet.test_rollout_pool import request
from tests.cluster.running import LOCAL

pytestmark = [pytest.mark.slow, pytest.mark.alone]

POISON, GROUPS = "p5", 8


def sampler_that_needs_no_engine():
    from actors.group import Group
    from actors.process_stats import own_heartbeat

    class Sampler:
        def __init__(self, *_, **__) -> None:
            pass

        async def start(self) -> None:
            pass

        async def heartbeat(self):
            return own_heartbeat()

        async def sample_group(self, wanted):
            tokens = [np.array([5, 6], np.int32)] * wanted.n
            group = Group(
                sequence=wanted.sequence, epoch=0, prompt_id=wanted.prompt_id, level="", sampler="sampler-0", seed=0,
                prompt_tokens=wanted.prompt_tokens, admitted_version=0, temperature=1.0, sample_seconds=0.0,
                response_tokens=tokens, behaviour_logprobs=[np.zeros(2, np.float32)] * wanted.n,
                token_versions=[np.zeros(2, np.int32)] * wanted.n, finish_reason=["stop"] * wanted.n,
            )  # fmt: skip
            return 2 * wanted.n, group.to_record_batch()

    return Sampler


def verifier_that_dies():
    """Without a tokenizer and a task, whose imports take most of a restart."""
    from actors.process_stats import own_heartbeat

    class Verifier:
        def __init__(self, *_, **__) -> None:
            pass

        async def ready(self) -> None:
            pass

        async def heartbeat(self):
            return own_heartbeat()

        async def grade(self, batch, prompt):
            await asyncio.sleep(0.3)  # so that other prompts are in flight
            if batch["prompt_id"][0].as_py() == POISON:
                os.kill(os.getpid(), signal.SIGKILL)
            return 1, batch

    return Verifier


def test_a_prompt_that_kills_its_verifier_is_quarantined(tmp_path, monkeypatch):
    import ray

    from actors.group import Group
    from cluster.run import processes
    from cluster.telemetry.incidents import QuarantineFiles

    monkeypatch.setattr(processes, "SamplerActor", sampler_that_needs_no_engine())
    monkeypatch.setattr(processes, "VerifierWorker", verifier_that_dies())
    config = load_config(LOCAL, ["supervision.max_restarts=4", "cluster.object_store_mib=100"])
    said: list[str] = []

    async def scenario(directory):
        incidents = []
        kept = processes.Processes(config, "poison", incidents.append)
        quarantine = QuarantineFiles(directory, SimpleNamespace(message=said.append))
        pool = await kept.start_rollouts("AutoTokenizer", quarantine)

        async def work():
            return await asyncio.gather(*(pool.graded_group(request(i), None) for i in range(GROUPS)))

        references = await kept.supervisor.run(work())
        return [Group.from_record_batch(batch) for batch in ray.get(references, timeout=30)], incidents, kept.supervisor

    with RunDirectory.create(tmp_path, "run", {}) as directory:
        processes.connect(config)
        try:
            groups, incidents, supervisor = asyncio.run(asyncio.wait_for(scenario(directory), 240))
        finally:
            processes.disconnect()
        evidence = json.loads((directory.path / "quarantine" / "training-5.json").read_text())
    assert [group.prompt_id for group in groups if group.n == 0] == [POISON] and len(groups) == GROUPS
    failures = len(evidence["failures"])
    assert failures == config.supervision.poison_deaths + 1, "the last time alone"
    assert "verifier-0 died before it could grade prompt 'p5'" in evidence["failures"][-1]["reason"]
    assert {incident.unit for incident in incidents} == {"verifier-0"}
    # The last death ends the test, noticed by the supervisor or not.
    assert failures - 1 <= supervisor.restarts <= failures
    assert "p5" in said[0]
