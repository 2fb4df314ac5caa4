"""A node monitor that hangs is replaced."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


class Monitor:
    def __init__(self, answers: bool) -> None:
        self.answers = answers
        self.looks = 0
        self.ended: list = []
        self.inspect = SimpleNamespace(remote=self._look)
        self.kill = SimpleNamespace(remote=self._kill)

    async def _look(self, processes, family):
        self.looks += 1
        return await self._answer({1: "vitals"})

    async def _kill(self, processes):
        self.ended.append(await self._answer(processes))

    async def _answer(self, value):
        if not self.answers:
            await asyncio.sleep(60)
        return value


def nodes(monkeypatch, *answers: bool, start_s: float = 0.0):
    """(monitors, those that were made for the node so far, those that were killed)"""
    from actors.fleet import node_monitors
    from actors.process_stats import Heartbeat

    monkeypatch.setattr(node_monitors, "INSPECT_SECONDS", 0.02)
    monkeypatch.setattr(node_monitors, "_START_SECONDS", start_s)
    made, killed, coming = [], [], iter(answers)

    def spawn(node):
        made.append(Monitor(next(coming)))
        return made[-1]

    return node_monitors.NodeMonitors(spawn, killed.append), made, killed, Heartbeat("node", ())


def test_two_looks_in_a_row_that_fail_replace_the_watch(monkeypatch):
    async def scenario():
        monitors, made, killed, beat = nodes(monkeypatch, True, True)
        assert await monitors.inspect(beat) == {1: "vitals"}
        made[0].answers = False  # stopped
        assert await monitors.inspect(beat) == {} and killed == []
        made[0].answers = True
        assert await monitors.inspect(beat) == {1: "vitals"}
        made[0].answers = False
        assert await monitors.inspect(beat) == {} and killed == [], "the failures before do not count any more"
        assert await monitors.inspect(beat) == {} and killed == made[:1]
        assert await monitors.inspect(beat) == {1: "vitals"} and len(made) == 2

    asyncio.run(scenario())


def test_looks_at_the_same_time_fail_together_and_count_once(monkeypatch):
    async def scenario():
        monitors, made, killed, beat = nodes(monkeypatch, True)
        await monitors.inspect(beat)
        made[0].answers = False
        assert await asyncio.gather(*(monitors.inspect(beat) for _ in range(5))) == [{}] * 5
        assert killed == []

    asyncio.run(scenario())


def test_a_new_watch_has_time_to_start(monkeypatch):
    """On an overloaded machine another one would start no sooner."""

    async def scenario():
        monitors, made, killed, beat = nodes(monkeypatch, False, True, start_s=0.1)
        began = asyncio.get_running_loop().time()
        while not killed:
            assert await monitors.inspect(beat) == {}
        assert asyncio.get_running_loop().time() - began >= 0.1
        assert await monitors.inspect(beat) == {1: "vitals"} and len(made) == 2

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_processes_are_ended_by_a_new_watch_when_the_old_one_hangs(monkeypatch):
    async def scenario():
        monitors, made, killed, beat = nodes(monkeypatch, False, True, start_s=5.0)
        await monitors.end(beat, "sampler-0")
        assert killed == made[:1] and made[1].ended == [()]

    asyncio.run(scenario())


def test_a_node_that_is_gone_is_not_waited_for_without_end(monkeypatch):
    async def scenario():
        monitors, made, killed, beat = nodes(monkeypatch, False, False, start_s=0.1)
        await monitors.end(beat, "sampler-0")
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
