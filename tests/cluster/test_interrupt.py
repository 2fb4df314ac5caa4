"""Ctrl-C and SIGTERM both cancel the work of a job, so that it leaves in order."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_cancel_the_work(number: signal.Signals) -> None:
    from cluster.job import _interruptible

    cleaned = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(10)
        finally:
            cleaned.append(True)

    before = signal.getsignal(number)
    try:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(_interruptible(work()))
    finally:
        signal.signal(number, before)
    assert cleaned == [True]
