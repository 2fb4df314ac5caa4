"""The helper's side of a tracker: a process that calls its library, and answers the run's requests (see tracker.py)."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil

from cluster.telemetry.helper_process import Channel

FINISH_GRACE_S = 5.0  # the library's own time-out comes first and ends an upload in good order
PROBE_SECONDS = 5.0  # between two writes of a probe
_PROBE_BYTES = 64 << 10  # libraries lose rows on a full disk without an error


class Session(Protocol):
    """One run in one library. Every method may raise anything: the run's process then starts another helper."""

    @property
    def start(self) -> Callable[..., dict[str, str]]:
        """Opens the run; returns what the run's process must know of it."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Log one row of one axis, whose value is in the row."""

    def check(self) -> None:
        """Raise if what was logged may be lost."""

    def finish(self, exit_code: int) -> None:
        """End the run."""


class DiskProbe:
    """Writes a file now and then, to notice a full disk.

    Args:
        directory: that the library writes to.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._next = 0.0

    def check(self, *, now: bool = False) -> None:
        """Raise OSError if the directory cannot be written."""
        if not now and time.monotonic() < self._next or not self._directory.is_dir():  # some make it later
            return
        probe = self._directory / ".probe"
        try:
            probe.write_bytes(bytes(_PROBE_BYTES))
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
        self._next = time.monotonic() + PROBE_SECONDS


def main(session: Session) -> None:
    """Serve requests over the file descriptor that the command line names, and end the process."""
    _serve(session, Channel.of(int(sys.argv[1])))
    _leave()


def _serve(session: Session, channel: Channel) -> None:
    """Answer requests until the run's process finishes the run or is gone."""
    started, finished = False, False
    while not finished and (request := channel.receive()) is not None:
        call = request.pop("call")
        try:
            reply = {"value": getattr(session, call)(**request)}
        except BaseException as error:  # noqa: BLE001  (whatever it is: the run's process decides)
            reply = {"error": _summary(error)}
        started, finished = started or call == "start", call == "finish"
        channel.send(reply)
    if started and not finished:
        with _at_most(FINISH_GRACE_S):
            session.finish(exit_code=255)  # the run's process was killed


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, _leave)
    timer.daemon = True
    timer.start()
    yield


def _leave() -> None:
    """End this process and what it started, without the library's exit handlers, which may hang."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(0)


def _summary(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
