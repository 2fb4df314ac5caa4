"""The process that decides: it runs the tests, and asks the candidate for values over a bounded, typed channel.

The program is known here by a proxy. A call sends the arguments and receives a value of built-in types; every
comparison happens on this side. The judge is isolated like the candidate, because tests come from files too, and it
is killed with it when the time is up, because a test may loop endlessly over a value of the program.

Reports go to the client as frames of JSON: ``started`` (the candidate is isolated and loads the program),
``engaged`` (the program was asked something), ``ended`` (it ended by itself), and the last one with ``status``.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import socket
import traceback
from typing import Any

from . import candidate, candidate_exceptions, codec, frames, stdio
from .channel import CLIENT, Channel, ChannelLost, Function, report

JOB_LIMIT = 256 << 20
DONE, CANDIDATE_ENDED, REPLACE_ME = b"d", b"c", b"r"
"""Messages to the server after a job. The second one: the candidate closed its channel, so find out how it ended."""

_DETAIL = 500


def _where(error: BaseException, source: str) -> str:
    """The line of the tests at which ``error`` was raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<tests>"]
    text = source.splitlines()
    if not lines or not lines[-1] or lines[-1] > len(text):
        return ""
    return f"line {lines[-1]} of the tests: {text[lines[-1] - 1].strip()}"


def serve() -> None:
    """Judge one job after another. Each arrives as a message with the descriptors that it needs."""
    # The feed gets a number that no descriptor of a job will have.
    number = os.dup2(candidate.CHANNEL, stdio.STDOUT + 1)
    # With all three given, Python does not ask the kernel for them, which the seal would refuse.
    feed = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=number)
    while True:
        limit, descriptors, _, _ = socket.recv_fds(feed, 64, 4)
        if not limit:
            return
        # Above all targets first, since one may have the number of another target.
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 32) for descriptor in descriptors]
        os.closerange(candidate.CHANNEL, stdio.STDOUT + 1)
        for number, descriptor in enumerate(high):
            os.dup2(descriptor, candidate.CHANNEL + number)
        os.closerange(stdio.STDOUT + 2, 64)
        try:
            word = run(int(limit))
        except Exception as error:  # noqa: BLE001  (said to the client, who calls it a fault of the verifier)
            report(status="broken", detail=f"the judge failed: {type(error).__name__}: {error}"[:_DETAIL])
            word = REPLACE_ME
        # The client reads up to the end of this.
        os.closerange(candidate.CHANNEL, stdio.STDOUT + 1)
        os.write(feed.fileno(), word)


def run(reply_limit: int) -> bytes:
    """Read a job from the client, judge it and report; returns the message for the server."""
    body = frames.read_frame(CLIENT, JOB_LIMIT)
    if body is None:
        return DONE
    job = codec.unpack(body)
    channel = Channel(reply_limit)
    try:
        ready = channel.receive()
    except ChannelLost as error:
        report(status="infrastructure", detail=f"the program's process did not start: {error}")
        return REPLACE_ME
    if not ready.get("sealed"):
        report(
            status="infrastructure", detail=f"the program's process: {candidate_exceptions.text_of(ready, 'failed')}"
        )
        return REPLACE_ME
    report(started=True)
    status, detail = stdio.judge(job, channel) if job["kind"] == "stdio" else _tested(job, channel)
    report(status=status, detail=detail[:_DETAIL])
    if channel.lost:
        return CANDIDATE_ENDED
    return DONE if status in ("correct", "wrong", "crash", "syntax") else REPLACE_ME


def _load(job: dict[str, Any], channel: Channel) -> tuple[str, str] | None:
    """Send the program and wait until it is loaded; status and detail where that fails."""
    channel.send(job["program"].encode("utf-8", "surrogatepass"))
    loaded = channel.receive()
    state = loaded.get("loaded")
    if state == "yes":
        return None
    what = candidate_exceptions.ProgramException(loaded.get("raised"), set()).what
    if state == "syntax":
        return "syntax", f"the program does not compile: {what}"
    return "crash", f"the program raised while it was loaded: {what}"


def _tested(job: dict[str, Any], channel: Channel) -> tuple[str, str]:
    """Run tests that call the program: a ``check`` function with an entry point, or plain asserts."""
    failure: BaseException | None = None
    try:
        failed = _load(job, channel)
        if failed is not None:
            return failed
        if job["kind"] == "weak":
            return _weak(job, channel)
        _run_tests(job, channel)
    except BaseException as error:  # noqa: BLE001  (any exception is the outcome of the test)
        failure = error
    # First the errors that no test may hide: a lost candidate, and a request that could not be sent.
    if channel.lost:
        return "crash", channel.lost
    if channel.undelivered is not None:
        return channel.undelivered
    if failure is not None:
        return _failure(failure, job["tests"], channel)
    for swallowed in channel.unhandled:
        return "crash", f"the program raised {swallowed.what}, which no handler in the tests caught"
    if channel.calls == 0:
        return "broken", "the tests passed without calling the program"
    return "correct", ""


def _weak(job: dict[str, Any], channel: Channel) -> tuple[str, str]:
    """Let the candidate's process run the tests itself, so the verdict can be forged."""
    try:
        channel.request("weak", "", tests=job["tests"], entry_point=job["entry_point"])
    except candidate_exceptions.ProgramException as error:
        if isinstance(error.error, AssertionError):
            return "wrong", error.what
        raise
    return "correct", ""


def _failure(error: BaseException, tests: str, channel: Channel) -> tuple[str, str]:
    of_program = candidate_exceptions.origin(error)
    if of_program is not None:
        return "crash", f"the program raised {of_program.what}; {_where(error, tests)}"
    if isinstance(error, AssertionError):
        return "wrong", _where(error, tests) or str(error)
    what = f"{type(error).__name__}: {error}"
    # The tests treat an object of the program as a plain value.
    misused = channel.objects and isinstance(error, (TypeError, AttributeError))
    if not channel.program_used and not misused:
        return "broken", f"the tests failed before they called the program: {what}"
    # The tests cannot handle a value: None instead of a list, or an object that cannot be compared.
    return "wrong", f"{what[:200]}; {_where(error, tests)}"


def _run_tests(job: dict[str, Any], channel: Channel) -> None:
    entry, space = job["entry_point"], {"__name__": "tests", **candidate_exceptions.NAMES}
    for name in job["names"]:
        space[name] = channel.request("get", name)
    # The real modules: with the program's own `math`, everything could be close to everything.
    for name, module in job["modules"].items():
        space[name] = importlib.import_module(module)
    exec(candidate_exceptions.compiled(job["prompt"], "<prompt>"), space)
    exec(candidate_exceptions.compiled(job["tests"], "<tests>"), space)
    if entry:
        # Also under its own name, which some tests use instead of their parameter.
        space[entry] = Function(channel, entry)
        space["check"](space[entry])
