"""The replay queue as a plain class: its journal, its snapshot, and damaged files."""

from __future__ import annotations

import asyncio
import os
import threading

import numpy as np
import pytest

from actors.group import SampleRequest, quarantined_group
from actors.queue import snapshot
from actors.queue.group_log import LEASED_FILE, groups_file, read_groups
from actors.queue.snapshot import SnapshotError, read_snapshot, write_snapshot
from actors.sampling import Sampling
from actors.workers.replay_queue import ReplayQueue
from tests.actors.test_group import version_3

PROMPTS = 2


def batch(sequence: int):
    return quarantined_group(
        SampleRequest(
            sequence=sequence, epoch=0, prompt_id=f"p{sequence}", level="easy",
            prompt_tokens=np.array([sequence, 7], np.int32), admitted_version=0, n=2, sampling=Sampling(0.7),
            max_tokens=4, seed=sequence,
        )
    ).to_record_batch()  # fmt: skip


def make(directory, **options):
    (directory / "groups").mkdir(exist_ok=True)
    return ReplayQueue(
        prompts_per_step=PROMPTS,
        staleness=1,
        overtake=0,
        total=20,
        groups_directory=str(directory / "groups"),
        journal=str(directory / "queue.arrow"),
        **options,
    )


async def one_step(queue, version: int) -> list[int]:
    for ticket in await queue.reserve():
        await queue.commit([ticket.sequence], batch(ticket.sequence))
    _, (positions, _) = await queue.lease(1.0)
    await queue.ack(version)
    return positions


def test_a_new_queue_takes_over_where_the_old_one_died(tmp_path):
    async def scenario():
        queue = make(tmp_path)
        assert await one_step(queue, 1) == [0, 1]
        tickets = await queue.reserve()
        assert [t.sequence for t in tickets] == [4, 5]
        del queue

        successor = make(tmp_path, recover=True)
        assert await successor.version() == 1
        assert [(t.sequence, t.admitted_version) for t in await successor.tickets()] == [(2, 0), (3, 0), (4, 1), (5, 1)]
        for sequence in (2, 3):
            assert [sequence] == await successor.commit([sequence], batch(sequence))
        batches, (positions, row) = await successor.lease(1.0, [2, 3])
        assert positions == [2, 3] and batches[0].equals(batch(2)) and row["queue/staleness_max"] == 1
        await successor.ack(2)
        assert read_groups(tmp_path / "groups" / groups_file(2))[1].equals(batch(3))

    asyncio.run(scenario())


def test_a_checkpoint_keeps_waiting_groups_and_issues_the_others_again(tmp_path):
    async def scenario():
        queue = make(tmp_path)
        await queue.reserve()
        for sequence in (0, 1, 3):
            await queue.commit([sequence], batch(sequence))
        await queue.lease(1.0)
        await queue.ack(1)
        await queue.snapshot(str(tmp_path / "saved.arrow"))

        resumed = make(tmp_path, snapshot=str(tmp_path / "saved.arrow"))
        assert [(t.sequence, t.admitted_version) for t in await resumed.reserve()] == [(2, 1), (4, 1), (5, 1)]
        await resumed.commit([2], batch(2))
        batches, (positions, _) = await resumed.lease(1.0)
        assert positions == [2, 3] and batches[1].equals(batch(3))

    asyncio.run(scenario())


def test_groups_of_a_step_that_fails_are_kept(tmp_path):
    async def scenario():
        queue, leased = make(tmp_path), tmp_path / "groups" / LEASED_FILE
        for ticket in await queue.reserve():
            await queue.commit([ticket.sequence], batch(ticket.sequence))
        await queue.lease(1.0)
        assert [one.equals(batch(i)) for i, one in enumerate(read_groups(leased))] == [True, True]
        await queue.ack(1)
        assert not leased.exists() and len(read_groups(tmp_path / "groups" / groups_file(1))) == PROMPTS

    asyncio.run(scenario())


def test_groups_are_logged_once_though_the_queue_dies_before_its_journal_is_written(tmp_path):
    async def scenario():
        queue, journal = make(tmp_path), tmp_path / "queue.arrow"
        for ticket in await queue.reserve():
            await queue.commit([ticket.sequence], batch(ticket.sequence))
        await queue.lease(1.0)
        before = journal.read_bytes()
        await queue.ack(1)
        journal.write_bytes(before)

        successor = make(tmp_path, recover=True)  # QueueClient commits, leases and acknowledges again
        assert await successor.version() == 0
        for sequence in range(4):
            assert [sequence] == await successor.commit([sequence], batch(sequence))
        await successor.lease(1.0, [0, 1])
        await successor.ack(1)
        await successor.ack(1)
        assert [path.name for path in (tmp_path / "groups").iterdir()] == [groups_file(1)]
        logged = read_groups(tmp_path / "groups" / groups_file(1))
        assert [one.equals(batch(i)) for i, one in enumerate(logged)] == [True, True]
        assert [ticket.sequence for ticket in await successor.reserve()] == [4, 5]

    asyncio.run(scenario())


def test_a_slow_disk_does_not_keep_the_queue_from_answering(tmp_path, monkeypatch):
    """A sync of a shared disk may take longer than `supervision.hung_s`; the supervisor would replace the queue."""
    queue, main, syncs = make(tmp_path), threading.current_thread(), []
    monkeypatch.setattr(os, "fsync", lambda file: syncs.append(threading.current_thread() is main))

    async def scenario():
        await one_step(queue, 1)
        await queue.snapshot(str(tmp_path / "saved.arrow"))

    asyncio.run(scenario())
    assert len(syncs) >= 4 and not any(syncs), "of the journal, the groups and the snapshot: in another thread"


def test_a_wait_for_groups_ends_and_names_what_is_missing(tmp_path):
    async def scenario():
        queue = make(tmp_path)
        await queue.reserve()
        await queue.commit([1], batch(1))
        with pytest.raises(TimeoutError, match=r"waited 0 s for 1 of 2 groups \(positions \[0\]"):
            await queue.lease(0.05)

    asyncio.run(scenario())


def test_a_snapshot_of_the_version_without_texts_is_read(tmp_path, monkeypatch):
    path, old = tmp_path / "queue.arrow", version_3(batch(5))
    with monkeypatch.context() as earlier:
        earlier.setattr(snapshot, "GROUP_SCHEMA", old.schema)
        write_snapshot(path, {"version": 3}, {5: old})
    assert read_snapshot(path) == ({"version": 3}, {5: batch(5)})


@pytest.mark.parametrize("damage", ["torn", "flipped", "other", "gone"])
def test_a_damaged_snapshot_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "queue.arrow"
    write_snapshot(path, {"version": 3}, {5: batch(5)})
    state, groups = read_snapshot(path)
    assert state == {"version": 3} and groups[5].equals(batch(5))
    data = bytearray(path.read_bytes())
    if damage == "torn":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        place = data.index(b"p5")
        data[place] ^= 1
        path.write_bytes(data)
    elif damage == "other":
        path.write_bytes(b"not Arrow at all")
    else:
        path.unlink()
    with pytest.raises(SnapshotError, match=r"queue\.arrow.*resume from an older checkpoint"):
        read_snapshot(path)
