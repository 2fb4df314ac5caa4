"""A prompt that kills actors is found among many, without running the others one by one, and no other is blamed."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace

import pytest

from tests.actors.test_rollout_pool import request

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing

LIMIT_S = 60
GROUPS = 48


class Sampler:
    """An actor that dies, with all that it has in hand, when it is given a poison prompt (or `doomed`)."""

    def __init__(self, record, poison, doomed: bool) -> None:
        self._record = record
        self._poison = poison
        self._doomed = doomed
        self._hand: set[int] = set()
        self._died = asyncio.Event()
        self.sample_group = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._sample))
        self.beat = SimpleNamespace(remote=self._beat)

    def _sample(self, wanted):
        return self._work(wanted.sequence), f"group {wanted.sequence}"

    async def _work(self, sequence):
        self._hand.add(sequence)
        await asyncio.sleep(0)  # the others of this moment arrive
        self._record.crowds.append(len(self._hand))
        if (sequence in self._poison or self._doomed) and not self._died.is_set():
            await asyncio.sleep(0.002)
            if not self._died.is_set():
                self._record.deaths += 1
                self._died.set()
        try:
            async with asyncio.timeout(0.01):
                await self._died.wait()
        except TimeoutError:
            self._hand.discard(sequence)
            return 8
        from ray.exceptions import ActorDiedError

        raise ActorDiedError()

    async def _beat(self):
        from actors.process_stats import Heartbeat

        return Heartbeat("node", ())


class Verifier:
    def __init__(self) -> None:
        self.grade = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda group, _: (self._work(), group)))
        self.beat = SimpleNamespace(remote=self._work)

    async def _work(self):
        from actors.process_stats import Heartbeat

        return Heartbeat("node", ())


async def _seen(*_, **__):
    return {}


def play(monkeypatch, *, poison=(), doomed=0, samplers=1, max_restarts=20):
    """`GROUPS` groups at once; the first `doomed` incarnations die of nothing in particular."""
    from actors.fleet.quarantine import Quarantine
    from actors.fleet.rollout_pool import RolloutPool
    from actors.fleet.supervision import Member, Supervisor, Unit
    from actors.settings import DeadlineSettings, SupervisionSettings

    monkeypatch.setattr("ray.put", lambda batch: "set aside")
    record = SimpleNamespace(crowds=[], deaths=0, quarantine=Quarantine(), results=[])
    eyes = SimpleNamespace(look=SimpleNamespace(remote=_seen), kill=SimpleNamespace(remote=_seen))

    async def nothing():
        pass

    async def scenario():
        supervisor = Supervisor(
            SupervisionSettings(heartbeat_s=0.02, backoff_s=0.0, max_restarts=max_restarts),
            start_s=LIMIT_S,
            node_watch=lambda node: eyes,
            kill=lambda handle: None,
        )
        made = [
            Member(f"sampler-{i}", lambda incarnation: Sampler(record, poison, incarnation < doomed))
            for i in range(samplers)
        ]
        verifier = Member("verifier-0", lambda incarnation: Verifier())
        units = [supervisor.add(Unit(m.name, [m], nothing)) for m in (*made, verifier)]
        await supervisor.start(*units)
        pool = RolloutPool(made, [verifier], DeadlineSettings(), supervisor, quarantine=record.quarantine)

        async def work():
            record.results = await asyncio.gather(*(pool.graded_group(request(i), None) for i in range(GROUPS)))

        await supervisor.run(work())
        record.restarts = supervisor.restarts
        record.set_aside = {i for i, result in enumerate(record.results) if result == "set aside"}

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
    return record


@pytest.mark.parametrize("culprit", [0, 17, 47])
@pytest.mark.parametrize("samplers", [1, 3])
def test_a_poison_prompt_is_found_among_many(monkeypatch, culprit, samplers):
    record = play(monkeypatch, poison={culprit}, samplers=samplers)
    assert record.set_aside == {culprit}
    # Two deaths in the whole crowd, then a quarter of it each time: 12, 3, 1.
    assert 3 <= record.deaths <= 2 + math.ceil(math.log(GROUPS, 4))
    alone = sum(crowd == 1 for crowd in record.crowds)
    assert alone <= 4 * samplers, "the others must not run one after the other"


def test_two_deaths_without_a_culprit_serialise_nothing(monkeypatch):
    record = play(monkeypatch, doomed=2)
    assert record.set_aside == set() and record.deaths == 2
    after = record.crowds[-GROUPS:]
    assert max(after) <= 12 and sum(crowd == 1 for crowd in after) <= 4


def test_several_poison_prompts_are_all_found_and_no_other(monkeypatch):
    culprits = {3, 11, 30}
    record = play(monkeypatch, poison=culprits)
    assert record.set_aside == culprits


def test_restarts_that_a_poison_prompt_caused_are_not_charged_to_the_run(monkeypatch):
    record = play(monkeypatch, poison={1, 9, 25, 40}, max_restarts=8)
    assert record.set_aside == {1, 9, 25, 40} and record.restarts > 8
