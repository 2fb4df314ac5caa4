"""Work of a lost sampler or verifier moves to another one; a prompt that fails repeatedly is quarantined."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing

LIMIT_S = 10


def request(sequence: int = 0, n: int = 2):
    from actors.group import SampleRequest
    from actors.sampling import Sampling

    return SampleRequest(
        sequence=sequence, epoch=0, prompt_id=f"p{sequence}", level="", prompt_tokens=np.array([1], np.int32),
        admitted_version=0, n=n, sampling=Sampling(), max_tokens=4, seed=0,
    )  # fmt: skip


class Worker:
    """Counts its calls; `fails` decides which call fails."""

    def __init__(self, fails=lambda call: False) -> None:
        self.calls = 0
        self.most_at_once = self._at_once = 0
        self.fails = fails
        self.sample_group = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._sample))
        self.grade = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._grade))
        self.heartbeat = SimpleNamespace(remote=self._beat)

    def _sample(self, wanted):
        return self._work(), f"group {wanted.sequence}"

    def _grade(self, group, prompt):
        return self._work(), f"graded {group}"

    async def _work(self):
        from actors.remote_calls import ActorFailure

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
        from actors.process_stats import Heartbeat, Process

        return Heartbeat("node", (Process(1, 1),))


def pool_of(samplers, verifiers, quarantine=None, max_samples=None, deadlines=None, pauses=False, **settings):
    from actors.fleet.rollout_pool import RolloutPool
    from actors.fleet.supervision import Supervisor
    from actors.fleet.units import Member
    from actors.settings import DeadlineSettings, SupervisionSettings

    def members(kind, workers):
        made = [Member(f"{kind}-{i}", lambda incarnation: None) for i in range(len(workers))]
        for member, worker in zip(made, workers, strict=True):
            member.handle, member.serving, member.incarnation = worker, True, 0
        return made

    supervisor = Supervisor(
        SupervisionSettings(**settings), start_s=1, spawn_monitor=lambda node: None, kill=lambda handle: None
    )
    return RolloutPool(
        members("sampler", samplers), members("verifier", verifiers), deadlines or DeadlineSettings(), supervisor,
        max_samples, quarantine, pauses=pauses,
    )  # fmt: skip


def test_a_failed_grading_is_tried_again_without_sampling_again():
    async def scenario():
        sampler, verifier = Worker(), Worker(fails=lambda call: call == 1)
        pool = pool_of([sampler], [verifier])
        assert await pool.graded_group(request(), None) == "graded group 0"
        assert (sampler.calls, verifier.calls) == (1, 2)
        assert pool.sampled_tokens == 8

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


@pytest.mark.parametrize("method", ["sample", "grade"])
def test_only_a_lost_answer_is_asked_for_again_and_implicates_no_prompt(method):
    """The connection to a live actor breaks, and more often than a prompt may fail."""
    from ray.exceptions import ActorUnavailableError

    class Flaky(Worker):
        async def _work(self):
            await super()._work()
            if self.calls <= 6:
                raise ActorUnavailableError("the connection was reset", None)
            return 8

    async def scenario():
        flaky, steady = Flaky(), Worker()
        pool = pool_of(*([flaky], [steady]) if method == "sample" else ([steady], [flaky]), heartbeat_s=0.01)
        (member,) = (pool.samplers if method == "sample" else pool.verifiers).members

        async def heartbeats():  # as the supervisor does
            while True:
                await pool._supervisor._watch.heartbeat(member, LIMIT_S)
                await asyncio.sleep(0.01)

        monitor = asyncio.create_task(heartbeats())
        assert await pool.graded_group(request(), None) == "graded group 0"
        monitor.cancel()
        assert (flaky.calls, steady.calls) == (7, 1)
        assert member.present and member.serving and pool.quarantined == 0 and pool.sampled_tokens == 8

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_poison_prompt_is_quarantined_with_evidence_and_never_tried_again(monkeypatch):
    monkeypatch.setattr("ray.put", lambda batch: batch)
    from actors.fleet.quarantine import Quarantine
    from actors.group import Group

    class Kept(Quarantine):
        def __init__(self):
            super().__init__()
            self.added, self.skipped = [], []

        def add(self, history):
            super().add(history)
            self.added.append(history)

        def report_skip(self, purpose, request):
            self.skipped.append((purpose, request.prompt_id))

    async def scenario():
        sampler, kept = Worker(fails=lambda call: True), Kept()
        pool = pool_of([sampler], [Worker()], kept)
        group = Group.from_record_batch(await pool.graded_group(request(7), None))
        assert group.sequence == 7 and group.n == 0 and not group.usable
        (history,) = kept.added
        assert history.request.sequence == 7
        assert len(history.failures) == 4 and "went wrong" in history.failures[0].reason
        assert sampler.calls == 4 and pool.quarantined == 1
        assert Group.from_record_batch(await pool.graded_group(request(7), None)).n == 0
        assert sampler.calls == 4 and kept.skipped == [("training", "p7")] and pool.quarantined == 1

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_evaluation_has_its_own_limit(monkeypatch):
    monkeypatch.setattr("ray.put", lambda batch: batch)

    async def scenario():
        pool = pool_of([Worker(fails=lambda call: True)], [Worker()], max_quarantined=1)
        await pool.graded_group(request(0), None, purpose="evaluation")
        await pool.graded_group(request(0), None)
        assert pool.quarantined == 1

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_lost_group_is_not_counted_as_a_failure():
    async def scenario():
        from ray.exceptions import ObjectLostError

        sampler, verifier = Worker(), Worker()
        work = verifier._work

        async def lose():
            await work()
            if verifier.calls <= 5:
                raise ObjectLostError("ab", None, "here")

        verifier._work = lose
        pool = pool_of([sampler], [verifier])
        assert await pool.graded_group(request(), None) == "graded group 0"
        assert sampler.calls == 6 and pool.quarantined == 0

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


@pytest.mark.parametrize("losses", [3, 1000])
def test_a_lost_group_is_sampled_again_a_limited_number_of_times(losses: int):
    from actors.remote_calls import ActorFailure, ObjectLost

    sampler, taken = Worker(), []

    async def take(group):
        taken.append(group)
        if len(taken) <= losses:
            raise ObjectLost("its node is gone")
        return f"took {group}"

    async def scenario():
        return await pool_of([sampler], [Worker()]).deliver(request(), None, take)

    within = asyncio.wait_for(scenario(), LIMIT_S)
    if losses == 3:
        assert asyncio.run(within) == "took graded group 0" and sampler.calls == 4
    else:
        with pytest.raises(ActorFailure, match="lost the same group 10 times: its node is gone"):
            asyncio.run(within)
        assert sampler.calls == 10


def test_a_probe_leaves_out_a_sampler_that_was_lost():
    """The sampler is lost between the check and the call."""

    async def scenario():
        worker = Worker()
        pool = pool_of([worker], [Worker()])
        probe = asyncio.create_task(pool.probe(request()))
        await asyncio.sleep(0)
        (sampler,) = pool.samplers.members
        sampler.handle, sampler.serving = None, False
        assert await probe == []

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_too_many_quarantined_prompts_end_the_run(monkeypatch):
    from actors.remote_calls import ActorFailure

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
        await pool.graded_group(request(9, n=64), None)  # larger than the budget: alone, but it is admitted

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


@settings(max_examples=60)
@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from(["start", "start", "end", "cancel"]), st.integers(1, 10)), max_size=30),
)
def test_the_budget_of_samples_is_first_come_first_served(limit, operations):
    from actors.fleet.rollout_pool import _Budget

    async def group(budget, n, admitted, ends):
        async with budget.reserve(n):
            admitted.set()
            await ends.wait()

    async def scenario():
        budget, groups = _Budget(limit), []
        for operation, number in operations:
            if operation == "start":
                admitted, ends = asyncio.Event(), asyncio.Event()
                task = asyncio.create_task(group(budget, number, admitted, ends))
                groups.append(SimpleNamespace(n=number, admitted=admitted, ends=ends, task=task))
            else:
                possible = [g for g in groups if operation == "cancel" or g.admitted.is_set()]
                for one in possible[number % 5 : number % 5 + 1]:
                    one.ends.set() if operation == "end" else one.task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            groups = [g for g in groups if not g.task.done()]
            admitted = [g.n for g in groups if g.admitted.is_set()]
            waiting = [g.n for g in groups if not g.admitted.is_set()]
            assert [g.n for g in groups] == admitted + waiting, "in the order of arrival"
            assert budget._used == sum(admitted) and (sum(admitted) <= limit or len(admitted) == 1)
            assert not waiting or admitted and sum(admitted) + waiting[0] > limit, "the first has no room"
        for one in groups:
            one.task.cancel()
        await asyncio.gather(*(g.task for g in groups), return_exceptions=True)
        assert budget._used == 0 and not budget._waiting

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_losses_with_a_node_that_ends_after_a_notice_count_against_no_prompt():
    from ray.exceptions import ActorDiedError

    class Preempted(Worker):
        async def _work(self):
            self.calls += 1
            if self.calls <= 5:
                error = ActorDiedError()
                error._preempted = True
                raise error
            return 8

    async def scenario():
        quarantine = None
        pool = pool_of([Preempted()], [Worker()], quarantine, poison_deaths=1)
        sampler = pool.samplers.members[0]
        pool._supervisor.mark_failed = lambda *_: None
        graded = await asyncio.wait_for(pool.graded_group(request(), None), LIMIT_S)
        assert graded == "graded group 0" and sampler.handle.calls == 6 and pool.quarantined == 0

    asyncio.run(scenario())


def test_requests_wait_for_samplers_that_sleep():
    """Also longer than for other reasons, because lost learner ranks must come back first."""
    from actors.remote_calls import ActorFailure
    from actors.settings import DeadlineSettings

    async def scenario():
        pool = pool_of([Worker()], [Worker()], pauses=True)
        (sampler,) = pool.samplers.members
        sampler.asleep = True
        group = asyncio.create_task(pool.graded_group(request(), None))
        await asyncio.sleep(0.05)
        assert sampler.handle.calls == 0 and not group.done()
        sampler.asleep = False
        pool._supervisor.changes.notify()
        await group

        short = DeadlineSettings(start_s=0.01, sample_s=0.01, verify_s=0.01, learn_s=0.1)
        pool = pool_of([Worker()], [Worker()], deadlines=short, pauses=True)
        pool.samplers.members[0].asleep = True
        with pytest.raises(ActorFailure, match=r"no sampler was free within 1 s .* 10 x deadlines.learn_s"):
            await pool.graded_group(request(), None)

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_worker_that_leaves_gets_no_new_request():
    async def scenario():
        workers = [Worker(), Worker()]
        pool = pool_of(workers, [Worker()])
        pool.samplers.members[0].leaving = True
        await asyncio.gather(*(pool.graded_group(request(i), None) for i in range(4)))
        assert [worker.calls for worker in workers] == [0, 4]

    asyncio.run(scenario())
