"""Runs calls that may hang on daemon threads, with a deadline.

The process can exit while such a call still runs. asyncio's thread pool cannot do that: ``asyncio.run`` and the
interpreter's exit wait for its threads without limit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def bounded(work: Callable[[], T], *, owner: str, to: str, deadline_s: float) -> T:
    """Run `work` and return its result, or raise its error.

    Args:
        owner: who does the work, for the message.
        to: what the work is, as in "close the dashboards".
        deadline_s: seconds after which the wait ends; the thread keeps running.

    Raises:
        TimeoutError: after `deadline_s`, naming `owner` and `to`.
    """
    future = begin(work, to)
    try:
        return future.result(timeout=deadline_s)
    except TimeoutError:
        if future.done():  # raised by the work itself
            raise
        raise TimeoutError(_overdue(owner, to, deadline_s)) from None


async def in_daemon_thread(work: Callable[[], T], *, owner: str, to: str, deadline_s: float) -> T:
    """Like :func:`bounded`, without blocking the event loop."""
    future = asyncio.wrap_future(begin(work, to))
    try:
        done, _ = await asyncio.wait([future], timeout=deadline_s)
        if not done:
            raise TimeoutError(_overdue(owner, to, deadline_s))
        return future.result()  # deadline: it is done
    finally:
        future.cancel()


def begin(work: Callable[[], T], name: str) -> Future[T]:
    """Run `work` on a daemon thread called `name`; the future cannot be cancelled."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # the waiter cannot cancel running work

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
