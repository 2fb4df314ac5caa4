"""The replay queue's accounting against its promises: exactly once, bounded staleness, no deadlock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.queue_state import QueueError, QueueState, State, staleness_bound


def make(prompts=2, staleness=1, overtake=0, steps=8):
    return QueueState(prompts_per_step=prompts, staleness=staleness, overtake=overtake, total=steps * prompts)


@settings(max_examples=200, deadline=None)
@given(
    prompts=st.integers(1, 4),
    staleness=st.integers(0, 3),
    overtake=st.integers(0, 3),
    steps=st.integers(1, 8),
    rng=st.randoms(use_true_random=False),
    resume_at=st.integers(0, 8),
)
def test_any_arrival_order_trains_every_position_once_within_the_bound(
    prompts, staleness, overtake, steps, rng, resume_at
):
    """Groups arrive in any order; a run that is stopped and resumed once still trains each position once."""
    trained: list[int] = []
    queue = make(prompts, staleness, overtake, steps)
    under_way: list[int] = []
    while queue.version < steps:
        if queue.version == resume_at:
            resume_at = -1
            restored = make(prompts, staleness, overtake, steps)
            restored.restore(queue.snapshot())
            queue, under_way = restored, []
        under_way += [ticket.sequence for ticket in queue.reserve()]
        assert queue.in_use <= queue.slots
        while (chosen := queue.lease()) is None:
            assert queue.missing(), "a queue that cannot lease must say what it waits for"
            assert queue.commit(under_way.pop(rng.randrange(len(under_way))))
        trained += chosen
        assert queue.ack(queue.version + 1) == chosen
    assert sorted(trained) == list(range(steps * prompts))
    assert queue.observed_staleness <= staleness_bound(staleness, overtake)
    assert queue.in_use == 0


def test_synchronous_queue_trains_what_it_admitted():
    queue = make(prompts=3, staleness=0)
    tickets = queue.reserve()
    assert [t.sequence for t in tickets] == [0, 1, 2] and queue.reserve() == []
    for sequence in (2, 0):
        queue.commit(sequence)
    assert queue.lease() is None and queue.missing() == [1]
    queue.commit(1)
    assert queue.lease() == [0, 1, 2]
    assert queue.reserve() == [], "slots stay taken until the samplers hold the new weights"
    queue.ack(1)
    assert [t.admitted_version for t in queue.reserve()] == [1, 1, 1]
    assert queue.observed_staleness == 0


def test_a_straggler_is_overtaken_only_within_its_window():
    queue = make(prompts=1, staleness=2, overtake=1)
    assert [t.sequence for t in queue.reserve()] == [0, 1, 2]
    queue.commit(1)
    assert queue.lease() == [1]
    queue.ack(1)
    queue.reserve()
    queue.commit(2)
    assert queue.lease() is None and queue.missing() == [0], "position 0 is due: younger groups wait"
    queue.commit(0)
    assert queue.lease() == [0]


def test_a_group_that_arrives_twice_counts_once():
    queue = make(prompts=1, staleness=0)
    queue.reserve()
    assert queue.commit(0) is True
    assert queue.commit(0) is False
    assert queue.count(State.COMMITTED) == 1
    queue.lease()
    queue.ack(1)
    assert queue.commit(0) is False, "a late copy of a trained group is dropped"


def test_misuse_is_an_error_not_a_wrong_count():
    queue = make(prompts=1)
    with pytest.raises(QueueError, match="never reserved"):
        queue.commit(0)
    queue.reserve()
    queue.commit(0)
    queue.lease()
    with pytest.raises(QueueError, match="not acknowledged"):
        queue.lease()
    with pytest.raises(QueueError, match="one step, one version"):
        queue.ack(2)


def test_a_snapshot_of_another_batch_size_is_refused():
    queue = make(prompts=2, staleness=0)
    for ticket in queue.reserve():
        queue.commit(ticket.sequence)
    queue.lease()
    queue.ack(1)
    other = make(prompts=3)
    with pytest.raises(QueueError, match="rollout.prompts_per_step"):
        other.restore(queue.snapshot())
