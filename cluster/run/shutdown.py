"""Orderly shutdown: SIGINT or SIGTERM stops a run after its current step, with a checkpoint, within half a minute.

Ray's job stop and pre-empted nodes send SIGTERM and wait about thirty seconds. So the first signal cancels waits (for
groups, for an evaluation), lets a running optimizer step finish, and saves. A second signal, or the end of the half
minute, ends the process at once, even if something hangs; the run can then be resumed from its last checkpoint.

A separate thread receives the signals, because Python runs signal handlers on the main thread, which may be inside a
call that never returns. After the first signal this thread guarantees the exit; it cannot be cancelled. While it prints
the last message, a second thread guarantees the exit. Both threads start early, because from Python 3.12 on no thread
can be started once the interpreter is ending.

While Ray starts there is nothing to save. The first signal then raises SystemExit on the main thread, and if that is
inside a call that does not return, the process ends a few seconds later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from cluster.exit_status import INTERRUPTED

logger = logging.getLogger(__name__)

T = TypeVar("T")

STOP_SECONDS = 18.0  # for the running step and a checkpoint
EXIT_SECONDS = 27.0  # until the process exits; the rest of the half minute is for the message and child processes
START_SECONDS = 5.0  # for Ray's start to end after a signal
MESSAGE_SECONDS = 2.0  # to make and print the message: the disk or the terminal may be what hangs
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ShutdownRequested(Exception):
    """A signal asked the run to stop; raised where its state is consistent."""


class Shutdown:
    """Whether a signal asked the run to stop, and waits that end at such a signal.

    Args:
        advice: how to continue; printed when the process exits at once.
        end: ends the process with an exit status and without cleanup; processes of a local cluster end with it.
    """

    def __init__(self, advice: Callable[[], str] = str, end: Callable[[int], Any] = os._exit) -> None:
        self._advice = advice
        self._end = end
        self._requested = asyncio.Event()
        self._asked_thread = threading.Event()  # the same, for threads
        self._notify: Callable[[], object] | None = None  # passes the signal on to the running work
        self._exiting = threading.Event()  # the last message is about to be printed
        self._printed = threading.Event()  # ... and was
        self._starting = False  # nothing is to be saved, and only the main thread can end what it does
        self._lock = threading.Lock()
        self._sockets: tuple[socket.socket, socket.socket] | None = None

    @property
    def requested(self) -> bool:
        return self._asked_thread.is_set()

    def listen(self) -> None:
        """Take over SIGINT and SIGTERM; on the main thread, and again after a library has installed handlers."""
        if self._sockets is None:
            self._sockets = ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            threading.Thread(target=self._handle_signals, args=(ours,), name="signals", daemon=True).start()
            threading.Thread(target=self._bound_message, name="last message", daemon=True).start()
        signal.set_wakeup_fd(self._sockets[1].fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, _exit if self._starting else _do_nothing)

    @contextlib.contextmanager
    def ending_start(self) -> Iterator[None]:
        """Listen, and end the body, which runs on the main thread, at the first signal.

        Raises:
            SystemExit: there was a signal. Ray's own handler of SIGTERM raises it too.
        """
        self._starting = True
        try:
            self.listen()
            yield
        finally:
            self._starting = False
            self.listen()  # again, because Ray has installed signal handlers

    def check(self) -> None:
        """Raise :class:`ShutdownRequested` if a signal asked the run to stop."""
        if self.requested:
            raise ShutdownRequested

    async def unless_requested(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; cancel it when a signal asks the run to stop.

        Raises:
            ShutdownRequested: the work was cancelled.
        """
        # deadline: the work has its own, and ends this wait too
        task, requested = asyncio.ensure_future(work), asyncio.ensure_future(self._requested.wait())
        try:
            # deadline: as above
            await asyncio.wait([task, requested], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ShutdownRequested
            return task.result()
        finally:
            task.cancel()
            requested.cancel()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; from now on :meth:`unless_requested` and :meth:`check` react to signals.

        Raises:
            CancelledError: the work did not stop within STOP_SECONDS after a signal.
        """
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()

        def stop() -> None:
            logger.info("asked to stop by a signal")
            self._requested.set()
            loop.call_later(STOP_SECONDS, task.cancel)

        with self._lock:
            self._notify = lambda: loop.call_soon_threadsafe(stop)
            if self.requested:
                self._notify()
        try:
            return await task
        finally:
            with self._lock:
                self._notify = None

    def _handle_signals(self, ours: socket.socket) -> None:
        """The thread: passes the first signal on; ends the process at the second one or when it takes too long."""
        _next_signal(ours)
        with self._lock:
            self._asked_thread.set()
            if self._notify is not None:
                self._notify()
        why = self._why_now(ours)
        self._exiting.set()
        with contextlib.suppress(Exception):  # failing to print the message must not delay the exit
            os.write(2, f"{why}\n{self._advice()}\n".encode())
        self._printed.set()
        self._end(INTERRUPTED)

    def _why_now(self, ours: socket.socket) -> str:
        """Wait for the second signal, or until the process must end without it; why it ends."""
        seconds = EXIT_SECONDS
        if self._starting:
            if _signalled_within(START_SECONDS, ours):
                return "ended immediately after the second signal"
            if self._starting:
                return f"ended immediately, because the start of Ray did not stop within {START_SECONDS:g} s"
            seconds = EXIT_SECONDS - START_SECONDS  # the start ended, but not the process
        if _signalled_within(seconds, ours):
            return "ended immediately after the second signal"
        return f"ended immediately, because the run did not stop within {EXIT_SECONDS:g} s"

    def _bound_message(self) -> None:
        """The second thread: ends the process if the last message is not printed in time."""
        self._exiting.wait()  # deadline: a daemon thread's, which ends with the process
        if not self._printed.wait(MESSAGE_SECONDS):
            self._end(INTERRUPTED)


def _next_signal(ours: socket.socket) -> None:
    """Wait for one of SIGNALS; Python reports every signal it handles on this socket."""
    while ours.recv(1)[0] not in SIGNALS:  # deadline: a daemon thread's, which ends with the process
        pass


def _signalled_within(seconds: float, ours: socket.socket) -> bool:
    ours.settimeout(seconds)
    try:
        _next_signal(ours)
    except TimeoutError:
        return False
    return True


def _exit(*_: object) -> None:
    """The signal handler while Ray starts."""
    raise SystemExit(INTERRUPTED)


def _do_nothing(*_: object) -> None:
    """The signal handler: Python writes to the socket only for signals that have one."""
