"""Supervision: lost actors are replaced, callers wait for the successor, and every wait names its owner."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from tests.actors.fleet.fake_actors import LIMIT_S, EmptyMonitor, FakeActor, add_unit, make_supervisor, remote

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


def test_work_that_blocks_the_loop_past_a_heartbeat_still_ends():
    """A cancellation that met a finished answer used to be swallowed, and the run hung after its last step."""

    async def scenario():
        supervisor = make_supervisor()
        units = [add_unit(supervisor, f"actor-{i}")[0] for i in range(5)]
        await supervisor.start(*units)

        async def work():
            await asyncio.sleep(0.01)
            time.sleep(0.3)  # all answers arrive while the loop is blocked
            return "done"

        return await asyncio.wait_for(supervisor.run(work()), LIMIT_S)

    assert asyncio.run(scenario()) == "done"


def test_a_dead_actor_is_replaced_and_its_callers_continue():
    async def scenario():
        supervisor = make_supervisor()
        unit, member = add_unit(supervisor)
        await supervisor.start(unit)
        first = member.handle

        async def work():
            first.dead = True
            while member.handle is first or not member.serving:
                await supervisor.changes.wait()
            await supervisor.until_serving(unit, to="work", deadline_s=LIMIT_S)
            return await member.handle.work.remote()

        assert await asyncio.wait_for(supervisor.run(work()), LIMIT_S) == "done"
        assert member.incarnation == 1 and supervisor.restarts == 1
        loss, recovery = supervisor.incidents
        assert "sampler-0 died before it could answer a heartbeat" in loss.reason
        assert loss.recovered_s is None and recovery.recovered_s is not None

    asyncio.run(scenario())


def test_every_heartbeat_is_passed_on():
    async def scenario():
        heard: list[str] = []
        supervisor = make_supervisor()
        supervisor.on_heartbeat = lambda name, heartbeat: heard.append(f"{name} on {heartbeat.node}")
        supervisor.__post_init__()
        unit, _ = add_unit(supervisor)
        await supervisor.start(unit)
        await asyncio.wait_for(supervisor.run(asyncio.sleep(0.3)), LIMIT_S)
        return heard

    heard = asyncio.run(scenario())
    assert len(heard) > 3 and set(heard) == {"sampler-0 on node"}


def test_an_actor_whose_connection_broke_is_kept_if_it_answers_again(caplog):
    from actors.remote_calls import ActorUnreachable

    async def scenario():
        supervisor = make_supervisor(hung_s=0.1)
        unit, member = add_unit(supervisor)
        await supervisor.start(unit)
        first = member.handle

        async def work():
            first.cut_off = True
            lost = asyncio.create_task(supervisor.check(member, 0, ActorUnreachable("sampler-0 could not be reached")))
            await asyncio.sleep(0.3)
            assert not lost.done() and member.serving, "its call must not be repeated before the actor answers"
            first.cut_off = False
            await asyncio.wait_for(lost, LIMIT_S)

        await supervisor.run(work())
        assert member.handle is first and member.present and not supervisor.incidents

    with caplog.at_level("WARNING"):
        asyncio.run(scenario())
    said = [record.message for record in caplog.records if "asked again" in record.message]
    assert len(said) == 1 and "sampler-0 could not be reached while it was to answer a heartbeat" in said[0]


@pytest.mark.parametrize("dies", [True, False])
def test_an_actor_whose_connection_stays_broken_is_replaced(dies):
    """Either Ray reports the death a little later, or the actor only fails to answer for too long."""
    from actors.remote_calls import ActorUnreachable

    async def scenario():
        supervisor = make_supervisor(busy_s=0.3 if not dies else 600.0)
        unit, member = add_unit(supervisor)
        await supervisor.start(unit)
        first = member.handle

        async def work():
            first.cut_off = True
            lost = asyncio.create_task(supervisor.check(member, 0, ActorUnreachable("sampler-0 could not be reached")))
            await asyncio.sleep(0.1)
            first.dead = dies
            await asyncio.wait_for(lost, LIMIT_S)
            while member.handle is first or not member.serving:
                await supervisor.changes.wait()

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)
        return supervisor.incidents[0].reason

    reason = asyncio.run(scenario())
    if dies:
        assert "sampler-0 died before it could answer a heartbeat" in reason
    else:  # its monitor or its caller notices first
        assert "(supervision.busy_s)" in reason or "sampler-0 could not be reached" in reason


def test_a_run_out_of_restarts_ends_with_a_report():
    from actors.remote_calls import ActorFailure

    async def scenario():
        supervisor = make_supervisor(max_restarts=2)

        def spawn(incarnation):
            actor = FakeActor()
            actor.dead = incarnation > 0
            return actor

        unit, member = add_unit(supervisor, spawn=spawn)
        await supervisor.start(unit)
        member.handle.dead = True
        await supervisor.run(asyncio.sleep(LIMIT_S))

    started = time.monotonic()
    with pytest.raises(ActorFailure, match=r"(?s)used up its 2 restarts \(supervision\.max_restarts\).*sampler-0"):
        asyncio.run(scenario())
    assert time.monotonic() - started < LIMIT_S / 2


def test_an_actor_marked_as_failed_by_several_callers_is_replaced_once():
    from actors.remote_calls import ActorLost

    async def scenario():
        supervisor = make_supervisor()
        unit, member = add_unit(supervisor)
        await supervisor.start(unit)

        async def work():
            for _ in range(3):  # three callers missed their deadlines on the same incarnation
                supervisor.mark_failed(member, 0, ActorLost("did not sample in time"))
            await supervisor.until_serving(unit, to="work", deadline_s=LIMIT_S)
            await asyncio.sleep(0.2)

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)
        assert supervisor.restarts == 1 and member.incarnation == 1

    asyncio.run(scenario())


class StopMonitor:
    """A node monitor that reports whether the actor's process is stopped."""

    def __init__(self, stopped) -> None:
        self.inspect, self.kill = remote(self._inspect), remote(self._kill)
        self.stopped, self.killed = stopped, []

    async def _inspect(self, processes, family=False):
        from actors.process_stats import ProcessStats

        return {process.pid: ProcessStats(self.stopped(), 0.0) for process in processes}

    async def _kill(self, processes):
        self.killed.extend(processes)


