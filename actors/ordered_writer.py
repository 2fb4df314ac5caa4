"""Small writes on a thread of their own, in the order in which they were added.

A file system or a terminal that is slow or hangs then does not stop the thread that adds them, such as the driver's
event loop, which must answer heartbeats and notice deadlines meanwhile.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

MAX_WAITING = 10_000


class OrderedWriter:
    """One queue and one daemon thread.

    An error of a write is raised by the next `add` or `flush`; the writes after it are dropped, so that a file has no
    gap.

    Args:
        to: what the writes do, as in "write to runs/NAME (see deadlines.checkpoint_s)".
        deadline_s: seconds that one write may take; None: no limit, and what does not fit into the queue is dropped.

    Attributes:
        dropped: number of writes that did not fit into the queue.
    """

    def __init__(self, to: str, deadline_s: float | None = None) -> None:
        self._to = to
        self._deadline_s = deadline_s
        self._waiting: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._added = self._done = self.dropped = 0
        self._since = math.inf  # when the write began that is under way
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def add(self, write: Callable[[], object]) -> None:
        """Add a write; does not wait for it.

        Raises:
            TimeoutError: an earlier write takes longer than the deadline.
            Exception: what an earlier write raised.
        """
        with self._changed:
            self._raise()
            if len(self._waiting) >= MAX_WAITING:
                if self._deadline_s is not None:
                    raise TimeoutError(f"the driver did not {self._to}: {MAX_WAITING} writes wait")
                self.dropped += 1
                return
            self._waiting.append(write)
            self._added += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._to, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to write."""
        with self._changed:
            return self._done == self._added

    def flush(self, timeout_s: float) -> None:
        """Wait until everything that was added so far is written.

        Raises:
            TimeoutError: it was not written within `timeout_s`.
            Exception: what a write raised.
        """
        with self._changed:
            wanted = self._added
            # deadline: timeout_s
            written = self._changed.wait_for(lambda: self._done >= wanted or self._error is not None, timeout_s)
            if self._error is not None:
                raise self._error
            if not written:
                raise self._overdue(timeout_s)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
        if self._deadline_s is not None and time.monotonic() - self._since > self._deadline_s:
            raise self._overdue(self._deadline_s)

    def _overdue(self, seconds: float) -> TimeoutError:
        return TimeoutError(f"the driver did not {self._to} within {seconds:g} s")

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()  # deadline: a daemon thread's, which ends with the process
                write, self._since = self._waiting.popleft(), time.monotonic()
            error = self._error
            if error is None:
                try:
                    write()
                except BaseException as raised:  # noqa: BLE001  (add and flush raise it)
                    error = raised
            with self._changed:
                self._error, self._since = error, math.inf
                self._done += 1
                self._changed.notify_all()
