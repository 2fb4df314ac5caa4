"""Actors above the minimum (`actors.samplers: {min, max}`): they wait for resources, join later, and may leave."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.actors.fleet.fake_actors import LIMIT_S, FakeActor, add_unit, make_supervisor

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


class FakeReservation:
    """Grants a reservation while `free()`; `asked` and `held` say what the cluster sees."""

    def __init__(self, free=lambda: True) -> None:
        self.free, self.held, self.asked = free, False, False

    def reserve(self) -> bool:
        self.asked = True
        self.held = self.held or bool(self.free())
        return self.held

    def release(self) -> None:
        self.asked = self.held = False


def joining(spare_units: int, free: asyncio.Event | None = None, prepare=None, spawn=None, **settings):
    """A supervisor with one required actor and `spare_units` optional ones."""
    supervisor = make_supervisor(**settings)
    needed, _ = add_unit(supervisor, "sampler-0")
    spares = [add_unit(supervisor, f"sampler-{i + 1}", prepare, spawn) for i in range(spare_units)]
    for unit in supervisor.units:
        unit.spare = lambda: sum(u.serving for u in supervisor.units) >= 1
    return supervisor, needed, spares


def test_an_optional_actor_waits_for_resources_and_joins():
    async def scenario():
        supervisor = make_supervisor()
        unit, member = add_unit(supervisor)
        free = asyncio.Event()
        unit.spare, unit.reservation = lambda: True, FakeReservation(free.is_set)

        async def work():
            await asyncio.sleep(0.1)
            assert member.handle is None and unit.reservation.asked, "an autoscaler sees the request"
            free.set()
            await supervisor.until_serving(unit, to="join", deadline_s=LIMIT_S)

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)
        assert supervisor.restarts == 0, "joining is no restart"

    asyncio.run(scenario())


def test_a_request_for_resources_is_withdrawn_when_the_run_ends():
    async def scenario():
        supervisor, needed, spares = joining(2)
        free = iter([True])
        for unit, _ in spares:
            unit.reservation = FakeReservation(lambda: next(free, False))
        await supervisor.start(needed)
        await asyncio.wait_for(supervisor.run(asyncio.sleep(0.3)), LIMIT_S)
        assert sum(unit.serving for unit, _ in spares) == 1 and supervisor.restarts == 0
        waiting = next(unit for unit, _ in spares if not unit.serving)
        assert not waiting.reservation.asked

    asyncio.run(scenario())


@pytest.mark.parametrize("failures", [0, 1022])  # those of about a day
def test_a_spare_on_a_broken_node_does_not_end_the_run(failures):
    from actors.remote_calls import ActorFailure

    tries = 0

    async def prepare():
        nonlocal tries
        tries += 1
        raise ActorFailure("the node is broken")

    async def scenario():
        supervisor, needed, [(spare, _)] = joining(1, prepare=prepare, max_restarts=1, backoff_max_s=0.01)
        spare.failures = failures
        await supervisor.start(needed)
        assert await asyncio.wait_for(supervisor.run(asyncio.sleep(0.5, "done")), LIMIT_S) == "done"

    asyncio.run(scenario())
    assert tries > 3


def test_a_spare_that_leaves_and_joins_again_uses_up_no_restart():
    async def scenario():
        supervisor, needed, [(unit, member)] = joining(1, max_restarts=0)
        await supervisor.start(needed)

        async def work():
            for _ in range(3):
                await supervisor.until_serving(unit, to="join", deadline_s=LIMIT_S)
                member.handle.dead = True
                while unit.serving:
                    await supervisor.changes.wait()

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)

    asyncio.run(scenario())


def test_a_spare_does_not_take_the_resources_of_a_required_unit():
    """A lost actor frees its resources; a waiting spare must not take them before the successor does."""

    async def scenario():
        supervisor, needed, [(spare, _)] = joining(1)
        learner, member = add_unit(supervisor, "learner", spawn=lambda incarnation: FakeActor())
        returns = asyncio.Event()

        async def prepare():
            if member.incarnation:
                await returns.wait()

        learner.prepare = prepare
        spare.reservation = FakeReservation(lambda: not learner.serving or returns.is_set())
        await supervisor.start(needed, learner)

        async def work():
            member.handle.dead = True
            while member.incarnation == 0:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert not spare.serving and not spare.reservation.asked, "its request would take what the learner needs"
            returns.set()
            await supervisor.until_serving(spare, to="join", deadline_s=LIMIT_S)
            assert learner.serving

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)

    asyncio.run(scenario())


def test_a_cluster_that_does_not_answer_a_reservation_blocks_nothing(monkeypatch):
    import actors.remote_calls

    monkeypatch.setattr(actors.remote_calls, "INSPECT_SECONDS", 0.05)
    asked = []

    def reserve():
        asked.append(None)
        time.sleep(1.5)
        return True

    async def scenario():
        supervisor, needed, [(unit, _)] = joining(1)
        unit.reservation = FakeReservation(reserve)
        await supervisor.start(needed)
        began = time.monotonic()
        await supervisor.run(asyncio.sleep(0.2))
        assert time.monotonic() - began < 1.2 and not unit.serving and asked

    asyncio.run(scenario())
