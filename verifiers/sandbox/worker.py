"""One fork server, seen from the client: start it, probe it, hand it jobs, end it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verifiers.process_group import end_group
from verifiers.sandbox.inside import frames
from verifiers.sandbox.levels import Layers
from verifiers.sandbox.limits import Limits

START_SECONDS = 60.0
"""For the interpreter to start and load its modules: 0.1 s on an idle machine, much more on a busy file system."""

ANSWER_GRACE = 5.0
"""Seconds beyond a job's wall limit after which a silent server counts as dead."""

_MESSAGE = 1 << 16
_REPORT_LIMIT = 1 << 16
_DIRECTORY = Path(__file__).parent

# -S: no site directory, whose .pth files run code and point at checkouts. Not -I: it would ignore PYTHONHASHSEED, and
# with random hashes the same program could pass today and fail tomorrow. The environment holds nothing but this.
_COMMAND = (
    "import sys; sys.path.insert(0, sys.argv[1]); from inside import fork_server; del sys.path[0]; "
    "fork_server.main({fd})"
)
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class WorkerDied(RuntimeError):
    """The fork server ended or stopped answering. Its job may be given to another server."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one job went.

    Attributes:
        reports: What the judge said, in order; the last one may hold its verdict.
        timed_out: The wall limit ended the job.
        candidate_exit: Exit status of the program's process (negative: a signal), None if it had to be killed.
        seconds: Wall time from the start of work to its end.
        cpu_seconds: Processor time of the program's process.
        failed: Why the server could not run the job; empty if it could.
    """

    reports: tuple[dict[str, Any], ...] = ()
    timed_out: bool = False
    candidate_exit: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    failed: str = ""


class Worker:
    """A running fork server. Not thread-safe: one job at a time.

    Args:
        layers: The isolation layers of its children.
        uid: User of the children if this process is root and ``layers.drop_user`` is set.
        preload: Modules to load in addition to the standard library; missing ones are skipped.
        python: The interpreter; None for the current one.

    Raises:
        WorkerDied: It did not start, or this machine lacks a layer (the message has the reason).
    """

    def __init__(self, layers: Layers, *, uid: int, preload: tuple[str, ...] = (), python: str | None = None) -> None:
        self.uid = uid if os.getuid() == 0 and layers.drop_user else os.getuid()
        paths = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
        config = {
            "layers": {
                "uid": uid if self.uid != os.getuid() else None,
                "namespaces": layers.namespaces,
                "seccomp": layers.seccomp,
                "landlock": layers.landlock,
            },
            "preload": list(preload),
            "paths": list(dict.fromkeys(paths)),
        }
        self._errors = tempfile.TemporaryFile()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        with theirs:
            code = _COMMAND.format(fd=theirs.fileno())
            self._process = subprocess.Popen(
                [python or sys.executable, "-S", "-P", "-s", "-c", code, str(_DIRECTORY)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        try:
            self._control.send(json.dumps(config).encode())
            self.absent = tuple(self._receive(START_SECONDS)["absent"])
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the fork server."""
        return self._process.pid

    def run(self, job: dict[str, Any], limits: Limits) -> Outcome:
        """Run one job and return its outcome.

        Args:
            job: Input of the judge; see ``inside/judge.py``.
            limits: The wall limit starts when the server takes the job.

        Raises:
            WorkerDied: The server ended or did not answer in time; it must be closed.
        """
        body = json.dumps(job).encode()
        header = {"probe": False, "limits": limits.as_message(), "stdio": job["kind"] == "stdio"}
        seconds = limits.total_seconds()
        deadline = time.monotonic() + seconds + ANSWER_GRACE
        with self._hand_over(header) as end:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
                # The judge may have ended; the server's answer and the missing verdict then show it.
                end.settimeout(seconds + ANSWER_GRACE)
                end.sendall(len(body).to_bytes(4, "little") + body)
            answer = self._receive(deadline - time.monotonic())
            if "failed" in answer:
                return Outcome(failed=answer["failed"])
            return Outcome(
                reports=tuple(_reports(end)),
                timed_out=answer["timed_out"],
                candidate_exit=answer["candidate"],
                seconds=answer["seconds"],
                cpu_seconds=answer["cpu_seconds"],
            )

    def probe(self, limits: Limits) -> dict[str, str]:
        """Run the probes in a locked-down child: ``denied: errno`` or ``allowed`` for each.

        Raises:
            WorkerDied: The server died, or the lockdown of the child failed.
        """
        with self._hand_over({"probe": True, "limits": limits.as_message(), "stdio": False}) as end:
            answer = self._receive(limits.total_seconds() + ANSWER_GRACE)
            found: dict[str, str] = {}
            for report in _reports(end):
                if "failed" in report:
                    raise WorkerDied(f"a process could not be isolated: {report['failed']}")
                # If execution is allowed, the probing process is replaced and cannot report it.
                found.update(report.get("found", {}), **{"execute a program": report.get("last", "allowed")})
        if not found:
            raise WorkerDied(f"the probes did not report: {answer}")
        return found

    def close(self) -> None:
        """Kill the server with its children, and reap it."""
        self._control.close()
        end_group(self._process)  # false: the kernel hangs; nothing more can be done
        self._errors.close()

    @contextlib.contextmanager
    def _hand_over(self, header: dict[str, Any]) -> Iterator[socket.socket]:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                try:
                    self._control.settimeout(ANSWER_GRACE)
                    socket.send_fds(self._control, [json.dumps(header).encode()], [theirs.fileno()])
                except OSError as error:
                    raise WorkerDied(self._why(str(error))) from error
            yield ours

    def _receive(self, seconds: float) -> dict[str, Any]:
        self._control.settimeout(max(seconds, 0.001))
        try:
            body = self._control.recv(_MESSAGE)  # deadline: the time-out above
        except OSError as error:
            raise WorkerDied(self._why(f"no answer in {seconds:.1f} s ({error})")) from error
        if not body:
            raise WorkerDied(self._why("it ended"))
        answer: dict[str, Any] = json.loads(body)
        return answer

    def _why(self, what: str) -> str:
        if self._errors.closed:
            return "the fork server was closed while it had a job"
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.2)
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 2000))
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"the fork server failed: {what}; {said[-1] if said else 'it said nothing'}"


def _reports(end: socket.socket) -> Iterator[dict[str, Any]]:
    """The judge's frames. It has ended, and with it the only other holder of the socket, so reading never waits."""
    end.setblocking(False)
    descriptor = end.fileno()
    with contextlib.suppress(frames.FrameError, ConnectionResetError, BlockingIOError):
        # Cut off where the judge was killed: what came before counts, and a missing verdict is noticed.
        while (body := frames.read_frame(descriptor, _REPORT_LIMIT)) is not None:
            yield json.loads(body)
