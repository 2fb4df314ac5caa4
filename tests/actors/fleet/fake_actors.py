"""Fake actors and a supervisor of them, for tests without Ray processes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

LIMIT_S = 10


def remote(function):
    return SimpleNamespace(remote=function)


class FakeActor:
    """A fake actor handle; when killed, dead or cut off, it raises what Ray raises."""

    def __init__(self) -> None:
        self.dead = self.cut_off = False
        self.heartbeat = remote(self._beat)
        self.work = remote(self._work)

    async def _beat(self):
        self._check()
        from actors.process_stats import Heartbeat, Process

        return Heartbeat("node", (Process(1, 1),))

    async def _work(self):
        await asyncio.sleep(0.02)
        self._check()
        return "done"

    def _check(self):
        from ray.exceptions import ActorDiedError, ActorUnavailableError

        if self.dead:
            raise ActorDiedError()
        if self.cut_off:
            raise ActorUnavailableError("the connection was reset", None)


class EmptyMonitor:
    """A node monitor that reports no process."""

    async def _nothing(self, processes, family=False):
        return {}

    def __init__(self) -> None:
        self.inspect = self.kill = remote(self._nothing)


def make_supervisor(**settings):
    from actors.fleet.supervision import Supervisor
    from actors.settings import SupervisionSettings

    values = {"heartbeat_s": 0.02, "backoff_s": 0.01, "max_restarts": 5} | settings
    return Supervisor(
        SupervisionSettings(**values),
        start_s=LIMIT_S,
        spawn_monitor=lambda node: EmptyMonitor(),
        kill=lambda handle: setattr(handle, "dead", True),
    )


def add_unit(supervisor, name="sampler-0", prepare=None, spawn=None):
    from actors.fleet.units import Member, Unit

    async def nothing():
        pass

    member = Member(name, spawn or (lambda incarnation: FakeActor()))
    return supervisor.add(Unit(name, [member], prepare or nothing)), member
