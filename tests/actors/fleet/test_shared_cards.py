"""Samplers and learner on the same cards are lost at any moment, and never use memory that the other one needs."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.actors.fleet.fake_actors import FakeActor, add_unit, make_supervisor, remote
from tests.actors.fleet.simulated_cluster import STEPS, Fault, Job, World, run

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing

LIMIT_S = 10
MOMENTS = ("sample", "sleep", "accumulate", "update", "publish", "load", "wake", "release", "engine", "join")


def shared(supervisor, deadlines):  # type: ignore[no-untyped-def]
    from actors.fleet.shared_cards import SharedCards

    return SharedCards(supervisor, deadlines, sleeps=True)


def trained(
    monkeypatch: pytest.MonkeyPatch,
    faults: list[Fault],
    seed: int = 0,
    samplers: int = 2,
    sample_s: float = 2.0,
    *,
    learner_sleeps: bool = False,
) -> Job:
    """All steps, in spite of `faults`, without a collision on a card; afterwards every sampler works."""
    world = World(seed, faults)
    world.sample_s, world.learner_sleeps = sample_s, learner_sleeps
    try:
        job = run(monkeypatch, world, samplers=samplers, cards=shared)
    except BaseException as error:
        raise AssertionError(f"seed {seed}, {world.log}: {error!r}") from error
    assert not world.collisions, f"seed {seed}, {world.log}: {world.collisions}"
    assert job.learner.version == STEPS
    assert all(member.serving and not member.asleep for member in job.samplers)
    assert {member.actor().__dict__["memory"] for member in job.samplers} == {"awake"}
    return job


@pytest.mark.parametrize("samplers", [1, 2])
@pytest.mark.parametrize("again", [None, "engine", "join"])
@pytest.mark.parametrize(
    "moment",
    ["sample", "sleep", "accumulate", "update", "publish", "load", "wake", "release"],
    ids=lambda moment: f"during-{moment}",
)
def test_a_lost_sampler_starts_when_the_learner_has_left_the_card(
    moment: str, again: str | None, samplers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost once, or again while it is replaced: before it sleeps, meanwhile, while the learner trains, and later."""
    for after in (0.0, 0.3):
        faults = [Fault(moment, 2, after, "sampler-0")]
        if again:
            faults.append(Fault(again, 1, 0.1, "sampler-0"))
        job = trained(monkeypatch, faults, samplers=samplers)
        assert 1 <= len(job.incidents["sampler-0"]) <= len(faults)
        assert not job.incidents["learner"] and not job.incidents["sampler-1"]


