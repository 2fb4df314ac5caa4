"""The parent's side of the process in which a user's code runs: it can be killed, and the next call gets a new one.

A call that hangs or kills the process affects only that call. After several such calls in a row, further calls fail
immediately for some time, so that a broken reward ends a step in minutes, not hours.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

from verifiers.process_group import end_group
from verifiers.rewards.environment import of_user_code
from verifiers.rewards.program import HEADER, Job, send
from verifiers.rewards.response import Response
from verifiers.task import Prompt
from verifiers.user_code import shortened

GRACE_SECONDS = 2.0  # after the deadline, until the stack of the hanging call is written
MAX_REPLY = 1 << 26
LOG_BYTES = 8192
"""Output of one call that reaches the log; the rest is counted and dropped."""

FAILURES_IN_A_ROW = 3
"""After this many lost processes without a finished call in between, calls fail immediately for some time."""

_COMMAND = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from verifiers.rewards.program import main; \
main(int(sys.argv[2]), int(sys.argv[3]))"


class CallLost(RuntimeError):
    """The process died, hung or did not start; it is replaced. ``late``: after the deadline; then there is no retry."""

    def __init__(self, message: str, *, late: bool = False) -> None:
        super().__init__(message)
        self.late = late


class LoadError(RuntimeError):
    """The user's code cannot be loaded; the message is what the process said."""


