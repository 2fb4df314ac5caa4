"""Calls that may hang: their deadlines, their errors, and a process that ends without them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from actors.threads import bounded, in_daemon_thread

OWNER = {"owner": "disk", "to": "answer"}
WAYS = [bounded, lambda *a, **k: asyncio.run(in_daemon_thread(*a, **k))]


@pytest.mark.parametrize("wait", WAYS)
def test_results_and_errors_come_through(wait):
    def missing() -> None:
        raise FileNotFoundError("gone")

    def late() -> None:
        raise TimeoutError("its own")

    assert wait(lambda: 7, **OWNER, deadline_s=5) == 7
    with pytest.raises(FileNotFoundError, match="gone"):
        wait(missing, **OWNER, deadline_s=5)
    with pytest.raises(TimeoutError, match="its own"):
        wait(late, **OWNER, deadline_s=5)


@pytest.mark.parametrize("wait", WAYS)
def test_a_hang_ends_with_a_message(wait):
    release = threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"disk did not answer within 0\.1 s"):
        wait(lambda: release.wait(30), **OWNER, deadline_s=0.1)
    assert time.monotonic() - started < 5
    release.set()


def test_a_cancelled_waiter_and_the_end_of_the_process_do_not_wait():
    script = """
import asyncio, time
from actors.threads import in_daemon_thread
async def main():
    work = in_daemon_thread(lambda: time.sleep(600), owner="disk", to="answer", deadline_s=600)
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    print(task.cancelled())
asyncio.run(main())
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("True\n", "")
