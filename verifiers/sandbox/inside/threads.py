"""Threads for a program: started before the lockdown, which forbids starting any, and given to the program one by one.

So the limit is exact at every level and for every user, and no filter has to allow new threads. (The kernel's own limit
counts all threads of a user, and the user may have other processes.) Each thread is used once. The first one has a deep
stack, because most programs that start a thread need it for deep recursion.
"""

from __future__ import annotations

import _thread
import errno
import sys
import threading
from collections.abc import Callable
from typing import Any

DEEP_BYTES, USUAL_BYTES = 128 << 20, 16 << 20
"""Address space of the first thread's stack and of each other one, regardless of the size that the program requests."""

# In addition to each stack: its guard page and what the C library keeps for the thread, rounded up.
_GUARD_BYTES = 1 << 20


class _IdleThread:
    """A thread that waits for its work."""

    def __init__(self) -> None:
        self._wake = _thread.allocate_lock()
        self._wake.acquire(blocking=False)
        self._work: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = None
        self.handle: Any = None  # by which the thread is joined; from Python 3.13 on
        if sys.version_info >= (3, 13):
            self.handle = _thread.start_joinable_thread(self._run)
            self.ident = self.handle.ident
        else:
            self.ident = _thread.start_new_thread(self._run, ())

    def _run(self) -> Any:
        self._wake.acquire()  # deadline: the job's, with which this process is killed
        assert self._work is not None
        function, arguments, named = self._work
        return function(*arguments, **named)

    def assign(self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> int:
        self._work = (function, arguments, named)
        self._wake.release()
        return self.ident


def stack_bytes(count: int) -> int:
    """Address space that ``count`` threads need, on top of what the program may use."""
    return 0 if count == 0 else DEEP_BYTES + (count - 1) * USUAL_BYTES + count * _GUARD_BYTES


def start_idle(count: int) -> None:
    """Start ``count`` threads, and let ``threading`` take from them what it starts from now on. Raises OSError."""
    waiting: list[_IdleThread] = []
    try:
        for size in [DEEP_BYTES, *[USUAL_BYTES] * (count - 1)]:
            _thread.stack_size(size)
            waiting.append(_IdleThread())
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"thread {len(waiting) + 2} of the program: {error}") from error
    _thread.stack_size(0)  # the default, which a program may ask for

    def take() -> _IdleThread:
        if not waiting:
            raise RuntimeError("can't start new thread")
        return waiting.pop(0)

    def start_new_thread(
        function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, /
    ) -> int:
        return take().assign(function, args, kwargs or {})

    for name in ("start_new_thread", "start_new"):
        setattr(_thread, name, start_new_thread)
    if sys.version_info >= (3, 13):
        _patch_joinable(take)
    else:
        threading._start_new_thread = start_new_thread  # type: ignore[attr-defined]


def _patch_joinable(take: Callable[[], _IdleThread]) -> None:
    """Python 3.13 joins threads by a handle from `_thread`, and waits at exit for those that are not daemons.

    An idle thread has its handle already, which replaces the one that its `Thread` object made. It was started as a
    daemon, or the end of the program would wait for idle threads that were never used. So this waits for the others.
    """
    to_join: list[Any] = []

    def start_joinable_thread(function: Callable[[], Any], *, handle: Any = None, daemon: bool = True) -> Any:
        idle = take()
        owner = getattr(function, "__self__", None)
        if isinstance(owner, threading.Thread):
            owner._handle = idle.handle  # type: ignore[attr-defined]
        if not daemon:
            to_join.append(idle.handle)
        idle.assign(function, (), {})
        return idle.handle

    shutdown = threading._thread_shutdown  # type: ignore[attr-defined]

    def join_and_shutdown() -> None:
        while to_join:
            to_join.pop().join()  # deadline: the job's, with which this process is killed
        shutdown()

    for module, name in ((_thread, "start_joinable_thread"), (threading, "_start_joinable_thread")):
        setattr(module, name, start_joinable_thread)
    threading._thread_shutdown = join_and_shutdown  # type: ignore[attr-defined]
