"""A pool of fork servers: starts them at a level that the machine can enforce, and replaces those that die."""

from __future__ import annotations

import logging
import queue
import threading
import time
from types import TracebackType
from typing import Any, Self

from verifiers.sandbox.levels import LAYERS, Isolation, Layers, Level, unmet
from verifiers.sandbox.limits import Limits
from verifiers.sandbox.settings import SandboxSettings
from verifiers.sandbox.worker import Outcome, Worker, WorkerDied

logger = logging.getLogger(__name__)

QUEUE_SECONDS = 600.0
"""A job waits at most this long for a free fork server."""

_PROBE_LIMITS = Limits(wall_seconds=10.0)


class SandboxUnavailable(RuntimeError):
    """This machine cannot enforce the configured isolation. The message names the key and the remedy."""


class Executor:
    """A pool of fork servers of one level. Thread-safe; servers start with the first job or with ``start``.

    Args:
        settings: Level, its minimum, users, packages and number of servers.
        layers: Use exactly these layers instead of those of a level (for tests).
        python: Interpreter of the servers; None for the current one.
    """

    def __init__(
        self, settings: SandboxSettings | None = None, *, layers: Layers | None = None, python: str | None = None
    ) -> None:
        self.settings = settings or SandboxSettings()
        self._layers = layers
        self._python = python
        self._lock = threading.Lock()
        self._isolation: Isolation | None = None
        self._closed = False
        self._workers: set[Worker] = set()
        # One entry per server: a running one, or None for one that is still to be started.
        self._free: queue.LifoQueue[Worker | None] = queue.LifoQueue()
        for _ in range(self.settings.servers):
            self._free.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Isolation:
        """Start a server if none runs, and return its measured isolation.

        Raises:
            SandboxUnavailable: The machine cannot enforce ``task.sandbox.minimum_level``.
        """
        with self._lock:
            if self._isolation is None:
                worker, self._isolation = self._strongest()
                logger.info("%s", self._isolation.describe())
                self._workers.add(worker)
                self._free.get_nowait()
                self._free.put(worker)
            return self._isolation

    def describe(self) -> str:
        """One line with the level, its layers and the probes. Starts a server if none runs."""
        return self.start().describe()

    def run(self, job: dict[str, Any], limits: Limits) -> Outcome:
        """Run one job. If its server dies, the server is replaced and the job is tried once more.

        Raises:
            SandboxUnavailable: See ``start``.
            WorkerDied: No server survived the job.
            TimeoutError: All servers were busy for ``QUEUE_SECONDS``.
        """
        self.start()
        for last in (False, True):
            worker = self._take()
            try:
                outcome = worker.run(job, limits)
            except BaseException as error:
                # Whatever interrupted it, the server is in the middle of something: it is not used again.
                self._discard(worker)
                if last or not isinstance(error, WorkerDied):
                    raise
                logger.warning("code sandbox: %s; a new fork server takes over", error)
            else:
                self._free.put(worker)
                return outcome
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End all servers and their children."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.close()
            self._workers.clear()

    def _take(self) -> Worker:
        deadline = time.monotonic() + QUEUE_SECONDS
        try:
            worker = self._free.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(
                f"no fork server was free for {QUEUE_SECONDS:.0f} s; raise task.sandbox.servers or lower "
                "task.sandbox.wall_seconds"
            ) from None
        if worker is not None:
            return worker
        try:
            return self._renew()
        except BaseException:
            self._free.put(None)
            raise

    def _renew(self) -> Worker:
        """A new server with the same layers; its probes must have the same results."""
        assert self._isolation is not None
        if self._closed:
            raise WorkerDied("the executor was closed")
        worker, probes = self._measured(self._isolation.layers)
        broken = [] if self._layers is not None else unmet(self._isolation.level, probes)
        with self._lock:
            if broken or self._closed:
                worker.close()
                raise WorkerDied(f"a new fork server does not enforce level {self._isolation.level}: {broken}")
            self._workers.add(worker)
        return worker

    def _discard(self, worker: Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.close()
        self._free.put(None)

    def _measured(self, layers: Layers) -> tuple[Worker, dict[str, str]]:
        settings = self.settings
        worker = Worker(layers, uid=settings.uid, preload=settings.preload, python=self._python)
        try:
            return worker, worker.probe(_PROBE_LIMITS)
        except BaseException:
            worker.close()
            raise

    def _strongest(self) -> tuple[Worker, Isolation]:
        """A server at the strongest level, up to the one asked for, that the machine really enforces."""
        if self._layers is not None:
            worker, probes = self._measured(self._layers)
            reached = [level for level in Level if not unmet(level, probes)]
            level = reached[-1] if reached else Level.LIMITS
            return worker, Isolation(level, self._layers, worker.uid, probes, worker.absent)
        wanted, minimum = self.settings.level, self.settings.minimum_level
        skipped: list[str] = []
        for level in reversed(Level):
            if not minimum.rank <= level.rank <= wanted.rank:
                continue
            try:
                worker, probes = self._measured(LAYERS[level])
            except WorkerDied as error:
                skipped.append(f"{level} is not possible here ({error})")
                continue
            broken = unmet(level, probes)
            if not broken:
                return worker, Isolation(level, LAYERS[level], worker.uid, probes, worker.absent, tuple(skipped))
            worker.close()
            skipped.append(f"{level} is not enforced here (still allowed: {', '.join(broken)})")
        if wanted.rank < minimum.rank:
            skipped.append(f"task.sandbox.level is {wanted}, which is lower")
        raise SandboxUnavailable(
            f"task.sandbox.minimum_level is {minimum}, and untrusted code is not run below it: {'; '.join(skipped)}. "
            "Run on a kernel that offers these layers, or set task.sandbox.minimum_level (and level) lower if this "
            "machine may be given to the programs"
        )
