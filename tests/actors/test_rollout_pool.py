"""What a lost sampler or verifier had in hand is done by another; a prompt that fails again and again is set aside."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing

LIMIT_S = 10


def request(sequence: int = 0, n: int = 2):
    from actors.group import SampleRequest

    return SampleRequest(
        sequence=sequence, epoch=0, prompt_id=f"p{sequence}", level="", prompt_tokens=np.array([1], np.int32),
        admitted_version=0, n=n, temperature=1.0, max_tokens=4, seed=0,
    )  # fmt: skip


class Worker:
    """Counts what it is given; `fails` says which call goes wrong."""

    def __init__(self, fails=lambda call: False) -> None:
        self.calls = 0
        self.most_at_once = self._at_once = 0
        self.fails = fails
        self.sample_group = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._sample))
        self.grade = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._grade))
        self.beat = SimpleNamespace(remote=self._beat)

    def _sample(self, wanted):
        return self._work(), f"group {wanted.sequence}"

    def _grade(self, group, prompt):
        return self._work(), f"graded {group}"

    async def _work(self):
        from actors.supervision import ActorFailure

        self.calls += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        number = self.calls
        await asyncio.sleep(0.01)
        self._at_once -= 1
        if self.fails(number):
            raise ActorFailure(f"call {number} went wrong")
        return 8

    async def _beat(self):
        from actors.vitals import Beat, Process

        return Beat("node", (Process(1, 1),))


def pool_of(samplers, verifiers, given_up=None, max_samples=None, **settings):
    from actors.rollout_pool import RolloutPool
    from actors.settings import DeadlineSettings, SupervisionSettings
    from actors.supervision import Member, Supervisor

    def members(kind, workers):
        made = [Member(f"{kind}-{i}", lambda incarnation: None) for i in range(len(workers))]
        for member, worker in zip(made, workers, strict=True):
            member.handle, member.serving, member.incarnation = worker, True, 0
        return made

    supervisor = Supervisor(
        SupervisionSettings(**settings), start_s=1, node_watch=lambda node: None, kill=lambda handle: None
    )
    return RolloutPool(
        members("sampler", samplers),
        members("verifier", verifiers),
        DeadlineSettings(),
        supervisor,
        max_samples,
        (given_up if given_up is not None else []).append,
    )


def test_a_failed_grading_is_tried_again_without_sampling_again():
    async def scenario():
        sampler, verifier = Worker(), Worker(fails=lambda call: call == 1)
        pool = pool_of([sampler], [verifier])
        assert await pool.graded_group(request(), None) == "graded group 0"
        assert (sampler.calls, verifier.calls) == (1, 2)
        assert pool.sampled_tokens == 8

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_poison_prompt_is_set_aside_with_the_evidence(monkeypatch):
    monkeypatch.setattr("ray.put", lambda batch: batch)
    from actors.group import Group

    async def scenario():
        given_up = []
        pool = pool_of([Worker(fails=lambda call: True)], [Worker()], given_up)
        group = Group.from_record_batch(await pool.graded_group(request(7), None))
        assert group.sequence == 7 and group.n == 0 and not group.usable
        (suspicion,) = given_up
        assert suspicion.request.sequence == 7
        assert len(suspicion.failures) == 3 and "went wrong" in suspicion.failures[0]

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_the_last_try_of_a_suspect_has_nothing_beside_it(monkeypatch):
    """Prompts that were merely near when an actor died must not be set aside in another's place."""
    monkeypatch.setattr("ray.put", lambda batch: batch)

    async def scenario():
        given_up = []
        sampler = Worker(fails=lambda call: call <= 12)  # six groups at once fail twice: an actor that died twice
        pool = pool_of([sampler], [Worker()], given_up)
        await asyncio.gather(*(pool.graded_group(request(i), None) for i in range(6)))
        assert given_up == [] and sampler.calls == 18 and sampler.most_at_once == 6

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_too_many_prompts_set_aside_end_the_run(monkeypatch):
    from actors.supervision import ActorFailure

    monkeypatch.setattr("ray.put", lambda batch: batch)

    async def scenario():
        pool = pool_of([Worker(fails=lambda call: True)], [Worker()], max_quarantined=1)
        await pool.graded_group(request(0), None)
        with pytest.raises(ActorFailure, match="above supervision.max_quarantined = 1"):
            await pool.graded_group(request(1), None)

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_slow_verifiers_slow_sampling_down():
    async def scenario():
        sampler, verifier = Worker(), Worker()
        pool = pool_of([sampler], [verifier], max_samples=4)
        await asyncio.gather(*(pool.graded_group(request(i, n=2), None) for i in range(8)))
        assert sampler.calls == 8 and sampler.most_at_once == 2
        await pool.graded_group(request(9, n=64), None)  # larger than the budget: alone, but not for ever outside

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
