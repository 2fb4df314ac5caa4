"""Memory of the job on the driver's node: the driver, Ray's processes, the actors and the engines they started."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_GIB_IN_KIB = 2**20


def job_memory_gib() -> float:
    """Proportional set size of this process and all its descendants in GiB; actors on other nodes are not in it.

    PSS counts a page shared by k processes as 1/k in each, so that the sum is what the job really occupies; a sum of
    resident sizes would count the object store once for every process that maps it.
    """
    pids = [os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))]
    return sum(map(_pss_kib, pids)) / _GIB_IN_KIB


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # the process ended between the two looks
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
