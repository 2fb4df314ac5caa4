"""Slots, order and exactly-once accounting of the replay queue: a pure state machine, without Ray and without a clock.

**Life cycle of a group.** `reserve` takes a slot and issues the next position of the prompt stream; `commit` records
that the graded group has arrived; `lease` gives P committed groups to the learner for one optimizer step; `ack` records
that the samplers hold the weights trained on those groups, and frees their slots.

**Staleness bound.** With P groups a step, S = staleness, W = overtake and B = (S+1)·P slots: a group at
position q is admitted at a version v ≥ ⌊q/P⌋ - S, because a slot is freed only by `ack`, and is trained at a step
u ≤ ⌊q/P⌋ + W, because the step waits for a group that old (`_due`). So u - v ≤ S + W; with S = 0 it is
0. `lease` asserts it for every group; docs/staleness.md has the derivation; lost actors do not change it.

Slow groups are never dropped, because that would favor short answers: with W = 0 the learner waits for them, with W > 0
up to W steps of younger groups are trained first.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class QueueError(RuntimeError):
    """An operation that the life cycle of a group does not allow: a bug in the caller."""


class State(StrEnum):
    RESERVED = "reserved"
    COMMITTED = "committed"
    LEASED = "leased"


@dataclass(slots=True)
class Entry:
    """One taken slot."""

    sequence: int
    admitted_version: int
    state: State = State.RESERVED


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission to sample one group: its position in the prompt stream, and the version the samplers hold."""

    sequence: int
    admitted_version: int


