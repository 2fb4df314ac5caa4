"""The parent's side of the symbolic path: a pool of processes that can be killed.

A process is started by exec with a clean environment, so it has none of the caller's memory, descriptors or locks, and
any thread may use it. Every wait has a deadline.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from verifiers.process_group import REAP_SECONDS, end_group

START_SECONDS = 60.0
"""A host that is not ready after this (it usually takes half a second) has failed."""

QUEUE_SECONDS = 120.0
"""Longest wait for a free host. It does not count towards the answer's deadline."""

GRACE_SECONDS = 1.0
"""How long after the deadline the host may answer before it is killed. It usually answers within milliseconds; on a
busy machine a short wait is cheaper than a new host."""

MAX_HOSTS = 4
MEGABYTES = 2048
_MAX_REPLY = 4096
_ROOT = Path(__file__).resolve().parents[3]
_COMMAND = "import sys; sys.path.insert(0, sys.argv[1]); from verifiers.mathematics.symbolic.server import main; main()"


class HostError(RuntimeError):
    """A host died, did not start, or violated the protocol. Not the answer's fault."""


class Host:
    """One host process. Not shared between threads; ``Hosts`` lends it out."""

    def __init__(self) -> None:
        environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", _COMMAND, str(_ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        self._buffer = b""
        self._ready = False

    def wait_ready(self) -> None:
        """Wait until the host has loaded its libraries.

        Raises:
            HostError: It died or did not start in time.
        """
        if not self._ready:
            reply = self._receive(time.monotonic() + START_SECONDS)
            if reply.get("outcome") != "ready":
                raise HostError(f"the host of the math grader did not start; its first reply was {reply}")
            self._ready = True

    def ask(self, predictions: Sequence[str], reference: str, seconds: float) -> tuple[str, str]:
        """Outcome (``equal``, ``different``, ``timeout``, ``memory``, ``error``) and detail of comparing each
        prediction with the reference: ``equal`` if all are.

        Raises:
            HostError: The host died or does not answer; kill it and use another.
        """
        job = {"predictions": list(predictions), "reference": reference, "seconds": seconds, "megabytes": MEGABYTES}
        deadline = time.monotonic() + seconds + GRACE_SECONDS
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
        except OSError as error:
            raise HostError(f"the host of the math grader is gone: {error}") from error
        reply = self._receive(deadline)
        return reply["outcome"], reply.get("detail", "")

    def _receive(self, deadline: float) -> dict[str, str]:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
        while b"\n" not in self._buffer:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise HostError("the host of the math grader did not answer in time")
            data = os.read(descriptor, _MAX_REPLY)
            if not data or len(self._buffer) > _MAX_REPLY:
                raise HostError(f"the host of the math grader died (exit status {self.process.poll()})")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply = json.loads(line)
        except ValueError as error:
            raise HostError("the host of the math grader sent a reply that is not JSON") from error
        return reply

    def kill(self) -> None:
        """End the process with all its children, and reap it."""
        if not end_group(self.process):
            raise HostError(f"a host of the math grader did not end within {REAP_SECONDS:.0f} s of SIGKILL")
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class HostPool:
    """A pool of hosts, each used by one caller at a time; started on demand, replaced when they die."""

    def __init__(self, limit: int = MAX_HOSTS) -> None:
        self._lock = threading.Lock()
        self._idle: list[Host] = []
        self._slots = threading.BoundedSemaphore(limit)

    def _acquire(self) -> Host:
        """A ready host."""
        if not self._slots.acquire(timeout=QUEUE_SECONDS):
            raise HostError(f"no free host of the math grader within {QUEUE_SECONDS:g} s")
        with self._lock:
            host = self._idle.pop() if self._idle else None
        try:
            if host is None:
                host = Host()
            host.wait_ready()
        except BaseException:
            self._slots.release()
            if host is not None:
                host.kill()
            raise
        return host

    def _release(self, host: Host) -> None:
        with self._lock:
            self._idle.append(host)
        self._slots.release()

    def _discard(self, host: Host) -> None:
        host.kill()
        self._slots.release()

    def warm(self) -> None:
        """Start one host and wait until it is ready, so that no answer waits for it.

        Raises:
            HostError: It does not start.
        """
        self._release(self._acquire())

    def ask(self, predictions: Sequence[str], reference: str, seconds: float) -> tuple[str, str]:
        """See ``Host.ask``. A host that dies is replaced once, within the remaining time.

        The wait for a host and its start do not count towards ``seconds``, because they are not the answer's fault.

        Raises:
            HostError: Both hosts failed, the first one used up the time, or none was free.
        """
        for last in (False, True):
            host = self._acquire()
            started = time.monotonic()
            try:
                outcome, detail = host.ask(predictions, reference, seconds)
            except HostError:
                self._discard(host)
                seconds -= time.monotonic() - started
                if last or seconds <= 0:
                    raise
            except BaseException:
                self._discard(host)
                raise
            else:
                self._release(host)
                if last and outcome == "timeout":
                    raise HostError("the first host of the math grader died, and the time left was too short")
                return outcome, detail
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Kill all idle hosts."""
        with self._lock:
            idle, self._idle = self._idle, []
        for host in idle:
            host.kill()

    def pids(self) -> list[int]:
        """Process ids of the idle hosts."""
        with self._lock:
            return [host.process.pid for host in self._idle]


_shared = HostPool()


def shared() -> HostPool:
    """The pool of this process."""
    return _shared


def _reset_after_fork() -> None:
    """After a fork the pool's processes belong to the parent, so the child gets a new pool."""
    global _shared
    _shared = HostPool()


os.register_at_fork(after_in_child=_reset_after_fork)
atexit.register(lambda: _shared.close())