class UserProcess:
    """Calls a user's code in a process that is started when it is first needed. Serves one call at a time.

    Args:
        job: What to load.
        key: The configuration's key of the code, for messages.
        load_s: Deadline of the start, with everything that the code loads.
        log: Gets the output of the code.
    """

    def __init__(self, job: Job, key: str, load_s: float, log: Callable[[str], Any] | None = None) -> None:
        self._job = job
        self._key = key
        self._load_s = load_s
        self._log = log or sys.stderr.write
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self.where = key
        self.batch = False
        self._lost_in_a_row = 0
        self._blocked_until = 0.0
        self._last_loss = ""
        atexit.register(self.close)

    def start(self) -> str:
        """Load the code, if it is not loaded; returns its function with file and line.

        Raises:
            LoadError, CallLost: It cannot be loaded.
        """
        with self._lock:
            return self._started().where

    def grade(self, prompt: Prompt, responses: Sequence[Response]) -> list[dict[str, Any]]:
        """One result for each response: the fields of a verdict, or ``error``.

        Raises:
            LoadError: The code cannot be loaded.
            CallLost: The process was lost during the call.
        """
        with self._lock:  # deadline: each call before this one has its own
            if time.monotonic() < self._blocked_until:
                raise CallLost(f"not called, because the last {self._lost_in_a_row} calls failed: {self._last_loss}",
                               late=True)  # fmt: skip
            try:
                results = self._started().grade(prompt, responses, self._job.timeout_s)
            except (CallLost, LoadError) as error:
                self._discard()
                self._lost_in_a_row += 1
                self._last_loss = str(error)
                if self._lost_in_a_row >= FAILURES_IN_A_ROW:
                    self._blocked_until = time.monotonic() + max(30.0, 2 * self._job.timeout_s)
                raise
            except BaseException:  # interrupted within a reply
                self._discard()
                raise
            self._lost_in_a_row = 0
            return results

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._discard()

    @property
    def pid(self) -> int | None:
        """Id of the running process."""
        return self._process.popen.pid if self._process else None

    def _started(self) -> _Process:
        if self._process is not None and self._process.popen.poll() is not None:
            self._discard()  # it ended between two calls
        if self._process is None:
            process = _Process(self._key, self._log)
            try:
                process.load(self._job, self._load_s)
            except BaseException:
                process.end()
                raise
            self._process, self.where, self.batch = process, process.where, process.batch
        return self._process

    def _discard(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


class _Process:
    """One operating-system process."""

    def __init__(self, key: str, log: Callable[[str], Any]) -> None:
        self.where = key
        self.batch = False
        self._stacks: IO[bytes] = tempfile.TemporaryFile()
        self._connection, theirs = socket.socketpair()
        with theirs:
            descriptors = theirs.fileno(), self._stacks.fileno()
            self.popen = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, json.dumps(sys.path), *map(str, descriptors)],
                env=of_user_code(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
                start_new_session=True,
            )
        assert self.popen.stdout is not None
        self._output = _Output(self.popen.stdout, log)

    def load(self, job: Job, seconds: float) -> None:
        """Load the code.

        Raises:
            LoadError, CallLost: It cannot be loaded.
        """
        self._send(job, "while it was loaded")
        reply = self._receive(seconds, "while it was loaded", f"not loaded within {seconds:g} s (task.reward_load_s)")
        if "error" in reply:
            raise LoadError(reply["error"])
        self.where, self.batch = reply["ready"], reply["batch"]

    def grade(self, prompt: Prompt, responses: Sequence[Response], timeout_s: float) -> list[dict[str, Any]]:
        """See `UserProcess.grade`; the deadline holds for each result, from the moment that its call starts."""
        self._output.next_call()
        self._send((prompt, list(responses)), "before it was called")
        late = f"{self.where}: no result within {timeout_s:g} s (task.reward_timeout_s)"
        return [
            self._receive(timeout_s, f"while it graded response {i + 1} of {len(responses)}", late)
            for i in range(len(responses))
        ]

    def _send(self, message: Any, when: str) -> None:
        data = pickle.dumps(message)
        self._connection.settimeout(GRACE_SECONDS + 30.0)
        try:
            send(self._connection, data)
        except OSError as error:
            raise CallLost(self._death(when)) from error

    def _receive(self, seconds: float, when: str, late: str) -> dict[str, Any]:
        deadline = time.monotonic() + seconds + GRACE_SECONDS
        (length,) = HEADER.unpack(self._exactly(HEADER.size, deadline, when, late))
        if length > MAX_REPLY:
            raise CallLost(
                f"{self.where} sent {length:,} bytes that are not a result; it must not write to file "
                "descriptors that it did not open"
            )
        reply = json.loads(self._exactly(length, deadline, when, late))
        assert isinstance(reply, dict)
        return reply

    def _exactly(self, count: int, deadline: float, when: str, late: str) -> bytes:
        data = bytearray()
        poll = select.poll()
        poll.register(self._connection, select.POLLIN | select.POLLHUP)
        while len(data) < count:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                stack = self._stack()
                raise CallLost(f"{late}; it was here:\n{stack}" if stack else late, late=True)
            try:
                more = self._connection.recv(count - len(data))  # deadline: it was polled
            except ConnectionError:
                more = b""
            if not more:
                raise CallLost(self._death(when))
            data += more
        return bytes(data)

    def _death(self, when: str) -> str:
        """Why the process ended by itself."""
        try:
            status = self.popen.wait(timeout=GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return f"{self.where}: its process closed the connection {when}"
        if status < 0:
            name = signal.Signals(-status).name
            hint = "; the machine may have run out of memory" if -status == signal.SIGKILL else ""
            how = f"was killed by {name}{hint}"
        else:
            how = f"ended with exit status {status} (os._exit or a crash)"
        stack = self._stack()
        last = self._output.tail() if not stack else stack
        return f"{self.where}: its process {how} {when}" + (f"; last output:\n{last}" if last else "")

    def _stack(self) -> str:
        """What faulthandler wrote about the call: innermost frame first, without bonrl's own frames."""
        self._stacks.seek(0)
        lines = self._stacks.read(1 << 16).decode(errors="replace").splitlines()
        here = os.path.dirname(os.path.abspath(__file__))
        hidden = (here, "threading.py", '"<string>"')
        frames = [line for line in lines if line.startswith("  File") and not any(name in line for name in hidden)]
        return shortened("\n".join(frames))

    def end(self) -> None:
        """Kill the process with everything that it started, and reap it."""
        end_group(self.popen)  # false: the kernel hangs; nothing more can be done
        self._connection.close()
        self._output.close()
        self._stacks.close()


class _Output:
    """Copies what a process prints into the log, a bounded part of each call's. A thread, so that no print blocks."""

    def __init__(self, stream: IO[bytes], log: Callable[[str], Any]) -> None:
        self._stream = stream
        self._log = log
        self._left = LOG_BYTES
        self._dropped = 0
        self._tail = b""
        self._thread = threading.Thread(target=self._copy, name="user output", daemon=True)
        self._thread.start()

    def next_call(self) -> None:
        """Reset the amount of output that the next call may log."""
        self._left = LOG_BYTES
        dropped, self._dropped = self._dropped, 0
        if dropped:
            self._show(f"\n[{dropped:,} bytes of output of the user's code were dropped]\n")

    def tail(self) -> str:
        """The last output, for messages."""
        return shortened(self._tail.decode(errors="replace").strip(), 1000)

    def close(self) -> None:
        """Wait for the last output of a process that has ended."""
        self._thread.join(timeout=1.0)
        self.next_call()
        if not self._thread.is_alive():
            self._stream.close()

    def _copy(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed
            while data := os.read(self._stream.fileno(), 1 << 16):
                self._tail = (self._tail + data)[-1000:]
                shown = data[: max(0, self._left)]
                self._left -= len(shown)
                self._dropped += len(data) - len(shown)
                if shown:
                    self._show(shown.decode(errors="replace"))

    def _show(self, text: str) -> None:
        """Log; a log on a full disk loses the text. The pipe must be emptied all the same, or the next print hangs."""
        with contextlib.suppress(OSError, ValueError):
            self._log(text)
