"""Faults in a run: how to find its processes by kind, and SIGKILL, SIGSTOP and the kernel's OOM killer."""

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
    "node monitor": r"^ray::NodeMonitor",
    "wandb": r"cluster\.telemetry\.wandb_writer",
    "wandb-core": r"bin/wandb-core",
}
SANDBOX = ("sandbox server", "sandboxed child")  # children of the verifiers, which replace them without an incident
UNREPORTED = (*SANDBOX, "node monitor")  # their loss makes no incident, because the run does not wait for them
UNITS = {
    "sampler": "sampler",
    "engine core": "sampler",
    "verifier": "verifier",
    "wandb-core": "wandb",
}  # their names in incidents

_CGROUP = Path("/sys/fs/cgroup/memory")
_TINY = 64 << 10  # bytes: any active process soon needs more than this


def find(root: psutil.Process, kind: str) -> list[psutil.Process]:
    """The live processes of `kind` below `root`, by process id."""
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
    """Fork servers of the code sandbox, or their children: judges and candidates, which live for milliseconds."""
    servers = []
    for verifier in find(root, "verifier"):
        with contextlib.suppress(psutil.NoSuchProcess):
            servers += [child for child in verifier.children() if "fork_server.main" in " ".join(child.cmdline())]
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
    """Whether a sampler below `root` is sampling a group: training has begun."""
    for process in find(root, "sampler"):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "sample_group" in " ".join(process.cmdline()):
                return True
    return False


def without_ray_agents(processes: list[psutil.Process]) -> list[psutil.Process]:
    """`processes` without the agents of Ray's dashboard, which end a minute or two after a killed driver."""
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
    """Stop the process and never continue it: the run has to find, kill and replace it."""
    victim.send_signal(signal.SIGSTOP)
    return True


def pause(victim: psutil.Process, seconds: float = 3.0) -> bool:
    """Stop the process for less than `supervision.hung_s`: the run must tolerate that."""
    victim.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.send_signal(signal.SIGCONT)
    return False


def can_exhaust_memory() -> bool:
    """Whether this process may give others a memory limit (control groups, version 1)."""
    probe = _CGROUP / f"bonrl-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def exhaust_memory(victim: psutil.Process) -> bool:
    """Let the kernel's OOM killer end the process at its next page; false if it allocated none in time."""
    group = _CGROUP / f"bonrl-{victim.pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(victim.pid))
        (group / "memory.limit_in_bytes").write_text(str(_TINY))
        _, alive = psutil.wait_procs([victim], timeout=20)
        return not alive
    finally:
        with contextlib.suppress(OSError, psutil.NoSuchProcess):  # a survivor returns to the root group
            (_CGROUP / "cgroup.procs").write_text(str(victim.pid))
        with contextlib.suppress(OSError):
            group.rmdir()


# Each returns whether the victim is lost.
INJECT = {"kill": kill, "stop": stop, "pause": pause, "memory": exhaust_memory}
