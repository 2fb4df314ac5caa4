"""The driver's client of the replay queue when the queue or a group is lost."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from actors.queue.group_log import groups_file, read_groups
from tests.actors.workers.test_replay_queue import batch, make

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


class Handle:
    """A fake Ray actor handle on a queue in this process."""

    def __init__(self, queue):
        self._queue = queue

    def __getattr__(self, name):
        return Method(getattr(self._queue, name))


class Method:
    def __init__(self, method):
        self._method = method

    def remote(self, *arguments):
        return asyncio.ensure_future(self._method(*arguments))

    def options(self, *, num_returns):
        assert num_returns == 2
        return self.Both(self._method)

    class Both(NamedTuple):
        method: Any

        def remote(self, *arguments):
            whole = asyncio.ensure_future(self.method(*arguments))

            async def part(index):
                return (await whole)[index]

            return asyncio.ensure_future(part(0)), asyncio.ensure_future(part(1))


def connect(monkeypatch, queue):
    from actors.fleet.queue_client import QueueClient
    from actors.fleet.supervision import Supervisor
    from actors.fleet.units import Member, Unit
    from actors.settings import DeadlineSettings, SupervisionSettings

    class Losses(Supervisor):
        """A supervisor that has nothing to start."""

        async def until_serving(self, unit, *, to, deadline_s, key):
            return None

    monkeypatch.setattr("actors.fleet.queue_client.ray.put", lambda group: group)
    member = Member("replay queue", spawn=lambda incarnation: None, handle=Handle(queue), incarnation=0)
    supervisor = Losses(SupervisionSettings(), 1.0, spawn_monitor=lambda node: None, kill=lambda handle: None)
    return QueueClient(Unit("replay queue", [member], prepare=None), supervisor, DeadlineSettings()), member


def test_groups_that_waited_at_a_resume_survive_the_loss_of_the_queue(tmp_path, monkeypatch):
    """They exist only in the checkpoint's snapshot: they are not sampled again, and the journal has no groups."""

    async def scenario():
        queue = make(tmp_path)
        await queue.reserve()
        for sequence in range(4):
            await queue.commit([sequence], batch(sequence))
        await queue.lease(1.0)
        await queue.ack(1)
        await queue.snapshot(str(tmp_path / "saved.arrow"))

        client, member = connect(monkeypatch, make(tmp_path, snapshot=str(tmp_path / "saved.arrow")))
        await client.prepare()
        await client.issue_free_slots()
        await client.lease(1)
        issued = []
        client.start_issuing(issued.append)
        member.handle, member.incarnation = Handle(make(tmp_path, recover=True)), 1  # the first one died
        await client.prepare()
        await client.ack(2)
        logged = read_groups(tmp_path / "groups" / groups_file(2))
        assert [group.equals(batch(q)) for q, group in zip((2, 3), logged, strict=True)] == [True, True]
        assert issued == [], "what is under way is not sampled twice"

    asyncio.run(scenario())


def test_a_group_lost_with_its_node_is_not_a_lost_queue(tmp_path, monkeypatch):
    from ray.exceptions import ObjectReconstructionFailedError

    from actors.remote_calls import ObjectLost

    async def scenario():
        queue = make(tmp_path)
        client, member = connect(monkeypatch, queue)
        await client.prepare()
        await client.issue_free_slots()

        async def commit(positions, *groups):
            raise ObjectReconstructionFailedError("00" * 28, "", "")

        monkeypatch.setattr(queue, "commit", commit)
        with pytest.raises(ObjectLost, match="position 1"):
            await client.commit(1, batch(1))
        assert member.failure is None

    asyncio.run(scenario())


def test_a_new_queue_gets_all_groups_in_a_few_calls_and_a_lost_one_is_sampled_again(tmp_path, monkeypatch):
    from ray.exceptions import ObjectReconstructionFailedError

    async def scenario():
        queue = make(tmp_path)
        client, member = connect(monkeypatch, queue)
        await client.prepare()
        issued = []
        client.start_issuing(lambda ticket: issued.append(ticket.sequence))
        await client.issue_free_slots()
        await asyncio.gather(*(client.commit(q, batch(q)) for q in range(4)))
        assert issued == [0, 1, 2, 3]

        successor = make(tmp_path, recover=True)
        calls, commit = [], successor.commit

        async def commit_unless_lost(positions, *groups):
            calls.append(list(positions))
            if 2 in positions:
                raise ObjectReconstructionFailedError("00" * 28, "", "")
            return await commit(positions, *groups)

        monkeypatch.setattr(successor, "commit", commit_unless_lost)
        member.handle, member.incarnation = Handle(successor), 1
        await client.prepare()
        assert calls == [[0, 1, 2, 3], [0, 1], [2, 3], [2], [3]]
        assert sorted(await successor.held()) == [0, 1, 3]
        assert issued == [0, 1, 2, 3, 2]

    asyncio.run(scenario())
