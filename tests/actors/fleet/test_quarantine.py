"""Prompts that crash actors are isolated, and no other prompt is blamed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from tests.actors.fleet.test_rollout_pool import request

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing

LIMIT_S = 60
GROUPS = 48


NODE_DIED = "The actor died because its node has died. Node Id: 0c62"  # as Ray writes it


def death(reason: str):
    from ray.core.generated.common_pb2 import ActorDiedErrorContext
    from ray.exceptions import ActorDiedError

    return ActorDiedError(ActorDiedErrorContext(error_message=reason, actor_id=bytes(16)))


class Sampler:
    """An actor that dies with everything in flight when it gets a poison prompt (or `doomed`, with its node)."""

    def __init__(self, record, poison, doomed: bool, with_node: bool) -> None:
        self._record = record
        self._with_node = with_node
        self._poison = poison
        self._doomed = doomed
        self._in_flight: set[int] = set()
        self._died = asyncio.Event()
        self.sample_group = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._sample))
        self.heartbeat = SimpleNamespace(remote=self._beat)

    def _sample(self, wanted):
        return self._work(wanted.sequence), f"group {wanted.sequence}"

    async def _work(self, sequence):
        self._in_flight.add(sequence)
        await asyncio.sleep(0)  # let concurrent requests arrive
        self._record.in_flight.append(len(self._in_flight))
        if (sequence in self._poison or self._doomed) and not self._died.is_set():
            await asyncio.sleep(0.002)
            if not self._died.is_set():
                self._record.deaths += 1
                self._died.set()
        try:
            async with asyncio.timeout(0.01):
                await self._died.wait()
        except TimeoutError:
            self._in_flight.discard(sequence)
            return 8
        raise death(NODE_DIED if self._with_node else "The worker process died.")

    async def _beat(self):
        from actors.process_stats import Heartbeat

        return Heartbeat("node", ())


class Verifier:
    def __init__(self) -> None:
        self.grade = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda group, _: (self._work(), group)))
        self.heartbeat = SimpleNamespace(remote=self._work)

    async def _work(self):
        from actors.process_stats import Heartbeat

        return Heartbeat("node", ())


async def _nothing(*_, **__):
    return {}


def run_groups(monkeypatch, *, poison=(), doomed=0, samplers=1, max_restarts=20, with_node=lambda incarnation: False):
    """Run `GROUPS` groups at once; the first `doomed` incarnations die without a culprit.

    Args:
        with_node: which incarnations die with their node.
    """
    from actors.fleet.quarantine import Quarantine
    from actors.fleet.rollout_pool import RolloutPool
    from actors.fleet.supervision import Supervisor
    from actors.fleet.units import Member, Unit
    from actors.settings import DeadlineSettings, SupervisionSettings

    monkeypatch.setattr("ray.put", lambda batch: "quarantined")
    record = SimpleNamespace(in_flight=[], deaths=0, quarantine=Quarantine(), results=[])
    monitor = SimpleNamespace(inspect=SimpleNamespace(remote=_nothing), kill=SimpleNamespace(remote=_nothing))

    async def nothing():
        pass

    async def scenario():
        supervisor = Supervisor(
            SupervisionSettings(heartbeat_s=0.02, backoff_s=0.0, max_restarts=max_restarts),
            start_s=LIMIT_S,
            spawn_monitor=lambda node: monitor,
            kill=lambda handle: None,
        )
        made = [
            Member(f"sampler-{i}", lambda n: Sampler(record, poison, n < doomed, with_node(n))) for i in range(samplers)
        ]
        verifier = Member("verifier-0", lambda incarnation: Verifier())
        units = [supervisor.add(Unit(m.name, [m], nothing)) for m in (*made, verifier)]
        await supervisor.start(*units)
        pool = RolloutPool(made, [verifier], DeadlineSettings(), supervisor, quarantine=record.quarantine)

        async def work():
            record.results = await asyncio.gather(*(pool.graded_group(request(i), None) for i in range(GROUPS)))

        await supervisor.run(work())
        record.restarts = supervisor.restarts
        record.quarantined = {i for i, result in enumerate(record.results) if result == "quarantined"}

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
    return record


@pytest.mark.parametrize("culprit", [0, 17, 47])
@pytest.mark.parametrize("samplers", [1, 3])
def test_a_poison_prompt_is_isolated_among_many(monkeypatch, culprit, samplers):
    record = run_groups(monkeypatch, poison={culprit}, samplers=samplers)
    assert record.quarantined == {culprit}
    assert record.deaths == 4, "three with others in flight, and one alone"
    assert len(record.results) == GROUPS and max(record.in_flight) > 1


def test_two_deaths_without_a_culprit_do_not_serialize_the_groups(monkeypatch):
    record = run_groups(monkeypatch, doomed=2)
    assert record.quarantined == set() and record.deaths == 2
    assert max(record.in_flight[-GROUPS:]) == GROUPS


def test_after_three_deaths_without_a_culprit_every_group_runs_alone_and_none_is_quarantined(monkeypatch):
    record = run_groups(monkeypatch, doomed=3)
    assert record.quarantined == set() and record.deaths == 3
    assert set(record.in_flight[-GROUPS:]) == {1}


def test_several_poison_prompts_are_isolated_and_no_other(monkeypatch):
    culprits = {3, 11, 30}
    record = run_groups(monkeypatch, poison=culprits)
    assert record.quarantined == culprits


def test_restarts_caused_by_a_poison_prompt_do_not_count(monkeypatch):
    record = run_groups(monkeypatch, poison={1, 9, 25, 40}, max_restarts=8)
    assert record.quarantined == {1, 9, 25, 40} and record.restarts > 8


def test_a_prompt_alone_on_a_node_that_is_lost_is_not_quarantined(monkeypatch):
    record = run_groups(monkeypatch, doomed=4, with_node=lambda incarnation: incarnation == 3)
    assert record.quarantined == set() and record.deaths == 4


def test_losses_of_nodes_do_not_serialize_the_groups(monkeypatch):
    record = run_groups(monkeypatch, doomed=3, with_node=lambda incarnation: True)
    assert record.quarantined == set() and record.deaths == 3
    assert max(record.in_flight[-GROUPS:]) == GROUPS


def test_a_prompt_that_crashes_its_node_every_time_is_quarantined(monkeypatch):
    record = run_groups(monkeypatch, poison={17}, with_node=lambda incarnation: True)
    assert record.quarantined == {17} and record.deaths == 3 + 4
