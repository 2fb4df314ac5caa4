"""What is struck, and how: the processes of a run by kind, and SIGKILL, SIGSTOP and the kernel's OOM killer."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

import psutil

KINDS = {
    "sampler": r"^ray::SamplerActor",
    "engine core": r"VLLM::EngineCore",
    "verifier": r"^ray::VerifierWorker",
    "replay queue": r"^ray::ReplayQueue",
    "learner": r"^ray::LearnerRank",
    "node watch": r"^ray::NodeMonitor",
    "wandb": r"cluster\.wandb_writer",
    "wandb-core": r"bin/wandb-core",
}
SANDBOX = ("sandbox server", "sandboxed child")  # below the verifiers, which mend these losses themselves
UNTOLD = (*SANDBOX, "node watch")  # of their loss there is no incident: nothing of the run stands still
UNITS = {
    "sampler": "sampler",
    "engine core": "sampler",
    "verifier": "verifier",
    "wandb-core": "wandb",
}  # what an incident calls them

_CGROUP = Path("/sys/fs/cgroup/memory")
_TINY = 64 << 10  # bytes: any process at work soon wants more than this


def find(root: psutil.Process, kind: str) -> list[psutil.Process]:
    """The living processes of `kind` below `root`, in the order of their ids."""
    if kind in SANDBOX:
        return _sandboxed(root, kind)
    found = []
    for process in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline()) or process.name()
            if process.status() != psutil.STATUS_ZOMBIE and re.search(KINDS[kind], title):
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def _sandboxed(root: psutil.Process, kind: str) -> list[psutil.Process]:
    """Fork servers of the code sandbox, or what runs below them: judges and candidates, which live for an instant."""
    servers = []
    for verifier in find(root, "verifier"):
        with contextlib.suppress(psutil.NoSuchProcess):
            servers += [child for child in verifier.children() if "zygote.main" in " ".join(child.cmdline())]
    if kind == "sandbox server":
        return servers
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        for server in servers:
            with contextlib.suppress(psutil.NoSuchProcess):
                if below := server.children(recursive=True):
                    return below
    return []


def sampling(root: psutil.Process) -> bool:
    """Whether a sampler below `root` is at work on a group: training has begun."""
    for process in find(root, "sampler"):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "sample_group" in " ".join(process.cmdline()):
                return True
    return False


def ours(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Without the agents of Ray's dashboard, which outlive a killed driver for a minute or two and then end."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if not re.search(r"DashboardAgent|RuntimeEnvAgent", " ".join(process.cmdline())):
                found.append(process)
    return found


def kill(victim: psutil.Process) -> bool:
    victim.send_signal(signal.SIGKILL)
    return True


def stop(victim: psutil.Process) -> bool:
    """For good, as far as the run can know: it has to be found, killed and replaced."""
    victim.send_signal(signal.SIGSTOP)
    return True


def pause(victim: psutil.Process, seconds: float = 3.0) -> bool:
    """Stopped for less than `supervision.hung_s`: the run has to bear it."""
    victim.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.send_signal(signal.SIGCONT)
    return False


def can_exhaust_memory() -> bool:
    """Whether this process may put others under a memory limit of the kernel's (control groups, version 1)."""
    probe = _CGROUP / f"bonrl-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def exhaust_memory(victim: psutil.Process) -> bool:
    """Leave the process no more memory: the kernel's OOM killer ends it at its next page. False if it wanted none."""
    group = _CGROUP / f"bonrl-{victim.pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(victim.pid))
        (group / "memory.limit_in_bytes").write_text(str(_TINY))
        _, alive = psutil.wait_procs([victim], timeout=20)
        return not alive
    finally:
        with contextlib.suppress(OSError, psutil.NoSuchProcess):  # a survivor goes back to where it was
            (_CGROUP / "cgroup.procs").write_text(str(victim.pid))
        with contextlib.suppress(OSError):
            group.rmdir()


BLOWS = {"kill": kill, "stop": stop, "pause": pause, "memory": exhaust_memory}  # each: whether the victim is lost
