"""The indexes of the worker pool equal a recomputation from its requests, and no request waits that could run."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.actors.fleet.fake_actors import add_unit, make_supervisor

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing

LIMIT_S = 60


class Group:
    """One request for a worker, which it keeps until `ends` is set."""

    def __init__(self, pool, weight: int, alone: bool) -> None:
        self.weight, self.alone, self.member = weight, alone, None
        self.is_alone = lambda: self.alone
        self.ends = asyncio.Event()
        self.task = asyncio.create_task(self._run(pool))

    async def _run(self, pool) -> None:
        async with pool.borrow(self.weight, self.is_alone) as member:
            self.member = member
            await self.ends.wait()

    @property
    def waits(self) -> bool:
        return self.member is None and not self.task.done()

    @property
    def runs(self) -> bool:
        return self.member is not None and not self.task.done()


class PoolModel:
    """One pool with its workers and requests, and a recomputation of the pool's state."""

    def __init__(self, workers: int) -> None:
        from actors.fleet.units import Changes, Member, Unit
        from actors.fleet.worker_pool import WorkerPool

        self.changes = Changes()
        self.members = [Member(f"sampler-{i}", lambda incarnation: None, serving=True) for i in range(workers)]
        self.units = [Unit(member.name, [member], lambda: None) for member in self.members]
        self.pool = WorkerPool("sampler", self.members, self.changes, LIMIT_S)
        self.groups: list[Group] = []

    async def step(self, operation: str, number: int, flag: bool) -> None:
        member = self.members[number % len(self.members)]
        if operation == "start":
            self.groups.append(Group(self.pool, number, alone=flag))
        elif operation == "fleet":  # lost, or back in service; its requests in flight may end later
            member.serving, member.leaving = flag, False
            self.changes.notify()
        elif operation == "leave" and member.serving:
            member.leaving = True
            self.changes.notify()
        elif operation == "clear":  # a quarantined prompt caused the failures of a group
            for group in self.groups[number % 4 :: 4]:
                group.alone = False
            self.changes.notify()
        elif operation in ("end", "cancel"):
            possible = [group for group in self.groups if group.runs or operation == "cancel" and group.waits]
            for group in possible[number % 4 : number % 4 + 1]:
                group.ends.set() if operation == "end" else group.task.cancel()
        for _ in range(20):
            await asyncio.sleep(0)

    def check(self) -> None:
        running = {member: [g for g in self.groups if g.runs and g.member is member] for member in self.members}
        workers = self.pool._workers
        for worker in workers:
            groups = running[worker.member]
            assert (worker.load, worker.running) == (sum(g.weight for g in groups), len(groups))
            assert self.pool.busy(worker.member) == bool(groups)
            assert len(groups) < 2 or not any(g.alone for g in groups), "it is to be alone"
        assert self.pool.serving == sum(member.serving for member in self.members)
        drained = [request for worker in workers for request in worker.draining]
        for group in (g for g in self.groups if g.waits):
            (own,) = [r for r in drained if r.alone is group.is_alone] or [None]
            assert least_loaded(workers, running, group, own) is None, "it could run"
            open_ones = any(worker.open for worker in workers)
            assert (own is not None and own.drains.open) == (group.alone and open_ones)
        for alone in (False, True):
            probe = SimpleNamespace(alone=lambda alone=alone: alone)
            expected = least_loaded(workers, running, probe, probe)
            assert self.pool._least_loaded(probe) is expected, "the heap names another worker"


def least_loaded(workers, running, group, own):
    """The least loaded worker that may take `group`, by a full scan; `own`: its request that drains a worker."""
    alone = group.alone() if callable(group.alone) else group.alone
    free = [
        worker
        for worker in workers
        if worker.member.serving
        and not worker.member.leaving
        and (not worker.draining or worker.draining[0] is own)
        and not (running[worker.member] and (alone or any(g.alone for g in running[worker.member])))
    ]
    return min(free, key=lambda worker: sum(g.weight for g in running[worker.member]), default=None)


@settings(max_examples=100)
@example(1, [("start", 1, False), ("start", 1, True), ("start", 1, False), ("cancel", 1, False)])
@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(
            st.sampled_from(["start", "start", "start", "end", "end", "cancel", "fleet", "leave", "clear"]),
            st.integers(1, 12),
            st.booleans(),
        ),
        max_size=40,
    ),
)
def test_the_indexes_agree_with_the_requests_and_no_request_waits_that_could_run(workers, operations):
    async def scenario():
        model = PoolModel(workers)
        for operation in operations:
            await model.step(*operation)
            model.check()
        for member in model.members:
            await model.step("fleet", model.members.index(member), True)
        for _ in range(len(model.groups) + 1):
            for group in model.groups:
                group.ends.set()
            await model.step("", 0, False)
        assert all(group.task.done() for group in model.groups), "every request ran, or was cancelled"
        model.check()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_worker_that_leaves_may_move_when_its_last_request_ends():
    async def scenario():
        model = PoolModel(2)
        for _ in range(4):
            await model.step("start", 1, False)
        await model.step("leave", 0, False)
        moves = asyncio.create_task(model.units[0].changes.wait())
        first, second = (group for group in model.groups if group.member is model.members[0])
        first.ends.set()
        await model.step("", 0, False)
        assert model.pool.busy(model.members[0]) and not moves.done()
        second.ends.set()
        await model.step("", 0, False)
        assert not model.pool.busy(model.members[0]) and moves.done()
        for group in model.groups:
            group.ends.set()
        await model.step("", 0, False)

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_request_that_must_run_alone_waits_and_blocks_others():
    from actors.fleet.worker_pool import WorkerPool

    async def scenario():
        supervisor = make_supervisor()
        unit, member = add_unit(supervisor)
        await supervisor.start(unit)
        pool = WorkerPool("sampler", [member], supervisor.changes, timeout_s=LIMIT_S)
        log = []

        async def work(name, alone, seconds):
            async with pool.borrow(1, lambda: alone):
                log.append(f"{name} begins")
                await asyncio.sleep(seconds)
                log.append(f"{name} ends")

        async with asyncio.TaskGroup() as tasks:
            for name, alone in (("a", False), ("b", False), ("alone", True), ("c", False)):
                tasks.create_task(work(name, alone, 0.05))
                await asyncio.sleep(0.001)
        return log

    log = asyncio.run(scenario())
    begins, ends = log.index("alone begins"), log.index("alone ends")
    assert ends == begins + 1, log
    assert {"a ends", "b ends"} <= set(log[:begins]) and "c begins" in log[ends:]


def test_no_free_worker_is_an_error_that_names_the_kind():
    from actors.fleet.worker_pool import WorkerPool
    from actors.remote_calls import ActorFailure

    async def scenario():
        pool = WorkerPool("sampler", [], make_supervisor().changes, timeout_s=0.05)
        async with pool.borrow(1):
            raise AssertionError("there is no worker to lend")

    with pytest.raises(ActorFailure, match="no sampler was free within"):
        asyncio.run(scenario())
