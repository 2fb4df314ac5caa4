"""The host process: loads math-verify once, and forks one child per job, which is killed at its deadline.

Started by ``host.Host`` with a clean environment; reads and writes one JSON object per line on standard input and
output. It has one thread, so forking is safe, and each child starts from the same state: jobs share no memory or
caches.

    in   {"predictions": [...], "reference": ..., "seconds": ..., "megabytes": ...}
    out  {"outcome": "equal" | "different" | "timeout" | "memory" | "error", "detail": ...}
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import select
import signal
import time
from typing import Any

from verifiers.mathematics.symbolic import math_verify_grader

MAX_LINE = 65_536
_PR_SET_PDEATHSIG = 1
_VERDICTS = {b"1": "equal", b"0": "different"}


def _limit(seconds: float, megabytes: int) -> None:
    """Limit CPU time and address space of a child, and end it with its parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    size = megabytes * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    cpu = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _child(job: dict[str, Any], result: int) -> None:
    """Compare for one job and exit; never returns."""
    code = 0
    try:
        _limit(job["seconds"], job["megabytes"])
        verdict = all(math_verify_grader.equal(prediction, job["reference"]) for prediction in job["predictions"])
        os.write(result, b"1" if verdict else b"0")
    except MemoryError:
        code = 3
    except BaseException as error:  # noqa: BLE001 - the child reports any error and exits
        os.write(result, f"{type(error).__name__}: {error}"[:300].encode("utf-8", "replace"))
        code = 4
    finally:
        os._exit(code)


def run(job: dict[str, Any]) -> dict[str, str]:
    """Run one job in a child, killed at its deadline."""
    started = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(job, writing)
    os.close(writing)
    try:
        poll = select.poll()
        poll.register(reading, select.POLLIN | select.POLLHUP)
        remaining = job["seconds"] - (time.monotonic() - started)
        ready = poll.poll(max(0.0, remaining) * 1000)
        if not ready:
            return {"outcome": "timeout", "detail": f"no verdict within {job['seconds']:g} s"}
        data = os.read(reading, 400)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if data in _VERDICTS:
        return {"outcome": _VERDICTS[data], "detail": ""}
    if data:
        return {"outcome": "error", "detail": data.decode("utf-8", "replace")}
    # Killed by a limit or a crash: out of memory, stack overflow in C, CPU limit.
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM):
        return {"outcome": "timeout", "detail": "the CPU limit was reached"}
    return {"outcome": "memory", "detail": "the comparison ran out of memory or stack"}


def main() -> None:
    """Serve jobs until the standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # Output of libraries goes to standard error, not into the protocol.
    os.dup2(2, 1)
    math_verify_grader.warm_up()
    gc.collect()
    gc.freeze()  # keeps these pages shared with the children
    answers.write(b'{"outcome": "ready"}\n')
    answers.flush()
    while line := jobs.readline(MAX_LINE):
        answers.write(json.dumps(run(json.loads(line))).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