class QueueState:
    """The replay queue's accounting.

    Args:
        prompts_per_step: P, groups of one optimizer step.
        staleness: S, optimizer steps by which sampling may run ahead.
        overtake: W, optimizer steps by which a younger group may be trained before an older one.
        total: positions to admit (steps · P), so that every sampled group is trained on.
    """

    def __init__(self, *, prompts_per_step: int, staleness: int, overtake: int, total: int) -> None:
        self.prompts_per_step = prompts_per_step
        self.staleness = staleness
        self.overtake = overtake
        self.total = total
        self.version = 0  # of the weights that the samplers hold = finished and acknowledged steps
        self._entries: dict[int, Entry] = {}
        self._counts: Counter[State] = Counter()  # of the entries
        self._reserved: list[int] = []  # a heap of the reserved positions, and of some that were reserved before
        self._low_water = 0  # every position below is trained
        self._trained: set[int] = set()  # trained positions at or above the low-water mark
        self._cursor = 0  # next position to issue
        self.observed_staleness = 0

    @property
    def slots(self) -> int:
        """B = (S+1)·P."""
        return (self.staleness + 1) * self.prompts_per_step

    @property
    def staleness_bound(self) -> int:
        """Most weight versions between a group's admission and its training: S + W (derived above)."""
        return staleness_bound(self.staleness, self.overtake)

    @property
    def in_use(self) -> int:
        return len(self._entries)

    def count(self, state: State) -> int:
        """Number of groups in `state`."""
        return self._counts[state]

    def reserve(self, limit: int | None = None) -> list[Ticket]:
        """Take free slots, at most `limit`, and issue their positions in order."""
        tickets: list[Ticket] = []
        self._cursor = max(self._cursor, self._low_water)  # after a resume it may have to catch up
        while self.in_use < self.slots and self._cursor < self.total and (limit is None or len(tickets) < limit):
            if self._cursor not in self._trained and self._cursor not in self._entries:
                self._add(Entry(self._cursor, self.version))
                tickets.append(Ticket(self._cursor, self.version))
            self._cursor += 1
        return tickets

    def commit(self, sequence: int) -> bool:
        """A graded group has arrived. False if it had arrived before (a group issued twice): the copy is dropped."""
        entry = self._entries.get(sequence)
        if entry is None:
            if sequence < self._low_water or sequence in self._trained:
                return False
            raise QueueError(f"commit: position {sequence} was never reserved")
        if entry.state is not State.RESERVED:
            return False
        self._move(entry, State.COMMITTED)
        return True

    def missing(self) -> list[int]:
        """Positions that the next lease waits for: due groups that have not arrived or, if too few arrived, every
        reserved one."""
        due = [e.sequence for e in self._entries.values() if self._due(e) and e.state is State.RESERVED]
        if due:
            return sorted(due)
        if self.count(State.COMMITTED) >= self.prompts_per_step:
            return []
        return sorted(e.sequence for e in self._entries.values() if e.state is State.RESERVED)

    def lease(self, positions: Sequence[int] | None = None) -> list[int] | None:
        """The P positions of the next optimizer step in order, or None while some are missing.

        Args:
            positions: lease exactly these again, after the queue or its answer was lost.
        """
        if positions is not None:
            return self._lease_again(positions)
        if self.count(State.LEASED):
            raise QueueError("lease: the groups of the last step have not been acknowledged")
        # Asked after every commit: the entries are only scanned when the step is complete.
        if self.count(State.COMMITTED) < self.prompts_per_step or self._waits_for_due():
            return None
        chosen = self.waiting()[: self.prompts_per_step]
        for sequence in chosen:
            self._lease_one(self._entries[sequence])
        return chosen

    def ack(self, version: int) -> list[int]:
        """The samplers hold `version`: the leased groups are trained and their slots are free.

        Idempotent, because the first answer may have been lost.
        """
        done = self.leased()
        if version == self.version and not done:
            return []
        if version != self.version + 1:
            raise QueueError(f"ack: version {version} cannot follow version {self.version}; each step adds one version")
        if len(done) != self.prompts_per_step:
            raise QueueError(f"ack: {len(done)} groups are leased, but a step trains {self.prompts_per_step}")
        for sequence in done:
            del self._entries[sequence]
            self._counts[State.LEASED] -= 1
            self._trained.add(sequence)
        while self._low_water in self._trained:
            self._trained.remove(self._low_water)
            self._low_water += 1
        self.version = version
        return done

    def tickets(self) -> list[Ticket]:
        """Issued positions whose groups have not arrived."""
        waiting = (e for e in self._entries.values() if e.state is State.RESERVED)
        return [Ticket(e.sequence, e.admitted_version) for e in sorted(waiting, key=lambda e: e.sequence)]

    def leased(self) -> list[int]:
        """Positions that the learner trains on now."""
        return sorted(e.sequence for e in self._entries.values() if e.state is State.LEASED)

    def waiting(self) -> list[int]:
        """Positions whose groups have arrived and are not leased."""
        return sorted(e.sequence for e in self._entries.values() if e.state is State.COMMITTED)

    def snapshot(self) -> dict[str, Any]:
        """The accounting, as plain JSON types."""
        return {
            "version": self.version,
            "low_water": self._low_water,
            "trained": sorted(self._trained),
            "cursor": self._cursor,
            "observed_staleness": self.observed_staleness,
            "entries": [[e.sequence, e.admitted_version] for e in self._entries.values()],
        }

    def resume(self, snapshot: dict[str, Any], held: Collection[int]) -> None:
        """Continue from a checkpoint's snapshot in a new run.

        Groups in `held` wait again. The other taken slots become free, and their positions are issued again first, to
        be sampled with the current weights.
        """
        self._read(snapshot)
        for sequence, admitted_version in snapshot["entries"]:
            if sequence in held:
                self._add(Entry(sequence, admitted_version, State.COMMITTED))
        self._cursor = self._low_water  # reserve() skips trained and taken positions

    def recover(self, snapshot: dict[str, Any]) -> None:
        """Replace a lost queue in a live run: every slot stays taken, and its group is expected (again)."""
        self._read(snapshot)
        for sequence, admitted_version in snapshot["entries"]:
            self._add(Entry(sequence, admitted_version))
        self._cursor = int(snapshot["cursor"])

    def _read(self, snapshot: dict[str, Any]) -> None:
        if self._entries or self._cursor:
            raise QueueError("a snapshot can only be read into a queue that has not been used yet")
        self.version = int(snapshot["version"])
        self._low_water = int(snapshot["low_water"])
        self._trained = {int(q) for q in snapshot["trained"]}
        self.observed_staleness = int(snapshot["observed_staleness"])
        if self._low_water + len(self._trained) != self.version * self.prompts_per_step:
            raise QueueError(
                f"snapshot of version {self.version} counts {self._low_water + len(self._trained)} trained groups, "
                f"not {self.version * self.prompts_per_step}: rollout.prompts_per_step differs from the run's"
            )

    def _lease_again(self, positions: Sequence[int]) -> list[int]:
        entries = [self._entries.get(sequence) for sequence in positions]
        states = {entry.state if entry else None for entry in entries}
        if len(positions) != self.prompts_per_step or states not in ({State.COMMITTED}, {State.LEASED}):
            raise QueueError(f"positions {list(positions)} cannot be leased again: they are {sorted(map(str, states))}")
        for entry in entries:
            if entry is not None and entry.state is State.COMMITTED:
                self._lease_one(entry)
        return list(positions)

    def _due(self, entry: Entry) -> bool:
        return entry.sequence // self.prompts_per_step + self.overtake <= self.version

    def _lease_one(self, entry: Entry) -> None:
        lag = self.version - entry.admitted_version
        if lag > self.staleness_bound:
            raise QueueError(f"position {entry.sequence} is {lag} versions stale; the bound is {self.staleness_bound}")
        self.observed_staleness = max(self.observed_staleness, lag)
        self._move(entry, State.LEASED)

    def _add(self, entry: Entry) -> None:
        self._entries[entry.sequence] = entry
        self._counts[entry.state] += 1
        if entry.state is State.RESERVED:
            heapq.heappush(self._reserved, entry.sequence)

    def _move(self, entry: Entry, state: State) -> None:
        self._counts[entry.state] -= 1
        self._counts[state] += 1
        entry.state = state

    def _waits_for_due(self) -> bool:
        """Whether a due group has not arrived: the oldest reserved one is due if any is."""
        while self._reserved:
            entry = self._entries.get(self._reserved[0])
            if entry is not None and entry.state is State.RESERVED:
                return self._due(entry)
            heapq.heappop(self._reserved)
        return False


def waiting_problem(
    snapshot: Mapping[str, Any], held: Collection[int], *, prompts_per_step: int, staleness: int, overtake: int
) -> str | None:
    """Why a queue with these settings cannot keep its bound for groups that wait in a snapshot; None if it can.

    Args:
        snapshot: of :meth:`QueueState.snapshot`.
        held: the positions of the groups that wait.
    """
    bound = staleness_bound(staleness, overtake)
    for sequence, admitted_version in snapshot["entries"]:
        trained_at = max(snapshot["version"], sequence // prompts_per_step + bound - staleness)  # at the latest
        if sequence in held and trained_at - admitted_version > bound:
            return (
                f"queue.staleness = {staleness} and queue.overtake = {overtake} allow groups that are {bound} steps "
                f"old, but one that waits in the checkpoint may be trained {trained_at - admitted_version} steps after "
                "it was admitted; leave both as the run had them, or raise them"
            )
    return None


def staleness_bound(staleness: int, overtake: int) -> int:
    """S + W, in optimizer steps; 0 when S = 0, because then a step trains exactly the groups it admitted."""
    return staleness + overtake if staleness else 0