@pytest.mark.parametrize("victim", ["sleep of sampler-0", "hang of sampler-0", "load of sampler-0"])
@pytest.mark.parametrize("moment", ["sample", "sleep", "accumulate", "wake"])
def test_the_learner_waits_for_the_end_of_a_sampler_that_does_not_free_its_memory(
    moment: str, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = trained(monkeypatch, [Fault(moment, 3, 0.0, victim)])
    assert len(job.incidents["sampler-0"]) == 1
    assert not job.incidents["learner"] and not job.incidents["sampler-1"]


@pytest.mark.parametrize("also", [None, "sampler-0"])
@pytest.mark.parametrize("moment", ["sample", "sleep", "accumulate", "update", "publish", "load", "wake", "release"])
def test_a_new_learner_repeats_lost_steps_while_samplers_sleep_and_wakes_them(
    moment: str, also: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no checkpoint here, so that it trains all earlier steps again."""
    third_step = 5 if moment in ("sleep", "load", "wake") else 3  # these come from each of the two samplers
    for after in (0.0, 0.3):
        faults = [Fault(moment, third_step, after, "learner")]
        if also:
            faults.append(Fault(moment, third_step, after, also))
        job = trained(monkeypatch, faults)
        assert len(job.incidents["learner"]) == 1


@pytest.mark.parametrize("twice", [False, True])
def test_samplers_wake_after_a_learner_that_was_lost_during_sampling_is_replaced(
    twice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No broadcast of a step wakes them, because the current step first needs their groups."""
    faults = [Fault("sample", 2, 0.0, "learner")]
    if twice:
        faults.append(Fault("accumulate", 3, 0.5, "learner"))  # while it trains the first step again
    job = trained(monkeypatch, faults, sample_s=200.0)
    assert len(job.incidents["learner"]) == 1 + twice


def test_a_sampler_that_failed_to_load_does_not_keep_a_new_learner_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner dies in the same update, so that the other samplers wait for its successor."""
    for seed in range(8):
        trained(monkeypatch, [Fault("sample", 1, 0.0, "load of sampler-1"), Fault("wake", 4, 0.1, "learner")], seed, 3)


@pytest.mark.parametrize(
    "victim", ["learner", "sleep of learner", "hang of learner", "sampler-0", "sleep of sampler-0"]
)
@pytest.mark.parametrize("moment", ["learner-start", "reload", "accumulate", "offload", "publish", "sample"])
def test_states_of_a_learner_that_sleeps_and_an_engine_never_need_the_same_memory(
    moment: str, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a new learner loads its states: its predecessor is lost first, because it starts at no other time."""
    for after in (0.0, 0.3):
        faults = [Fault(moment, 2 if moment != "learner-start" else 1, after, victim)]
        if moment == "learner-start":
            faults.append(Fault("sample", 1, 0.0, "learner"))
        job = trained(monkeypatch, faults, learner_sleeps=True)
        assert job.incidents["learner" if "learner" in victim else "sampler-0"]


@pytest.mark.parametrize("learner_sleeps", [False, True])
@pytest.mark.parametrize("part", range(2))
def test_forty_random_interleavings(part: int, learner_sleeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = 0
    moments = (*MOMENTS, "offload", "reload", "learner-start") if learner_sleeps else MOMENTS
    for seed in range(20 * part, 20 * (part + 1)):
        order = random.Random(seed)
        names = ["learner", "sampler-0", "sampler-1"]
        victims = [*names, *names, "node of learner", "monitor", "load of sampler-1", "sleep of sampler-0"]
        faults = [
            Fault(
                order.choice(moments),
                order.randint(1, 5),
                order.choice([0.0, order.uniform(0, 1), order.uniform(0, 20)]),
                order.choice([*victims, "hang of sampler-1"]),
            )
            for _ in range(order.randint(2, 5))
        ]
        job = trained(monkeypatch, faults, seed, learner_sleeps=learner_sleeps)
        lost += sum(map(len, job.incidents.values()))
    assert lost > 20, "too few faults were injected"


def test_without_turns_a_new_engine_starts_in_the_memory_of_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation detects the collisions that these tests rule out."""
    world = World(0, [Fault("accumulate", 2, 0.0, "sampler-0")])
    run(monkeypatch, world, samplers=2)
    assert any("sampler-0 starts while the learner {'trains'}" in collision for collision in world.collisions)


class Sampler(FakeActor):
    """Records its calls."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.calls = calls
        self.sleep = remote(self._sleep)

    async def _sleep(self) -> float:
        self.calls.append("sleep")
        return 0.1


async def started(calls: list[str], **deadlines: float):  # type: ignore[no-untyped-def]
    """A sampler that serves on a shared card, and the learner's only rank."""
    from actors.fleet.shared_cards import SharedCards
    from actors.settings import DeadlineSettings

    supervisor = make_supervisor()
    cards = SharedCards(supervisor, DeadlineSettings(**deadlines), sleeps=True)
    unit, sampler = add_unit(supervisor, spawn=lambda incarnation: Sampler(calls))
    cards.add(unit)

    async def prepare() -> None:
        async with cards.sampler_turn(sampler, sampler.incarnation, to="start its engine"):
            calls.append("start")

    unit.prepare = prepare
    learner, rank = add_unit(supervisor, "learner")
    await supervisor.start(unit, learner)
    return cards, unit, sampler, rank


def test_a_sampler_finishes_its_requests_before_it_sleeps_and_gets_no_others() -> None:
    async def scenario() -> None:
        from actors.fleet.worker_pool import WorkerPool

        calls: list[str] = []
        cards, unit, sampler, rank = await started(calls)
        pool = WorkerPool("sampler", [sampler], cards._supervisor.changes, LIMIT_S)
        unit.busy = lambda: pool.busy(sampler)

        async def train() -> None:
            async with cards.learner_turn([rank], 0, to="train step 3"):
                await cards.sleep()
                calls.append("train")

        async def sample(name: str, end: asyncio.Event) -> None:
            async with pool.borrow(1):
                calls.append(name)
                await end.wait()

        ends = asyncio.Event()
        request = asyncio.create_task(sample("request", ends))
        await asyncio.sleep(0.05)
        training = asyncio.create_task(train())
        await asyncio.sleep(0.05)
        late = asyncio.create_task(sample("late request", ends))
        await asyncio.sleep(0.05)
        assert calls == ["start", "request"]
        ends.set()
        await asyncio.gather(request, training)
        assert calls == ["start", "request", "sleep", "train"] and not late.done()
        async with cards.sampler_turn(sampler, 0, to="load weights 4"):
            pass
        await late
        assert calls[-1] == "late request"

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_each_wait_for_a_card_has_a_deadline_and_says_who_has_it() -> None:
    async def scenario() -> None:
        from actors.remote_calls import ActorFailure, ActorLost

        short = {"start_s": 0.02, "broadcast_s": 0.02, "sample_s": 0.02, "learn_s": 0.01}
        cards, unit, sampler, rank = await started([], **short)
        to_train = {"to": "train step 3"}
        async with cards.learner_turn([rank], 0, **to_train):
            with pytest.raises(
                ActorFailure, match=r"sampler-0 could not start .*4 x deadlines.start_s .*learner chang"
            ):
                async with cards.sampler_turn(sampler, 0, to="start its engine"):
                    pass
        async with cards.sampler_turn(sampler, 0, to="load weights 3"):
            with pytest.raises(ActorFailure, match=r"learner could not train step 3 .*start_s .*sampler-0 changing"):
                async with cards.learner_turn([rank], 0, **to_train):
                    pass
        for turn in (cards.learner_turn([rank], 1, **to_train), cards.sampler_turn(sampler, 1, to="load weights 3")):
            with pytest.raises(ActorLost):
                async with turn:
                    raise AssertionError("another incarnation got the turn")
        unit.busy = lambda: True
        async with cards.learner_turn([rank], 0, **to_train):
            with pytest.raises(ActorFailure, match=r"learner could not train in the memory of samplers that were lost"):
                await cards.sleep()  # no supervisor runs that would kill it
        assert "sampler-0 could not finish its requests" in (sampler.failure or "")

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_the_learner_goes_before_samplers_that_start() -> None:
    """Otherwise a series of lost samplers could keep it waiting."""

    async def scenario() -> None:
        order: list[str] = []
        cards, _, sampler, rank = await started(order)

        async def start(name: str) -> None:
            async with cards.sampler_turn(sampler, 0, to="start its engine"):
                order.append(name)
                await asyncio.sleep(0.02)

        async def train() -> None:
            async with cards.learner_turn([rank], 0, to="train step 3"):
                order.append("learner")

        tasks = [asyncio.create_task(start("one"))]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(train()), asyncio.create_task(start("other"))]
        await asyncio.gather(*tasks)
        assert order == ["start", "one", "learner", "other"]

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_actors_with_their_own_cards_never_wait() -> None:
    async def scenario() -> None:
        from actors.fleet.shared_cards import Cards
        from actors.fleet.units import Member

        cards, member = Cards(), Member("sampler-0", lambda incarnation: None)
        async with cards.learner_turn([], 0, to="train"), cards.sampler_turn(member, 0, to="start"):
            await cards.sleep()
        assert not member.asleep

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
