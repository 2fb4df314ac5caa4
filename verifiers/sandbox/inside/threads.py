"""Threads for a program: started before the seal, which lets none be started, and given to the program one by one.

So their number is exact at every level, for every user, and no filter needs to let a thread be made. The kernel could
count processes and threads only per user, who may own much else. Each serves once; its stack is deep, because a
deeper stack is what most programs want a thread for.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Any

STACK_BYTES = 128 << 20
"""Address space of each thread's stack, given on top of the memory limit. Pages count once they are used."""

GUARD_BYTES = 1 << 20
"""Address space beside each stack: its guard page and what the C library keeps for the thread, rounded up."""


class _Parked:
    """A thread that waits for its work."""

    def __init__(self) -> None:
        self._wake = _thread.allocate_lock()
        self._wake.acquire()
        self._work: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] | None = None
        self.ident = _thread.start_new_thread(self._run, ())

    def _run(self) -> Any:
        self._wake.acquire()  # deadline: the job's, with which this process is killed
        assert self._work is not None
        function, arguments, named = self._work
        return function(*arguments, **named)

    def give(self, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> int:
        self._work = (function, arguments, named)
        self._wake.release()
        return self.ident


def park(count: int) -> None:
    """Start ``count`` threads, and let ``threading`` take from them what it starts from now on."""
    usual = _thread.stack_size(STACK_BYTES)
    waiting = [_Parked() for _ in range(count)]
    _thread.stack_size(usual)

    def start_new_thread(
        function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, /
    ) -> int:
        if not waiting:
            raise RuntimeError("can't start new thread")
        return waiting.pop().give(function, args, kwargs or {})

    for module, name in ((_thread, "start_new_thread"), (_thread, "start_new"), (threading, "_start_new_thread")):
        setattr(module, name, start_new_thread)
