"""Guarantees of the replay queue: every position exactly once, bounded staleness, no deadlock."""

import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.queue.state import QueueError, QueueState, State, waiting_problem
from tests.actors.executed_lines import executed_lines


def make(prompts=2, staleness=1, overtake=0, steps=8):
    return QueueState(prompts_per_step=prompts, staleness=staleness, overtake=overtake, total=steps * prompts)


class QueueUnderFaults(RuleBasedStateMachine):
    """The queue under faults: groups arrive in any order, answers get lost, the queue dies, the whole run dies.

    The test plays the driver, which remembers what the real one does (QueueClient): the groups that it has
    until they are acknowledged, and what the learner trains on. `contributed` is what made the weights: a resume
    takes back what came after the checkpoint.
    """

    @initialize(
        prompts=st.integers(1, 3), staleness=st.integers(0, 4), overtake=st.integers(0, 2), steps=st.integers(1, 6)
    )
    def begin(self, prompts, staleness, overtake, steps):
        self.shape = dict(prompts=prompts, staleness=staleness, overtake=overtake, steps=steps)
        self.total = prompts * steps
        self.queue = make(**self.shape)
        self.under_way: set[int] = set()
        self.graded: set[int] = set()
        self.leased: list[int] = []
        self.contributed: list[int] = []
        self.journal = self.queue.snapshot()
        self.checkpoint = (self.queue.snapshot(), set(), [])

    @rule(answer_arrives=st.booleans())
    def reserve(self, answer_arrives):
        tickets = self.queue.reserve()
        self.journal = self.queue.snapshot()
        assert self.queue.in_use <= self.queue.slots
        if answer_arrives:
            self.under_way |= {ticket.sequence for ticket in tickets}
        else:
            self.die()

    @precondition(lambda self: self.under_way - self.graded)
    @rule(data=st.data())
    def arrive(self, data):
        sequence = data.draw(st.sampled_from(sorted(self.under_way - self.graded)))
        self.graded.add(sequence)
        assert self.queue.commit(sequence)
        assert not self.queue.commit(sequence), "a copy is dropped"

    @precondition(lambda self: not self.leased)
    @rule()
    def lease(self):
        chosen = self.queue.lease()
        if chosen is None:
            waits = self.queue.missing()
            assert waits or self.queue.in_use < self.queue.slots or len(self.contributed) == self.total
        else:
            self.leased = chosen

    @precondition(lambda self: self.leased)
    @rule(answer_arrives=st.booleans())
    def acknowledge(self, answer_arrives):
        version = self.queue.version + 1
        assert self.queue.ack(version) == self.leased
        self.journal = self.queue.snapshot()
        if not answer_arrives:
            self.die()
            assert self.queue.ack(version) == []
        self.contributed += self.leased
        self.graded -= set(self.leased)
        self.under_way -= set(self.leased)
        self.leased = []

    @precondition(lambda self: not self.leased)
    @rule()
    def save(self):
        self.checkpoint = (self.queue.snapshot(), set(self.queue.waiting()), list(self.contributed))

    @rule()
    def die(self):
        """The queue dies; its successor reads the journal, the driver commits and leases again."""
        self.queue = make(**self.shape)
        self.queue.recover(self.journal)
        trained = [q for q in self.graded if not self.queue.commit(q)]
        if self.leased and not set(self.leased) <= set(trained):
            assert self.queue.lease(self.leased) == self.leased
            assert self.queue.lease(self.leased) == self.leased, "the answer to the first may be lost"
        self.under_way |= {ticket.sequence for ticket in self.queue.tickets()}

    @rule()
    def resume(self):
        """Everything dies; a new run resumes from the checkpoint."""
        snapshot, held, contributed = self.checkpoint
        self.queue = make(**self.shape)
        self.queue.resume(snapshot, held)
        self.contributed = list(contributed)
        self.under_way, self.graded, self.leased = set(held), set(held), []
        self.journal = self.queue.snapshot()

    @invariant()
    def guarantees_hold(self):
        if not hasattr(self, "queue"):
            return
        assert len(set(self.contributed)) == len(self.contributed), "trained twice"
        assert self.queue.observed_staleness <= self.queue.staleness_bound
        assert self.queue.in_use <= self.queue.slots

    @invariant()
    def indexes_agree(self):
        """The queue's counters and sorted lists equal those of a scan of its slots."""
        if not hasattr(self, "queue"):
            return
        entries = list(self.queue._entries.values())
        for state in State:
            assert self.queue.count(state) == sum(entry.state is state for entry in entries)
        late = [e for e in entries if self.queue._due(e) and e.state is State.RESERVED]
        twin = copy.copy(self.queue)
        twin._reserved = list(twin._reserved)  # the check removes entries
        assert twin._waits_for_due() == bool(late)
        assert {e.sequence for e in entries if e.state is State.RESERVED} <= set(self.queue._reserved)

    def teardown(self):
        """From any state, a run without further faults ends with every position trained once."""
        if not hasattr(self, "queue"):
            return
        while len(self.contributed) < self.total:
            self.reserve(True)
            for sequence in sorted(self.under_way - self.graded):
                self.graded.add(sequence)
                self.queue.commit(sequence)
            if not self.leased:
                self.leased = self.queue.lease()
                assert self.leased, self.queue.missing()
            self.acknowledge(True)
        assert sorted(self.contributed) == list(range(self.total))


