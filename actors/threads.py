"""Calls that may hang, each on a daemon thread of its own.

The waiter has a deadline, and the process can end without the call. asyncio's own threads cannot be used for that:
``asyncio.run`` waits for them without limit, and so does the interpreter at its end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def bounded(work: Callable[[], T], *, owner: str, to: str, deadline_s: float) -> T:
    """The result of `work`, waited for here; whatever it raises is raised.

    Args:
        owner: who works, for the message.
        to: what it was to do, as in "close the dashboards".
        deadline_s: seconds after which the wait ends, and the call is left behind.

    Raises:
        TimeoutError: after `deadline_s`, naming `owner` and `to`.
    """
    future = _begin(work, to)
    try:
        return future.result(timeout=deadline_s)
    except TimeoutError:
        if future.done():  # the work's own
            raise
        raise TimeoutError(_overdue(owner, to, deadline_s)) from None


async def in_daemon_thread(work: Callable[[], T], *, owner: str, to: str, deadline_s: float) -> T:
    """The result of `work`, while the event loop serves others; the same arguments and errors as :func:`bounded`."""
    future = asyncio.wrap_future(_begin(work, to))
    try:
        done, _ = await asyncio.wait([future], timeout=deadline_s)
        if not done:
            raise TimeoutError(_overdue(owner, to, deadline_s))
        return future.result()  # deadline: it is done
    finally:
        future.cancel()


def _begin(work: Callable[[], T], name: str) -> Future[T]:
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # a waiter that gives up cannot cancel what runs already

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  (the waiter raises it)
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _overdue(owner: str, to: str, deadline_s: float) -> str:
    return f"{owner} did not {to} within {deadline_s:g} s"