def test_an_actor_that_is_stopped_while_it_starts_is_replaced_at_once():
    from actors.process_stats import Process

    async def scenario():
        supervisor = make_supervisor(hung_s=0.2)
        unit, member = add_unit(supervisor)
        monitor = StopMonitor(stopped=lambda: member.incarnation == 1)
        supervisor.spawn_monitor = lambda node: monitor
        supervisor.__post_init__()

        async def prepare():
            if member.incarnation == 1:
                await asyncio.sleep(60)  # stopped: it never answers

        unit.prepare = prepare
        await supervisor.start(unit)

        async def work():
            member.handle.dead = True
            while member.incarnation < 2 or not unit.serving:
                await supervisor.changes.wait()

        await asyncio.wait_for(supervisor.run(work()), LIMIT_S)
        assert [incident.reason for incident in supervisor.incidents if "has been stopped" in incident.reason]
        assert monitor.killed.count(Process(1, 1)) == 2, "the first and the stopped one"

    asyncio.run(scenario())


def test_an_actor_that_never_gets_a_process_says_where_to_look():
    """After the loss of a host, its actors stay pending in Ray until another host joins."""

    async def scenario():
        from actors.remote_calls import ActorFailure, call

        class Pending(FakeActor):
            async def _beat(self):
                await asyncio.sleep(LIMIT_S)

        async def prepare():
            await call(asyncio.sleep(LIMIT_S), owner="sampler-0", to="start", deadline_s=0.05, key="deadlines.start_s")

        supervisor = make_supervisor()
        unit, _ = add_unit(supervisor, prepare=prepare, spawn=lambda incarnation: Pending())
        with pytest.raises(ActorFailure, match="did not start within 0 s") as caught:
            await supervisor.start(unit)
        assert "ray status" in caught.value.log

    asyncio.run(scenario())


def test_a_long_silent_start_is_not_a_hang():
    async def scenario():
        supervisor = make_supervisor(hung_s=0.05, busy_s=0.1)
        unit, _ = add_unit(supervisor, prepare=lambda: asyncio.sleep(0.5))
        monitor = StopMonitor(stopped=lambda: False)  # it uses no processor time: a slow disk
        supervisor.spawn_monitor = lambda node: monitor
        supervisor.__post_init__()
        await supervisor.start(unit)
        assert unit.serving

    asyncio.run(scenario())


def test_further_failures_of_a_lost_actor_print_no_traceback():
    """The supervision task fails first, then the cancelled work for the same reason: one message, not two."""
    from actors.remote_calls import ActorFailure

    complaints = []

    async def work():
        try:
            await asyncio.sleep(LIMIT_S)
        except asyncio.CancelledError:
            raise ExceptionGroup("rollouts", [ActorFailure("queue died")]) from None

    async def scenario():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        supervisor = make_supervisor(max_restarts=0)
        unit, member = add_unit(supervisor, "queue")
        await supervisor.start(unit)
        member.handle.dead = True
        with pytest.raises(ActorFailure, match="queue was lost: queue died before it could answer a heartbeat"):
            await supervisor.run(work())

    asyncio.run(scenario())
    gc.collect()  # an unretrieved exception is logged when its task is collected
    assert complaints == []


def test_the_log_of_a_lost_actor_reaches_the_incident_and_the_last_message():
    from actors.process_stats import Heartbeat, Process
    from actors.remote_calls import ActorFailure

    class Logged(FakeActor):
        async def _beat(self):
            self._check()
            return Heartbeat("node", (Process(1, 1),), logs=("/ray/worker-1.err",), host="node-7")

    class Reader(EmptyMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.tail = remote(self._tail)

        async def _tail(self, logs):
            return {logs[0]: ["Traceback", "out of memory"]}

    async def scenario():
        incidents = []
        supervisor = make_supervisor(max_restarts=0)
        supervisor.report = incidents.append
        supervisor._monitors._spawn = lambda node: Reader()
        unit, member = add_unit(supervisor, spawn=lambda incarnation: Logged())
        await supervisor.start(unit)

        async def work():
            while member.heartbeat is None:
                await asyncio.sleep(0.01)
            member.handle.dead = True
            await asyncio.sleep(LIMIT_S)

        with pytest.raises(ActorFailure) as failed:
            await asyncio.wait_for(supervisor.run(work()), LIMIT_S)
        assert "out of memory" in failed.value.log and "out of memory" not in str(failed.value)
        assert str(incidents[0]).endswith("(log: /ray/worker-1.err on node-7)")

        async def fails():
            while member.heartbeat is None:
                await asyncio.sleep(0.01)
            raise ActorFailure("sampler-0 failed to start")

        unit.prepare = fails
        with pytest.raises(ActorFailure) as refused:
            await supervisor.start(unit)
        assert "out of memory" in refused.value.log

    asyncio.run(scenario())
