"""Signals end a job gracefully if possible, and always within a deadline."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIMIT_S = 1.5  # instead of half a minute

PRELUDE = f"""
import asyncio, os, signal, threading, time
from cluster.run import shutdown
from cluster.run.shutdown import Shutdown, ShutdownRequested
shutdown.STOP_SECONDS, shutdown.EXIT_SECONDS, shutdown.MESSAGE_SECONDS = 0.5, {LIMIT_S}, 0.5
shutdown.START_SECONDS = 1.0

def run(work, advice=lambda: "continue with: bonrl train --resume RUN"):
    leave = Shutdown(advice)
    leave.listen()
    try:
        asyncio.run(leave.run(work(leave)))
    except ShutdownRequested:
        print("stopped in order", flush=True)
    except asyncio.CancelledError:
        print("too slow", flush=True)
"""


def end_of(script: str, number: str) -> tuple[int, str, str, float]:
    """Run a script that signals itself: exit status, both outputs, seconds."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", f"{PRELUDE}\nNUMBER = signal.{number}\n{script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr, time.monotonic() - started


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_lets_a_step_finish_and_cancels_waits(number: str) -> None:
    status, output, errors, _ = end_of(
        """
async def step(leave):
    os.kill(os.getpid(), NUMBER)
    await asyncio.sleep(0.2)
    print("step", flush=True)
    leave.check()

async def waits(leave):
    os.kill(os.getpid(), NUMBER)
    await leave.unless_requested(asyncio.sleep(60))

run(step)
run(waits)
""",
        number,
    )
    assert (status, output, errors) == (0, "step\nstopped in order\nstopped in order\n", "")


def test_a_signal_before_the_work_begins_is_not_lost() -> None:
    status, output, *_ = end_of(
        """
leave = Shutdown()
leave.listen()
signal.signal(NUMBER, lambda *_: None)  # a library's handler
leave.listen()
os.kill(os.getpid(), NUMBER)
while not leave.requested:
    time.sleep(0.01)
async def work():
    await leave.unless_requested(asyncio.sleep(60))
try:
    asyncio.run(leave.run(work()))
except ShutdownRequested:
    print("stopped in order", flush=True)
""",
        "SIGTERM",
    )
    assert (status, output) == (0, "stopped in order\n")


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_start_at_once(number: str) -> None:
    """`ray.init` may take minutes on a busy machine, and there is nothing to save."""
    status, output, errors, took = end_of(
        """
shutdown.EXIT_SECONDS = 600
leave = Shutdown()
try:
    with leave.ending_start():
        threading.Timer(0.1, os.kill, (os.getpid(), NUMBER)).start()
        time.sleep(600)
except SystemExit:
    print("stopped", flush=True)
time.sleep(shutdown.START_SECONDS + 0.5)  # no later exit
print("concluded", flush=True)
""",
        number,
    )
    assert (status, output, errors) == (0, "stopped\nconcluded\n", "")
    assert took < 20


def test_a_start_that_is_inside_a_call_ends_soon() -> None:
    """The signal reaches another thread, so the call on the main thread does not return."""
    status, output, errors, took = end_of(
        """
import ctypes
shutdown.EXIT_SECONDS = 600
with Shutdown(lambda: "nothing was started").ending_start():
    signal.pthread_sigmask(signal.SIG_BLOCK, {NUMBER})
    sleep = ctypes.CDLL(None).sleep
    threading.Timer(0.5, os.kill, (os.getpid(), NUMBER)).start()  # when the call has begun
    sleep(600)
""",
        "SIGINT",
    )
    assert status == 130
    assert errors == "ended immediately, because the start of Ray did not stop within 1 s\nnothing was started\n"
    assert took < 20


def test_a_step_that_takes_too_long_is_cancelled() -> None:
    status, output, *_ = end_of(
        """
async def slow(leave):
    os.kill(os.getpid(), NUMBER)
    await asyncio.sleep(60)
run(slow)
""",
        "SIGTERM",
    )
    assert (status, output) == (0, "too slow\n")


HANGS = {
    "a wait that ignores cancellation": """
async def work(leave):
    os.kill(os.getpid(), NUMBER)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
run(work)
""",
    "the event loop": """
async def work(leave):
    os.kill(os.getpid(), NUMBER)
    time.sleep(600)
run(work)
""",
    "a thread of asyncio": """
async def work(leave):
    os.kill(os.getpid(), NUMBER)
    await asyncio.to_thread(time.sleep, 600)
run(work)
""",
    "the end of the interpreter": """
async def work(leave):
    threading.Thread(target=time.sleep, args=(600,)).start()
    os.kill(os.getpid(), NUMBER)
    await asyncio.sleep(0.1)
    leave.check()
run(work)
""",
    "before the work": """
leave = Shutdown(lambda: "continue with: bonrl train --resume RUN")
leave.listen()
os.kill(os.getpid(), NUMBER)
threading.Event().wait()
""",
}


@pytest.mark.parametrize("hang", HANGS)
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.slow
def test_a_process_that_hangs_ends_in_time_and_says_how_to_continue(hang: str, number: str) -> None:
    status, _, errors, took = end_of(HANGS[hang], number)
    assert status == 130
    assert errors == (
        f"ended immediately, because the run did not stop within {LIMIT_S} s\ncontinue with: bonrl train --resume RUN\n"
    )
    assert LIMIT_S < took < LIMIT_S + 10


@pytest.mark.parametrize("hang", HANGS)
def test_a_second_signal_exits_at_once(hang: str) -> None:
    second = (
        "threading.Timer(0.3, os.kill, (os.getpid(), NUMBER)).start()\nshutdown.EXIT_SECONDS = 600\n"
        "shutdown.STOP_SECONDS = 600\n"
    )
    status, _, errors, took = end_of(second + HANGS[hang], "SIGTERM")
    assert status == 130
    assert errors.startswith("ended immediately after the second signal\ncontinue with:"), errors
    assert took < 20


@pytest.mark.slow
def test_a_message_that_hangs_or_fails_does_not_delay_the_exit() -> None:
    for advice in ("time.sleep(600)", "1 / 0"):
        script = HANGS["the event loop"].replace("run(work)", f"run(work, lambda: {advice})")
        status, _, _, took = end_of(script, "SIGTERM")
        assert status == 130 and took < LIMIT_S + 10
