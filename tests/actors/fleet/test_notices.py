"""A node that will be lost: its actors move before it ends, and these losses do not count."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.actors.fleet.fake_actors import LIMIT_S, EmptyMonitor, FakeActor, add_unit, remote

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


class Nodes:
    """Fake of Ray's state; `ends` has the nodes with a notice."""

    driver = "driver's"

    def __init__(self) -> None:
        self.ends: dict[str, float] = {}
        self.graceful: set[str] = set()

    def draining(self):
        return self.ends

    def any_stopped_gracefully(self, nodes):
        return bool(self.graceful & set(nodes))


class Placed(FakeActor):
    """A fake actor on a node."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self.place = node

    async def _beat(self):
        self._check()
        from actors.process_stats import Heartbeat, Process

        return Heartbeat(self.place, (Process(1, 1),), host=f"host of {self.place}")


def supervised(**settings):
    from actors.fleet.supervision import Supervisor
    from actors.settings import SupervisionSettings

    incidents, nodes = [], Nodes()
    supervisor = Supervisor(
        SupervisionSettings(**{"heartbeat_s": 0.02, "backoff_s": 0.01, "max_restarts": 0} | settings),
        start_s=LIMIT_S,
        spawn_monitor=lambda node: EmptyMonitor(),
        kill=lambda handle: setattr(handle, "dead", True),
        report=incidents.append,
        nodes=nodes,
    )
    return supervisor, nodes, incidents


def actor(supervisor, name="sampler-0"):
    """A unit whose first actor is on node a, and the next one on node b."""
    return add_unit(supervisor, name, spawn=lambda incarnation: Placed("ab"[min(incarnation, 1)]))


async def until(condition):
    async with asyncio.timeout(LIMIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_an_actor_finishes_its_work_and_moves_without_counting():
    async def scenario():
        supervisor, nodes, incidents = supervised()
        unit, member = actor(supervisor)
        busy = True
        unit.busy = lambda: busy
        await supervisor.start(unit)

        async def work():
            nonlocal busy
            await until(lambda: member.heartbeat is not None)
            nodes.ends["a"] = time.time() + 3600
            await until(lambda: member.leaving)
            await asyncio.sleep(0.1)
            assert member.serving and member.incarnation == 0, "its requests in flight end first"
            busy = False
            await until(lambda: member.incarnation == 1 and member.serving)
            assert not member.leaving and supervisor.lost_after_notice("sampler-0", 0)
            await asyncio.sleep(0.1)

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)
        assert supervisor.restarts == 1 and supervisor.notices.count == 1 and supervisor.notices.draining == {"a"}
        notice, moved = incidents
        assert (notice.kind, notice.unit) == ("node", "node host of a (a)") and "sampler-0" in notice.reason
        assert "will be lost in 36" in notice.reason
        assert moved.kind == "move" and moved.recovered_s is not None
        assert str(moved).startswith(
            "sampler-0 moved off node host of a (a), which will be lost; it serves again after"
        )

    asyncio.run(scenario())


def test_work_that_takes_too_long_is_repeated_elsewhere():
    """Requests have half of the notice; a learner has all of it for its checkpoint."""
    from actors.fleet.notices import Notice
    from actors.fleet.units import Unit

    async def nothing():
        pass

    notice = Notice("a", "host", seen=100.0, ends=160.0)
    assert notice.latest_move(Unit("sampler-0", [], nothing)) == 130.0
    assert notice.latest_move(Unit("learner", [], nothing, stateful=True)) == 160.0

    async def scenario():
        supervisor, nodes, _ = supervised()
        unit, member = actor(supervisor)
        unit.busy = lambda: True
        await supervisor.start(unit)

        async def work():
            await until(lambda: member.heartbeat is not None)
            nodes.ends["a"] = time.time() + 0.4
            await until(lambda: member.incarnation == 1)

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)

    asyncio.run(scenario())


def test_the_learner_moves_after_a_checkpoint():
    async def scenario():
        supervisor, nodes, _ = supervised()
        unit, member = actor(supervisor, "learner")
        saved = False
        unit.busy, unit.stateful = lambda: not saved, True
        await supervisor.start(unit)

        async def work():
            nonlocal saved
            assert not supervisor.checkpoint_due
            await until(lambda: member.heartbeat is not None)
            nodes.ends["a"] = time.time() + 3600
            await asyncio.wait_for(supervisor.until_checkpoint_due(), LIMIT_S)
            assert member.incarnation == 0
            saved = True
            unit.changes.notify()
            await until(lambda: member.incarnation == 1 and member.serving)
            assert not supervisor.checkpoint_due

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)

    asyncio.run(scenario())


@pytest.mark.parametrize("graceful", [True, False])
def test_an_actor_that_dies_with_a_node_that_was_stopped_does_not_count(graceful: bool):
    from actors.remote_calls import ActorFailure

    async def scenario():
        supervisor, nodes, incidents = supervised()
        unit, member = actor(supervisor)
        await supervisor.start(unit)

        async def work():
            await until(lambda: member.heartbeat is not None)
            nodes.graceful = {"a"} if graceful else set()
            member.handle.dead = True
            await until(lambda: member.incarnation == 1 and member.serving)

        if graceful:
            await asyncio.wait_for(supervisor.run(work()), LIMIT_S)
            assert incidents[0].kind == "actor"
        else:
            with pytest.raises(ActorFailure, match="max_restarts is 0"):
                await asyncio.wait_for(supervisor.run(work()), LIMIT_S)

    asyncio.run(scenario())


def test_nothing_moves_off_the_drivers_node():
    async def scenario():
        supervisor, nodes, incidents = supervised()
        nodes.driver = "a"
        unit, member = actor(supervisor)
        await supervisor.start(unit)

        async def work():
            await until(lambda: member.heartbeat is not None)
            nodes.ends["a"] = float("inf")
            await asyncio.wait_for(supervisor.until_checkpoint_due(), LIMIT_S)
            await asyncio.sleep(0.1)
            assert member.incarnation == 0 and not member.leaving

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)
        assert [incident.kind for incident in incidents] == ["node"]
        assert "the driver runs on it" in incidents[0].reason and "soon" in incidents[0].reason

    asyncio.run(scenario())


def test_the_monitor_of_a_node_that_was_left_ends_so_that_the_node_is_idle():
    async def scenario():
        supervisor, nodes, _ = supervised()
        monitors = {}

        def spawn(node):
            monitors[node] = EmptyMonitor()
            monitors[node].kill = remote(monitors[node]._nothing)
            return monitors[node]

        supervisor._monitors._spawn = spawn
        unit, member = actor(supervisor)
        await supervisor.start(unit)

        async def work():
            await until(lambda: "a" in monitors)
            nodes.ends["a"] = time.time() + 3600
            await until(lambda: member.incarnation == 1 and member.serving)
            assert monitors["a"].dead

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)

    asyncio.run(scenario())
