"""Orderly shutdown: SIGINT or SIGTERM ends a run at its next step, with a checkpoint, within half a minute.

Ray's job stop and a node that is pre-empted send SIGTERM and wait some thirty seconds. So the first signal abandons
whatever only waits (for groups, for an evaluation), lets a running optimiser step end, and saves. A second signal, or
the end of the half minute, ends the process at once, whatever hangs; then the run goes on from its last checkpoint.

The signals are heard by a thread of their own, because Python runs its handlers on the main thread, which may be inside
a call that never returns. From the first signal on that thread has the last say: nothing takes it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from actors.threads import bounded
from cluster.exit_status import INTERRUPTED

LEAVE_SECONDS = 18.0  # for the running step and a checkpoint
LAST_SECONDS = 27.0  # for all of it; the rest of the half minute is for the last words and the end of the processes
LAST_WORDS_SECONDS = 2.0  # to find and to write them: the disk or the terminal may be what hangs
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ShutdownRequested(Exception):
    """The run was asked to leave; raised where it can stop with consistent state."""


class Shutdown:
    """Whether the run was asked to leave, and waits that end when it is.

    Args:
        last_words: what a run that is ended at once tells its user: how to go on.
        end: ends the process with an exit status, with nothing waited for; processes of a local cluster end with it.
    """

    def __init__(self, last_words: Callable[[], str] = str, end: Callable[[int], Any] = os._exit) -> None:
        self._last_words = last_words
        self._end = end
        self._asked = asyncio.Event()
        self._heard = threading.Event()  # the same, for threads
        self._tell: Callable[[], object] | None = None  # how the running work learns of it
        self._lock = threading.Lock()
        self._sockets: tuple[socket.socket, socket.socket] | None = None

    @property
    def asked(self) -> bool:
        return self._heard.is_set()

    def listen(self) -> None:
        """Take SIGINT and SIGTERM over, from the main thread; again after a library has put handlers of its own."""
        if self._sockets is None:
            self._sockets = ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            threading.Thread(target=self._hear, args=(ours,), name="signals", daemon=True).start()
        signal.set_wakeup_fd(self._sockets[1].fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, _nothing)

    def check(self) -> None:
        """Raise :class:`ShutdownRequested` if the run was asked to leave."""
        if self.asked:
            raise ShutdownRequested

    async def unless_asked(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await `work`; abandon it when the run is asked to leave.

        Raises:
            ShutdownRequested: the work was abandoned.
        """
        # deadline: the work has its own, and ends this wait too
        task, asked = asyncio.ensure_future(work), asyncio.ensure_future(self._asked.wait())
        try:
            # deadline: as above
            await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ShutdownRequested
            return task.result()
        finally:
            task.cancel()
            asked.cancel()

    async def carry(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await `work`, which is told when a signal comes.

        Raises:
            CancelledError: when leaving took longer than LEAVE_SECONDS.
        """
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def leave() -> None:
            self._asked.set()
            loop.call_later(LEAVE_SECONDS, task.cancel)

        with self._lock:
            self._tell = lambda: loop.call_soon_threadsafe(leave)
            if self.asked:
                self._tell()
        try:
            return await task
        finally:
            with self._lock:
                self._tell = None

    def _hear(self, ours: socket.socket) -> None:
        """The thread of the signals: the first is told, the second or the end of time ends the process."""
        _next_signal(ours)
        with self._lock:
            self._heard.set()
            if self._tell is not None:
                self._tell()
        ours.settimeout(LAST_SECONDS)
        why = "ended at once, at the second signal"
        try:
            _next_signal(ours)
        except TimeoutError:
            why = f"ended at once: something did not stop within {LAST_SECONDS:g} s"
        # Nothing may keep the process now, words that cannot be found or told least of all.
        with contextlib.suppress(Exception):
            bounded(
                lambda: os.write(2, f"{why}\n{self._last_words()}\n".encode()),
                owner="terminal",
                to="print the last message",
                deadline_s=LAST_WORDS_SECONDS,
            )
        self._end(INTERRUPTED)


def _next_signal(ours: socket.socket) -> None:
    """Wait for one of SIGNALS; other signals that Python handles are told on the same way."""
    while ours.recv(1)[0] not in SIGNALS:  # deadline: a daemon thread's, which ends with the process
        pass


def _nothing(*_: object) -> None:
    """The handlers of the signals: having one makes Python tell the listening thread."""
