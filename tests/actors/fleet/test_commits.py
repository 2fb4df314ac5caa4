"""Commits of graded groups in batches."""

from __future__ import annotations

import asyncio

import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, 10))


class Recorder:
    """Sends nothing; remembers the batches, and loses some groups."""

    def __init__(self, lost=()):
        self.batches = []
        self._lost = set(lost)

    async def __call__(self, groups):
        from actors.remote_calls import ObjectLost

        positions = [sequence for sequence, _ in groups]
        self.batches.append(positions)
        await asyncio.sleep(0)
        if missing := self._lost & set(positions):
            raise ObjectLost(f"lost {sorted(missing)}")


def batches_of(send, interval_s=0.05):
    from actors.fleet.commits import CommitBatches

    return CommitBatches(send, interval_s=interval_s)


def test_the_first_group_goes_at_once_and_later_ones_together():
    async def scenario():
        send = Recorder()
        batches = batches_of(send, interval_s=5.0)
        await asyncio.wait_for(batches.add((0, None)), 1.0)  # a group alone does not wait for the interval
        later = [asyncio.create_task(batches.add((q, None))) for q in range(1, 5)]
        await asyncio.sleep(0.05)
        assert send.batches == [[0]] and not any(task.done() for task in later)
        for task in later:
            task.cancel()

    run(scenario())


def test_groups_that_arrive_within_the_interval_are_one_call():
    async def scenario():
        send = Recorder()
        batches = batches_of(send)
        await batches.add((0, None))
        await asyncio.gather(*(batches.add((q, None)) for q in range(1, 9)))
        assert send.batches == [[0], list(range(1, 9))]
        await asyncio.sleep(0.06)
        await batches.add((9, None))
        assert send.batches[2:] == [[9]]

    run(scenario())


def test_a_call_has_a_largest_number_of_groups():
    from actors.fleet.commits import MAX_GROUPS

    async def scenario():
        send = Recorder()
        batches = batches_of(send)
        await asyncio.gather(*(batches.add((q, None)) for q in range(2 * MAX_GROUPS + 3)))
        assert [len(batch) for batch in send.batches] == [MAX_GROUPS, MAX_GROUPS, 3]
        assert sum(send.batches, []) == list(range(2 * MAX_GROUPS + 3))

    run(scenario())


def test_a_lost_group_fails_alone():
    from actors.remote_calls import ObjectLost

    async def scenario():
        send = Recorder(lost={3, 6})
        batches = batches_of(send)
        found = await asyncio.gather(*(batches.add((q, None)) for q in range(8)), return_exceptions=True)
        assert [q for q, one in enumerate(found) if isinstance(one, ObjectLost)] == [3, 6]
        assert [str(found[q]) for q in (3, 6)] == ["lost [3]", "lost [6]"]
        assert [one for q, one in enumerate(found) if q not in (3, 6)] == [None] * 6
        assert len(send.batches) < 8 + 4, "halves, not one call for each group"

    run(scenario())


def test_any_other_failure_reaches_every_caller():
    async def scenario():
        async def send(groups):
            raise ValueError("a bug")

        batches = batches_of(send)
        found = await asyncio.gather(*(batches.add((q, None)) for q in range(3)), return_exceptions=True)
        assert [str(one) for one in found] == ["a bug"] * 3

    run(scenario())


def test_a_caller_that_is_cancelled_does_not_stop_the_others():
    async def scenario():
        send = Recorder()
        batches = batches_of(send)
        tasks = [asyncio.create_task(batches.add((q, None))) for q in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [False, True, False]
        assert send.batches == [[0, 1, 2]]

    run(scenario())
