"""What a group or an actor costs the driver does not grow with the number of groups and actors: lines, not seconds."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.actors.executed_lines import ACTORS, executed_lines
from tests.actors.fleet.fake_actors import add_unit, make_supervisor
from tests.actors.fleet.test_rollout_pool import Worker, pool_of, request

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing

FEW, MANY = 100, 10_000
UNITS = f"{ACTORS}/fleet/units.py"


def test_loops_of_all_kinds_are_counted():
    def scan(n: int) -> int:
        with executed_lines(__file__) as count:
            sum(i for i in range(n))
            [i for i in range(n)]
            for _ in range(n):
                pass
        return count()

    assert scan(1000) - scan(0) >= 3000


def test_a_group_costs_the_same_at_any_number_of_groups_in_flight():
    """Counted from the admission to the verdict."""

    async def cost(in_flight: int, groups: int = 50) -> float:
        pool = pool_of([Worker() for _ in range(64)], [Worker() for _ in range(16)], max_samples=10**6)
        async with contextlib.AsyncExitStack() as held:
            await held.enter_async_context(pool._budget.reserve(2 * in_flight))
            for i in range(in_flight):
                workers = pool.verifiers if i % 5 == 0 else pool.samplers
                await held.enter_async_context(workers.borrow(2 + i % 7))
            with executed_lines() as count:
                await asyncio.gather(*(pool.graded_group(request(i), None) for i in range(groups)))
            return count() / groups

    few, many = (asyncio.run(cost(in_flight)) for in_flight in (FEW, MANY))
    assert many < 1.2 * few, (few, many)


def test_a_request_costs_the_same_at_any_number_of_workers():
    async def cost(workers: int, requests: int = 2000) -> float:
        pool = pool_of([Worker() for _ in range(workers)], []).samplers
        with executed_lines() as count:
            for i in range(requests):
                async with pool.borrow(1 + i % 7):
                    pass
        return count() / requests

    few, many = (asyncio.run(cost(workers)) for workers in (8, 1000))
    assert many < 1.5 * few, (few, many)


def test_a_group_that_ends_wakes_no_group_that_still_has_to_wait():
    """One group waits to be alone on the only sampler, and all others wait for that one."""

    async def cost(waiting: int, in_flight: int = 50) -> float:
        pool = pool_of([Worker()], []).samplers

        async def borrow(alone: bool) -> None:
            async with pool.borrow(1, lambda: alone):
                pass

        held = [pool.borrow(1) for _ in range(in_flight)]
        for one in held:
            await one.__aenter__()
        tasks = [asyncio.create_task(borrow(alone)) for alone in (True, *[False] * waiting)]
        await asyncio.sleep(0)
        with executed_lines() as count:
            for one in held[1:]:
                await one.__aexit__(None, None, None)
                await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        await cancel(tasks)
        await held[0].__aexit__(None, None, None)
        return count() / in_flight

    few, many = (asyncio.run(cost(waiting)) for waiting in (FEW, MANY))
    assert many < 1.2 * few, (few, many)


def test_the_budget_of_samples_costs_the_same_at_any_number_of_waiting_groups():
    from actors.fleet.rollout_pool import _Budget

    async def cost(waiting: int, in_flight: int = 20) -> float:
        budget, admitted = _Budget(2 * in_flight), 0

        async def group() -> None:
            nonlocal admitted
            async with budget.reserve(2):
                admitted += 1
                await asyncio.get_running_loop().create_future()

        held = [budget.reserve(2) for _ in range(in_flight)]
        for one in held:
            await one.__aenter__()
        tasks = [asyncio.create_task(group()) for _ in range(waiting)]
        await asyncio.sleep(0)
        assert admitted == 0
        with executed_lines() as count:
            for one in held:
                await one.__aexit__(None, None, None)
                await asyncio.sleep(0)
        assert admitted == in_flight
        await cancel(tasks)
        return count() / in_flight

    few, many = (asyncio.run(cost(waiting)) for waiting in (FEW, MANY))
    assert many < 1.2 * few, (few, many)


async def cancel(tasks: list[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_the_start_of_an_actor_costs_the_same_among_many():
    """Earlier, every actor that began to serve woke two waiters of every other actor."""

    async def cost(actors: int) -> float:
        supervisor = make_supervisor(heartbeat_s=60.0)  # no heartbeat while it counts
        ready = [asyncio.Event() for _ in range(actors)]
        units = [add_unit(supervisor, f"sampler-{i}", one.wait)[0] for i, one in enumerate(ready)]
        with executed_lines() as count:
            started = asyncio.create_task(supervisor.start(*units))
            for one in ready:
                one.set()
                await asyncio.sleep(0)  # one after the other, as engines get ready
            await asyncio.wait_for(started, 60)
        assert all(unit.serving for unit in units)
        return count() / actors

    few, many = (asyncio.run(cost(actors)) for actors in (20, 1000))
    assert many < 1.2 * few, (few, many)


def test_a_change_of_one_unit_wakes_only_its_own_waiters():
    async def cost(actors: int) -> int:
        supervisor = make_supervisor(heartbeat_s=60.0)
        employed = [add_unit(supervisor, f"sampler-{i}") for i in range(actors)]
        await supervisor.start(*supervisor.units)

        async def work() -> int:
            for _ in range(10):  # until every monitor waits
                await asyncio.sleep(0)
            unit, member = employed[0]
            with executed_lines(UNITS) as count:
                supervisor.changes.notify()
                unit.changes.notify()
                for _ in range(10):
                    await asyncio.sleep(0)
            assert unit.serving and member.incarnation == 0
            return count()

        return await asyncio.wait_for(supervisor.run(work()), 60)

    assert asyncio.run(cost(20)) == asyncio.run(cost(200))


def test_actors_that_wait_to_join_cost_the_same_among_many():
    """Each asks once per heartbeat whether all required actors serve."""
    from actors.fleet.worker_pool import WorkerPool

    async def cost(actors: int) -> float:
        supervisor = make_supervisor()
        members = [add_unit(supervisor, f"sampler-{i}")[1] for i in range(actors)]
        pool = WorkerPool("sampler", members, supervisor.changes, timeout_s=1.0)
        for unit in supervisor.units:
            unit.spare = lambda: pool.serving >= 1
        await supervisor.start(supervisor.units[0])
        with executed_lines() as count:
            assert all(supervisor._complete_without(unit) for unit in supervisor.units)
        await supervisor._kill(supervisor.units[0])
        assert [supervisor._complete_without(unit) for unit in supervisor.units] == [False] * actors
        return count() / actors

    few, many = (asyncio.run(cost(actors)) for actors in (20, 1000))
    assert many < 1.2 * few, (few, many)
