"""Least-loaded scheduling over the actors of one kind, where a request may ask to be alone."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from actors.fleet.units import Changes, Member
from actors.remote_calls import ActorFailure, within


@dataclass(eq=False)
class _Request:
    """One request for a worker.

    alone: tells whether no other request may be in flight on its worker; called at every change. While the request
    is in flight, the answer may change to false, but not to true.
    drains: the worker that must drain before the request can run; None: not chosen yet.
    """

    weight: int
    alone: Callable[[], bool]
    drains: _Worker | None = None


@dataclass(eq=False)
class _Worker:
    """A member of the pool and its requests.

    load, running: weight and number of the requests in flight. alone: the one that started alone, if any.
    draining: requests that wait for this worker to drain. It accepts nothing else until they run, so they cannot
    starve.
    """

    member: Member
    index: int
    load: int = 0
    running: int = 0
    alone: _Request | None = None
    draining: list[_Request] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether it gets new requests."""
        return self.member.serving and not (self.member.leaving or self.member.asleep)

    def accepts(self, request: _Request) -> bool:
        if self.draining and self.draining[0] is not request:
            return False
        return not self.running or not (request.alone() or (self.alone is not None and self.alone.alone()))


class WorkerPool:
    """Gives each request to the serving worker with the least weight in flight.

    The cost of a request does not grow with the number of requests in flight.

    Args:
        kind: for messages, for example "sampler".
        members: all workers that may serve, now or later.
        changes: notifies when a worker starts or stops serving.
        timeout_s: longest wait of a request since any other one ended; covers a restart.
        key: the settings that `timeout_s` comes from, for the message.
    """

    def __init__(
        self, kind: str, members: Sequence[Member], changes: Changes, timeout_s: float, key: str | None = None
    ) -> None:
        self.members = list(members)
        self._kind = kind
        self._timeout_s = timeout_s
        self._key = key
        self._workers = [_Worker(member, index) for index, member in enumerate(self.members)]
        self._of = {worker.member: worker for worker in self._workers}
        self._serving: int | None = None  # not known after a change
        # A heap of (load, index): the current ones of all open workers, and old ones; None: not known after a change.
        self._by_load: list[tuple[int, int]] | None = None
        self._freed = Changes()  # a request that waits may be accepted now
        self._last_end = time.monotonic()
        changes.listen(self._refresh)

    @property
    def serving(self) -> int:
        """Number of workers that serve now."""
        if self._serving is None:
            self._serving = sum(member.serving for member in self.members)
        return self._serving

    def busy(self, member: Member) -> bool:
        """Whether requests are in flight on a worker."""
        return self._of[member].running > 0

    @contextlib.asynccontextmanager
    async def borrow(self, weight: int, alone: Callable[[], bool] = lambda: False) -> AsyncIterator[Member]:
        """A worker for a request of size `weight`, without other requests in flight on it while `alone()` is true.

        Raises:
            ActorFailure: if no worker was free, and no request ended, within the timeout.
        """
        request = _Request(weight, alone)
        worker = await self._acquire(request)
        try:
            yield worker.member
        finally:
            self._end(request, worker)

    async def _acquire(self, request: _Request) -> _Worker:
        began = time.monotonic()
        try:
            while True:
                worker = self._assign(request)
                if worker is not None:
                    return worker
                left = max(began, self._last_end) + self._timeout_s - time.monotonic()
                if left <= 0:
                    raise ActorFailure(f"no {self._kind} was free within {within(self._timeout_s, self._key)}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._freed.wait()
        finally:
            self._stop_draining(request)

    def _assign(self, request: _Request) -> _Worker | None:
        """Start `request` on the least loaded worker that accepts it; if none does, begin to drain one for it."""
        worker = self._least_loaded(request)
        if worker is not None:
            self._stop_draining(request)
            self._start(request, worker)
            return worker
        if not request.alone():
            self._stop_draining(request)
        elif request.drains is None or not request.drains.open:
            self._stop_draining(request)
            workers = (worker for worker in self._workers if worker.open)
            request.drains = min(workers, key=lambda w: (len(w.draining), w.load), default=None)
            if request.drains is not None:
                request.drains.draining.append(request)
        return None

    def _least_loaded(self, request: _Request) -> _Worker | None:
        """The first of the least loaded open workers that accept `request`."""
        if self._by_load is None or len(self._by_load) > 2 * len(self._workers) + 16:
            self._by_load = [(worker.load, worker.index) for worker in self._workers if worker.open]
            heapq.heapify(self._by_load)
        refused: list[tuple[int, int]] = []
        found = None
        while self._by_load and found is None:
            load, index = self._by_load[0]
            worker = self._workers[index]
            current = load == worker.load and worker.open
            if current and worker.accepts(request):
                found = worker
            else:
                heapq.heappop(self._by_load)
                if current:
                    refused.append((load, index))
        for entry in refused:
            heapq.heappush(self._by_load, entry)
        return found

    def _start(self, request: _Request, worker: _Worker) -> None:
        worker.running += 1
        if request.alone():
            worker.alone = request
        self._add_load(worker, request.weight)

    def _end(self, request: _Request, worker: _Worker) -> None:
        worker.running -= 1
        if worker.alone is request:
            worker.alone = None
        self._add_load(worker, -request.weight)
        self._last_end = time.monotonic()
        if not worker.running:  # otherwise it refuses what it refused before
            self._freed.notify()
            if worker.member.leaving or worker.member.asleep:
                worker.member.changes.notify()  # it may move or free its memory now

    def _add_load(self, worker: _Worker, weight: int) -> None:
        worker.load += weight
        if self._by_load is not None:
            heapq.heappush(self._by_load, (worker.load, worker.index))

    def _stop_draining(self, request: _Request) -> None:
        """Let the worker that drains for `request`, if any, accept other requests."""
        if request.drains is not None:
            request.drains.draining.remove(request)
            request.drains = None
            self._freed.notify()

    def _refresh(self) -> None:
        self._serving = self._by_load = None
        self._freed.notify()
