"""Runs commands of bonrl for the benchmarks, several at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

LIMIT_S = 6 * 3600.0


def bonrl(verb: str, *arguments: str, limit_s: float = LIMIT_S, environment: Mapping[str, str] | None = None) -> None:
    """Run a command of bonrl; RuntimeError with its output if it fails. environment: variables to set."""
    command = [sys.executable, "-m", "cluster.cli", verb, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=limit_s, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout}\n{done.stderr}")


def do_all(work: Sequence[Callable[[], None]], jobs: int) -> list[Exception]:
    """Do everything, `jobs` at a time, and return the errors.

    After Ctrl-C, which also reaches the commands, nothing new is started.
    """
    with ThreadPoolExecutor(jobs) as pool:
        tasks = [pool.submit(one) for one in work]
        try:
            errors = [task.exception() for task in tasks]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [error for error in errors if isinstance(error, Exception)]
