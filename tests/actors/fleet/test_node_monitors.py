"""A node monitor that hangs is replaced."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


class Monitor:
    def __init__(self, answers: bool) -> None:
        self.answers = answers
        self.ended: list = []
        self.inspect = SimpleNamespace(remote=self._inspect)
        self.kill = SimpleNamespace(remote=self._kill)

    async def _inspect(self, processes, family):
        return await self._answer({1: "stats"})

    async def _kill(self, processes):
        self.ended.append(await self._answer(processes))

    async def _answer(self, value):
        if not self.answers:
            await asyncio.sleep(60)
        return value


def nodes(monkeypatch, *answers: bool, start_s: float = 0.0):
    """(NodeMonitors, monitors made for the node so far, monitors killed, heartbeat of an actor on it)"""
    from actors.fleet import node_monitors
    from actors.process_stats import Heartbeat

    monkeypatch.setattr(node_monitors, "INSPECT_SECONDS", 0.02)
    monkeypatch.setattr(node_monitors, "_START_SECONDS", start_s)
    made, killed, coming = [], [], iter(answers)

    def spawn(node):
        made.append(Monitor(next(coming)))
        return made[-1]

    return node_monitors.NodeMonitors(spawn, killed.append), made, killed, Heartbeat("node", ())


def test_a_monitor_that_fails_two_inspections_in_a_row_is_replaced(monkeypatch):
    async def scenario():
        monitors, made, killed, beat = nodes(monkeypatch, True, True)
        assert await monitors.inspect(beat) == {1: "stats"}
        made[0].answers = False  # stopped
        assert await monitors.inspect(beat) == {} and killed == []
        made[0].answers = True
        assert await monitors.inspect(beat) == {1: "stats"}
        made[0].answers = False
        assert await monitors.inspect(beat) == {} and killed == [], "the failures before do not count any more"
        assert await monitors.inspect(beat) == {} and killed == made[:1]
        assert await monitors.inspect(beat) == {1: "stats"} and len(made) == 2

    asyncio.run(scenario())


def test_concurrent_inspections_that_fail_count_once(monkeypatch):
    async def scenario():
        monitors, made, killed, beat = nodes(monkeypatch, True)
        await monitors.inspect(beat)
        made[0].answers = False
        assert await asyncio.gather(*(monitors.inspect(beat) for _ in range(5))) == [{}] * 5
        assert killed == []

    asyncio.run(scenario())


def test_a_new_monitor_has_time_to_start(monkeypatch):
    """On an overloaded machine, replacing it would not make it start sooner."""

    async def scenario():
        monitors, made, killed, beat = nodes(monkeypatch, False, True, start_s=0.1)
        began = asyncio.get_running_loop().time()
        while not killed:
            assert await monitors.inspect(beat) == {}
        assert asyncio.get_running_loop().time() - began >= 0.1
        assert await monitors.inspect(beat) == {1: "stats"} and len(made) == 2

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_new_monitor_kills_processes_when_the_old_one_hangs(monkeypatch):
    async def scenario():
        monitors, made, killed, beat = nodes(monkeypatch, False, True, start_s=5.0)
        await monitors.kill_processes(beat, "sampler-0")
        assert killed == made[:1] and made[1].ended == [()]

    asyncio.run(scenario())


def test_waiting_for_a_lost_node_has_a_limit(monkeypatch):
    async def scenario():
        monitors, made, killed, beat = nodes(monkeypatch, False, False, start_s=0.1)
        await monitors.kill_processes(beat, "sampler-0")
        assert killed == made[:1] and len(made) == 2

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_the_end_of_an_actors_log_is_quoted_and_a_lost_node_is_not_waited_for(monkeypatch):
    from dataclasses import replace

    async def scenario():
        monitors, made, _, beat = nodes(monkeypatch, True)
        beat = replace(beat, logs=("/ray/worker-1.err", "/ray/worker-1.out"), host="node-7")
        await monitors.inspect(beat)

        async def tail(logs):
            return await made[0]._answer({logs[0]: ["Traceback", "KeyError: 1"], logs[1]: []})

        made[0].tail = SimpleNamespace(remote=tail)
        assert await monitors.log_of(beat) == (
            "\nlog: /ray/worker-1.err on node-7, which ends with\n  Traceback\n  KeyError: 1"
            "\nlog: /ray/worker-1.out on node-7 (empty)"
        )
        monkeypatch.setattr("actors.fleet.node_monitors._TAIL_SECONDS", 0.02)
        made[0].answers = False
        assert "/ray/worker-1.err on node-7 (that node does not answer)" in await monitors.log_of(beat)

    asyncio.run(scenario())
