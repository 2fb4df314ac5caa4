"""What the operating system reports about the processes of a node, whether or not the actors answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from actors.engine_load import EngineLoad
from actors.logs import own_log, own_output
from actors.threads import in_daemon_thread
from actors.weights.bucket_files import remove_written_by

INSPECT_SECONDS = 5.0  # to inspect or kill the processes of a node
_END_SECONDS = 4.0  # for killed processes to end; below INSPECT_SECONDS
_POLL_SECONDS = 0.02  # between two checks of them
_STOPPED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
_START_TIME = 22  # field of /proc/PID/stat, counted from 1
LOG_LINES = 12  # of each log that a message about a lost actor quotes
_MARKERS = (":job_id:", ":actor_name:", ":task_name:")  # Ray's own, in every log
_LOG_BYTES = 16_384  # read from the end of a log
_LONGEST_LINE = 300  # characters
_GPU_FIELDS = "index,uuid,memory.used,utilization.gpu"  # the last two in MiB and percent


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a node. The PID alone does not identify it, because the kernel reuses PIDs.

    create_time: its start, in kernel ticks since boot, which clock changes do not affect.
    """

    pid: int
    create_time: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has this PID now.

        Raises:
            FileNotFoundError: there is none.
        """
        # The name, field 2, may contain blanks and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return cls(pid, int(fields[_START_TIME - 3]))

    @property
    def alive(self) -> bool:
        """Whether it exists, possibly as a zombie."""
        try:
            return Process.of(self.pid) == self
        except (FileNotFoundError, ProcessLookupError):
            return False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """An actor's answer to the supervisor.

    node: Ray's id of its node.
    processes: those that it needs: its own first, then those of an engine.
    working: the processes after the first have work, so they must use processor time.
    logs: the files that receive its standard error and standard output; Ray keeps them on the actor's node.
    host: the name of that node.
    gpus: those that Ray assigned to the actor, by index or UUID.
    load: of a sampler's engine since the last heartbeat; None: it has none, or has not started.
    log_file: that of the actor itself (``actors/logs.py``), on its node or in the run directory; empty: it has none.
    """

    node: str
    processes: tuple[Process, ...]
    working: bool = False
    logs: tuple[str, ...] = ()
    host: str = ""
    gpus: tuple[str, ...] = ()
    load: EngineLoad | None = None
    log_file: str = ""

    def where(self) -> str:
        """Its processes and their node, for messages."""
        pids = ", ".join(str(process.pid) for process in self.processes)
        return f"processes {pids} on {self.host}, node {self.node[:8]}"


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One GPU: memory in use in GiB, and the share of the last second or less in which a kernel ran."""

    memory_gib: float
    busy: float


@dataclass(frozen=True, slots=True)
class ProcessStats:
    """One process: whether a signal stopped it, and the processor seconds of its threads so far."""

    stopped: bool
    cpu_seconds: float


def own_heartbeat(*others: int, working: bool = False, load: EngineLoad | None = None) -> Heartbeat:
    """The answer of the actor that runs in this process; `others` are the PIDs of processes that it needs."""
    import ray

    needed = tuple(Process.of(pid) for pid in (os.getpid(), *others))
    context = ray.get_runtime_context()
    gpus = tuple(map(str, context.get_accelerator_ids().get("GPU", ())))
    host = socket.gethostname()
    return Heartbeat(context.get_node_id(), needed, working, own_output(), host, gpus, load, own_log())


def last_lines(path: str) -> list[str]:
    """The last lines of a log that are not blank; none if the file does not exist."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith(_MARKERS)]
    return [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} …" for line in lines[-LOG_LINES:]]


class NodeMonitor:
    """Inspects and kills processes of its node (async methods; an actor on every node that holds actors)."""

    async def inspect(self, processes: Sequence[Process], family: bool = False) -> dict[int, ProcessStats]:
        """The stats of those that exist, by PID; with `family` those of their descendants too."""
        found: dict[int, ProcessStats] = {}
        for process in _existing(processes, family):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                found[process.pid] = ProcessStats(process.status() in _STOPPED, times.user + times.system)
        return found

    async def memory_gib(self, processes: Sequence[Process]) -> float:
        """Proportional set size of those that exist, of their descendants and of this process, in GiB.

        Read in a thread, because the kernel walks through the pages of every process.
        """
        family = (*processes, Process.of(os.getpid()))
        work = partial(_memory_gib, family)
        return await in_daemon_thread(work, owner="the kernel", to="measure memory", deadline_s=INSPECT_SECONDS)

    async def gpu_use(self, gpus: Sequence[str]) -> list[GpuUse]:
        """Use of these GPUs of the node by all processes; empty if nvidia-smi does not report it."""
        work = partial(_gpu_use, frozenset(gpus))
        return await in_daemon_thread(work, owner="nvidia-smi", to="answer", deadline_s=INSPECT_SECONDS)

    async def tail(self, logs: Sequence[str]) -> dict[str, list[str]]:
        """The last lines of log files of this node."""
        return {path: last_lines(path) for path in logs}

    async def kill(self, processes: Sequence[Process]) -> None:
        """Kill the processes and their descendants, also stopped ones, and remove the weight files that they wrote.

        Returns when they have ended, because only then their memory, also that on a GPU, is free for a successor.
        """
        ours = {process.pid for process in processes if process.alive or not psutil.pid_exists(process.pid)}
        victims = list(_existing(processes, family=True))
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        remove_written_by(ours)
        began = time.monotonic()
        while any(map(_is_running, victims)) and time.monotonic() - began < _END_SECONDS:
            await asyncio.sleep(_POLL_SECONDS)


def _is_running(process: psutil.Process) -> bool:
    """Whether a process exists and has not ended; one that has ended exists until its parent asks for its status."""
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _existing(processes: Sequence[Process], family: bool) -> Iterator[psutil.Process]:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(process.pid)  # from here on psutil detects a reused PID
            if process.alive:
                yield from [found, *(found.children(recursive=True) if family else ())]


def _memory_gib(processes: Sequence[Process]) -> float:
    """PSS counts a page that k processes share as 1/k in each, so the sum counts every page once; a sum of resident
    sizes would count Ray's object store once for every process that maps it."""
    return sum(map(_pss_kib, {process.pid for process in _existing(processes, family=True)})) / 2**20


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended after it was listed, or it belongs to another user
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _gpu_use(wanted: frozenset[str]) -> list[GpuUse]:
    """From nvidia-smi, which comes with the driver and sees all GPUs, also those that this process may not use."""
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSPECT_SECONDS)
    except (OSError, subprocess.SubprocessError):  # no NVIDIA GPUs, or a driver that does not answer
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return [
        GpuUse(float(row[2]) / 1024, float(row[3]) / 100)
        for row in rows
        if len(row) == 4 and wanted & set(row[:2]) and all(cell.replace(".", "", 1).isdigit() for cell in row[2:])
    ]