TestQueueUnderFaults = QueueUnderFaults.TestCase
TestQueueUnderFaults.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


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
    with pytest.raises(QueueError, match="not been acknowledged"):
        queue.lease()
    with pytest.raises(QueueError, match="each step adds one version"):
        queue.ack(2)


def test_a_snapshot_of_another_batch_size_is_refused():
    queue = make(prompts=2, staleness=0)
    for ticket in queue.reserve():
        queue.commit(ticket.sequence)
    queue.lease()
    queue.ack(1)
    other = make(prompts=3)
    with pytest.raises(QueueError, match="rollout.prompts_per_step"):
        other.resume(queue.snapshot(), held=())


def test_the_form_of_a_snapshot():
    """Journals and checkpoints of earlier versions hold it."""
    queue = make(prompts=1, staleness=2, overtake=1, steps=4)
    queue.reserve()
    for sequence in (1, 0):
        queue.commit(sequence)
    queue.lease()
    queue.ack(1)
    queue.reserve()
    assert queue.snapshot() == {
        "version": 1,
        "low_water": 1,
        "trained": [],
        "cursor": 4,
        "observed_staleness": 0,
        "entries": [[1, 0], [2, 0], [3, 1]],
    }


@pytest.mark.parametrize("overtake", [0, 1])
def test_a_group_costs_the_same_at_any_number_of_slots(overtake):
    """Each arrival asks for the next step, also while the oldest group is late and all others have arrived."""

    def cost(slots):
        queue = make(prompts=slots // 4, staleness=3, overtake=overtake, steps=6)
        with executed_lines() as count:
            while queue.version < 6:
                for ticket in reversed(queue.reserve()):
                    assert queue.commit(ticket.sequence)
                    while queue.lease() is not None:
                        queue.ack(queue.version + 1)
        return count() / queue.total

    few, many = cost(100), cost(10_000)
    assert many < 1.2 * few, (few, many)


@pytest.mark.parametrize(("staleness", "overtake"), [(0, 0), (1, 0), (1, 1), (2, 0), (2, 2)])
@pytest.mark.parametrize("former_overtake", [0, 1])
def test_a_resume_with_other_bounds_is_refused_if_it_could_break_them(staleness, overtake, former_overtake):
    before = make(staleness=2, overtake=former_overtake)
    for ticket in before.reserve():
        before.commit(ticket.sequence)
    before.lease()
    before.ack(1)
    held, saved = before.waiting(), before.snapshot()
    shape = dict(prompts_per_step=2, staleness=staleness, overtake=overtake)
    problem = waiting_problem(saved, held, **shape)
    after = QueueState(**shape, total=16)
    after.resume(saved, held)
    try:
        while after.version < 8:
            for ticket in after.reserve():
                after.commit(ticket.sequence)
            after.lease()
            after.ack(after.version + 1)
    except QueueError as error:
        assert problem is not None and "stale" in str(error)
    else:  # here no group is overtaken
        assert problem is None or overtake
    assert waiting_problem(saved, held, prompts_per_step=2, staleness=2, overtake=former_overtake) is None
