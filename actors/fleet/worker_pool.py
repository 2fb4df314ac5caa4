"""Least-loaded scheduling over the actors of one kind, where a request may ask to be alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from actors.fleet.units import Changes, Member
from actors.remote_calls import ActorFailure, within


@dataclass(eq=False)
class _Request:
    """One request for a worker.

    alone: whether no other request may be in flight on its worker; called at every change.
    worker: runs it, or must drain before it can run (None: not chosen yet).
    """

    weight: int
    alone: Callable[[], bool]
    worker: Member | None = None


class WorkerPool:
    """Gives each request to the serving worker with the least weight in flight.

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
        self._changes = changes
        self._timeout_s = timeout_s
        self._key = key
        self._in_flight: defaultdict[Member, list[_Request]] = defaultdict(list)
        # Requests waiting for this worker to drain. It accepts nothing else until they run, so they cannot starve.
        self._draining: defaultdict[Member, list[_Request]] = defaultdict(list)
        self._last_end = time.monotonic()

    @property
    def serving(self) -> int:
        """Number of workers that serve now."""
        return sum(member.serving for member in self.members)

    def busy(self, member: Member) -> bool:
        """Whether requests are in flight on a worker."""
        return bool(self._in_flight[member])

    @contextlib.asynccontextmanager
    async def borrow(self, weight: int, alone: Callable[[], bool] = lambda: False) -> AsyncIterator[Member]:
        """A worker for a request of size `weight`, without other requests in flight on it while `alone()` is true.

        Raises:
            ActorFailure: if no worker was free, and no request ended, within the timeout.
        """
        request = _Request(weight, alone)
        worker = await self._acquire(request)
        try:
            yield worker
        finally:
            self._in_flight[worker].remove(request)
            self._last_end = time.monotonic()
            self._changes.notify()

    async def _acquire(self, request: _Request) -> Member:
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
                        await self._changes.wait()
        finally:
            self._stop_draining(request)

    def _assign(self, request: _Request) -> Member | None:
        """Start `request` on the least loaded worker that accepts it; if none does, begin to drain one for it."""
        serving = [member for member in self.members if member.serving and not member.leaving]
        free = [member for member in serving if self._accepts(member, request)]
        if free:
            self._stop_draining(request)
            request.worker = min(free, key=self._load)
            self._in_flight[request.worker].append(request)
            return request.worker
        if not request.alone():
            self._stop_draining(request)
        elif request.worker not in serving:
            self._stop_draining(request)
            request.worker = min(serving, key=lambda m: (len(self._draining[m]), self._load(m)), default=None)
            if request.worker is not None:
                self._draining[request.worker].append(request)
        return None

    def _accepts(self, member: Member, request: _Request) -> bool:
        running, draining = self._in_flight[member], self._draining[member]
        turn = not draining or draining[0] is request
        return turn and not (running and any(one.alone() for one in [request, *running]))

    def _load(self, member: Member) -> int:
        return sum(request.weight for request in self._in_flight[member])

    def _stop_draining(self, request: _Request) -> None:
        """Let the worker that drains for `request`, if any, accept other requests."""
        if request.worker is not None and request in self._draining[request.worker]:
            self._draining[request.worker].remove(request)
            request.worker = None
            self._changes.notify()
