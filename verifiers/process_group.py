"""Ends a process that leads its own session, with everything that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

REAP_SECONDS = 30.0  # a killed process ends at once, unless the kernel hangs


def end_group(process: subprocess.Popen[bytes]) -> bool:
    """Kill and reap a process that was started with ``start_new_session``, and its children; false if it survives."""
    with contextlib.suppress(ProcessLookupError):  # it had already ended
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(timeout=REAP_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True
