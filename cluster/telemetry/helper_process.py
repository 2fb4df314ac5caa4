"""A helper process that answers requests, each within a deadline, and can be killed at any time.

A library that can hang, raise, or call ``sys.exit`` runs in a separate process, so that nothing it does reaches the
run. Requests and replies are lines of JSON over a socket pair. The helper sees the end of the stream when the run's
process is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_OUTPUT_CHARACTERS = 300  # of a dead helper's output, quoted in the message
_EXIT_SECONDS = 5.0  # for a killed process to be gone


class HelperError(RuntimeError):
    """The helper answered that it could not do what it was asked."""


class HelperLost(HelperError):
    """The helper died, or did not answer in time."""


class HelperProcess:
    """Runs ``python -m MODULE FD``; use it from one thread, except for :meth:`kill`.

    Args:
        module: serves the requests that come over the file descriptor FD (see :class:`Channel`).
        name: for messages.
        environment: variables of the helper, in addition to those of this process.

    Raises:
        HelperError: no process could be started: memory, the temporary directory or file descriptors are used up.
    """

    def __init__(self, module: str, name: str, environment: Mapping[str, str]) -> None:
        self._name = name
        self._family: dict[int, psutil.Process] = {}
        try:
            self._start(module, environment)
        except OSError as error:
            raise HelperError(f"its process could not be started: {error}") from error

    def _start(self, module: str, environment: Mapping[str, str]) -> None:
        self._output = tempfile.TemporaryFile()
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                env={**os.environ, **environment, "PYTHONPATH": path},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the run's to handle
            )
        self._channel = Channel(ours)

    def ask(self, request: Mapping[str, Any], deadline_s: float) -> Any:
        """The answer to `request`.

        Raises:
            HelperLost: the helper died, or did not answer within `deadline_s`.
            HelperError: it answered with an error.
        """
        try:
            self._channel.send(request, deadline_s)
            reply = self._channel.receive(deadline_s)
        except TimeoutError:
            raise HelperLost(f"{self._name} did not {request['call']} within {deadline_s:g} s") from None
        except OSError:  # it closed its end of the socket
            reply = None
        if reply is None:
            raise HelperLost(f"{self._name} {self._how_it_ended()}")
        self._remember_children()
        if "error" in reply:
            raise HelperError(reply["error"])
        return reply["value"]

    def wait(self, deadline_s: float) -> None:
        """Wait for a finished helper to exit; kill it at the deadline."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=deadline_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the helper and to every process that it has started; stopped ones too. May be called twice."""
        self._remember_children()
        for process in list(self._family.values()):  # `ask` in another thread may add to it
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_EXIT_SECONDS)

    def _remember_children(self) -> None:
        """Record the helper's child processes; after its death they can no longer be found."""
        with contextlib.suppress(psutil.NoSuchProcess):
            helper = self._family.get(self._process.pid) or psutil.Process(self._process.pid)
            for process in (helper, *helper.children(recursive=True)):
                self._family.setdefault(process.pid, process)

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(timeout=_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        self._output.seek(0)
        text = " ".join(self._output.read().decode(errors="replace").split())
        return f"ended with status {status}: {text[-_OUTPUT_CHARACTERS:]}"


class Channel:
    """Lines of JSON over a socket, each sent and received within a deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    @classmethod
    def of(cls, descriptor: int) -> Channel:
        """The helper's end."""
        return cls(socket.socket(fileno=descriptor))

    def send(self, value: Mapping[str, Any], deadline_s: float | None = None) -> None:
        self._connection.settimeout(deadline_s)
        self._connection.sendall(json.dumps(value).encode() + b"\n")

    def receive(self, deadline_s: float | None = None) -> dict[str, Any] | None:
        """The next line; None at the end of the stream.

        Raises:
            TimeoutError: after `deadline_s`.
        """
        end = None if deadline_s is None else time.monotonic() + deadline_s
        while b"\n" not in self._buffer:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            try:
                # deadline: the socket's time-out; none for the helper, which waits for as long as the run goes on
                received = self._connection.recv(1 << 16)
            except ConnectionResetError:
                received = b""
            if not received:
                return None
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)
