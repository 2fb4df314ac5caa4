"""The fork server: one job at a time, with a sandboxed candidate process per job and a sandboxed judge process.

The candidate is killed after each job. The judge is reused while jobs end normally; after a time-out or a fault it is
killed too. The server is started by exec in a clean environment, loads the modules that programs commonly import, and
then only forks. It never sees a program or a test: the client sends a descriptor, over which the judge gets both. So no
child can find another job's text in inherited memory.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from . import candidate, codec, frames, judge, kernel, lockdown, preloaded_modules, probes, readable_paths, script

_MESSAGE = 1 << 16
_JUDGE_JOBS = 500
"""Jobs after which a judge is replaced, so that what tests leave in its memory does not accumulate."""

_EXIT_SECONDS = 0.05
"""Seconds for a process to end after its channel was closed, so that its exit status is known."""

_REAP_SECONDS = 2.0
"""Seconds to wait for killed children before the server ends itself."""


class ClientGone(Exception):
    """The control socket was closed: this process and its children must end."""


def main(control_fd: int) -> None:
    """Serve until the control socket closes."""
    control = socket.socket(fileno=control_fd)
    # deadline: the worker's, which kills this process after its own
    server = Server(control, json.loads(control.recv(_MESSAGE)))
    try:
        server.announce_ready()
        while server.serve_one():
            pass
    except ClientGone:
        pass


class Judge:
    """A running judge: its process, the socket on which it gets jobs, and the isolation that it was started with."""

    def __init__(self, pid: int, feed: socket.socket, isolation: dict[str, Any]) -> None:
        self.pid, self.feed, self.isolation, self.jobs = pid, feed, isolation, 0

    def accepts(self, limits: dict[str, Any]) -> bool:
        """Whether it can take a job with these limits: isolated for them, below its number of jobs, and alive."""
        return self.isolation == _judge_limits(limits) and self.jobs < _JUDGE_JOBS and not _ended(self.pid)


class PreparedCandidate:
    """A candidate that was forked in advance: its process, the judge's end of its channel, and its isolation."""

    def __init__(self, pid: int, channel: int, isolation: tuple[Any, ...]) -> None:
        self.pid, self.channel, self.isolation = pid, channel, isolation


class Server:
    """See the module's docstring."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        self.control = control
        self.pid = os.getpid()
        soft = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
        # If memory runs out, the kernel should take these before the training run. Only a preference, so no matter if
        # the file cannot be written.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1, "prctl(subreaper)")
        # Other processes of the same user must not read this process through /proc or trace it.
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0, "prctl(dumpable)")
        kernel.share_heap()
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self.judge: Judge | None = None
        self.prepared: PreparedCandidate | None = None
        self.absent, package_directories = preloaded_modules.load(config["preload"], config["paths"])
        self.layers = lockdown.Layers(readable=readable_paths.paths(package_directories), **config["layers"])
        probes.PACKAGES += readable_paths.installed(config["paths"], package_directories)
        script.prepare()
        gc.collect()
        gc.freeze()

    def announce_ready(self) -> None:
        """Tell the client that the server is ready for jobs."""
        self.control.send(json.dumps({"ready": True, "absent": self.absent}).encode())

    def serve_one(self) -> bool:
        """Take one job and answer; False once the client is gone."""
        header, descriptors, _, _ = socket.recv_fds(self.control, _MESSAGE, 1)
        if not header or len(descriptors) != 1:
            return False
        job = json.loads(header)
        try:
            outcome = self._probe(job, descriptors[0]) if job["probe"] else self._run(job, descriptors[0])
        except OSError as error:  # no process, no descriptor, no memory: the client counts it as ours
            outcome = {"failed": f"the fork server: {error}"}
            self._stop_judge()  # it may be what failed: the next job gets a new one
            self._kill_leftovers()
        self.control.send(json.dumps(outcome).encode())
        if not job["probe"] and not job["stdio"]:
            self._prepare(job["limits"])
        return True

    def _prepare(self, limits: dict[str, Any]) -> None:
        """While the client is busy, fork and isolate the next candidate; it probably needs the same limits."""
        try:
            if self.judge is None:
                self._start_judge(limits)
            if self.prepared is None:
                started = self._start_candidate(limits, self.null, self.null, stdio=False)
                self.prepared = PreparedCandidate(*started, _isolation_of(limits))
        except OSError:
            # Only an optimization. If the fork fails again for the next job, that job reports the error.
            self._kill_leftovers()

    def _fork(self, limits: dict[str, Any], channels: list[int], role: str, body: Callable[[], None]) -> int:
        """Fork an isolated child with ``channels`` as its descriptors 0, 1, 2, ...; returns its process id.

        If the isolation fails, the child reports it on its channel and runs nothing.
        """
        child = os.fork()
        if child:
            return child
        try:
            _renumber(channels)
            try:
                self.layers.apply(limits, self.pid, keep=len(channels), judging=role == "judge")
            except OSError as error:
                frames.write_frame(candidate.CHANNEL, codec.pack({"failed": f"sealing failed: {error}"}))
            else:
                body()
        finally:
            # On every path: a child must never return into the server's loop.
            os._exit(1)

    def _start_candidate(self, limits: dict[str, Any], stdin: int, stdout: int, stdio: bool) -> tuple[int, int]:
        """Fork a candidate; returns its process id and the judge's end of its channel."""
        judge_end, candidate_end = socket.socketpair()
        with judge_end, candidate_end:
            channels = [stdin, stdout, self.null, candidate_end.fileno()]
            pid = self._fork(limits, channels, "candidate", lambda: _candidate(stdio))
            return pid, judge_end.detach()

    def _start_judge(self, limits: dict[str, Any]) -> None:
        """Fork a judge. It serves until a job ends abnormally; then it is replaced, so that no state remains."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            lasting = _judge_limits(limits)
            channels = [self.null, self.null, self.null, theirs.fileno()]
            self.judge = Judge(self._fork(lasting, channels, "judge", judge.serve), ours, lasting)

    def _run(self, job: dict[str, Any], client: int) -> dict[str, Any]:
        limits, stdio = job["limits"], job["stdio"]
        talk: list[int] = []
        descriptors = [client]
        try:
            if self.judge is None or not self.judge.accepts(limits):
                self._stop_judge()
                self._start_judge(limits)
            assert self.judge is not None
            if stdio:
                # A file, as judges have it: it has a size, and can be mapped. The judge writes it before the program
                # starts, and the program can only read it.
                written = os.memfd_create("stdin")
                descriptors.append(written)
                stdin = os.open(f"/proc/self/fd/{written}", os.O_RDONLY)
                descriptors.append(stdin)
                stdout_end, stdout = os.pipe()
                talk = [written, stdout_end]
                descriptors += [stdout_end, stdout]
                running, channel = self._start_candidate(limits, stdin, stdout, stdio)
                descriptors.append(channel)
                for descriptor in (stdin, stdout):
                    os.close(descriptor)
                    descriptors.remove(descriptor)
            else:
                running, channel = self._take_prepared(limits)
                descriptors.append(channel)
            started = time.monotonic()
            socket.send_fds(self.judge.feed, [b"%d" % limits["output_bytes"]], [channel, client, *talk])
            for descriptor in descriptors:
                os.close(descriptor)
            descriptors.clear()
            deadline = started + limits["wall_seconds"]
            timed_out = self._wait(self.judge.feed.fileno(), deadline)
            ended = self._end(running, timed_out, deadline if stdio else None)
            return {**ended, "seconds": time.monotonic() - started}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            self._kill_leftovers()

    def _take_prepared(self, limits: dict[str, Any]) -> tuple[int, int]:
        """The candidate that was forked in advance, if it has the right limits; else a new one."""
        prepared, self.prepared = self.prepared, None
        if prepared is not None:
            if prepared.isolation == _isolation_of(limits) and not _ended(prepared.pid):
                return prepared.pid, prepared.channel
            os.close(prepared.channel)
            _kill(prepared.pid)
            os.waitpid(prepared.pid, 0)
        return self._start_candidate(limits, self.null, self.null, stdio=False)

    def _wait(self, descriptor: int, deadline: float) -> bool:
        """Wait until ``descriptor`` is readable; True if the deadline came first. Raises ClientGone."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        # Rounded up: a poll that returns early would only be repeated.
        ready = poll.poll(max(0, int((deadline - time.monotonic()) * 1000) + 1))
        if any(number == self.control.fileno() for number, _ in ready):
            raise ClientGone
        return not ready

    def _end(self, running: int, timed_out: bool, deadline: float | None) -> dict[str, Any]:
        """Kill the candidate's group and, if the job ended abnormally, the judge; returns how the candidate ended.

        A script has until ``deadline`` to end: it may have closed its channel and still be running.
        """
        assert self.judge is not None
        # deadline: it was polled, and holds a word or is closed
        word = b"" if timed_out else self.judge.feed.recv(1)
        self.judge.jobs += 1
        if word not in (judge.DONE, judge.CANDIDATE_ENDED):
            # First, or it would see the candidate's end and report that.
            self._stop_judge()
        if word == judge.CANDIDATE_ENDED:
            # Its end of the channel closed a moment before it could be waited for.
            left = 0.0 if deadline is None else deadline - time.monotonic()
            timed_out = not self._ends(running, max(_EXIT_SECONDS, left)) and deadline is not None
        # Not reaped yet, so the kernel cannot give its PID to another process.
        ended = os.waitid(os.P_PID, running, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        _kill(running)
        _, status, usage = os.wait4(running, 0)
        return {
            "timed_out": timed_out,
            "candidate": None if ended is None else os.waitstatus_to_exitcode(status),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }

    def _stop_judge(self) -> None:
        if self.judge is not None:
            _kill(self.judge.pid)
            os.waitpid(self.judge.pid, 0)
            self.judge.feed.close()
            self.judge = None

    def _ends(self, child: int, seconds: float) -> bool:
        watched = os.pidfd_open(child)
        try:
            return bool(select.select([watched], [], [], seconds)[0])
        finally:
            os.close(watched)

    def _kill_leftovers(self) -> None:
        """Kill and reap all processes of a job; orphans become children of this process."""
        kept = {lasting.pid for lasting in (self.judge, self.prepared) if lasting is not None}
        started = time.monotonic()
        while strays := set(_children(self.pid)) - kept:
            waited = time.monotonic() - started
            if waited > _REAP_SECONDS:
                os._exit(1)  # our own death is the last means: each child dies with its parent
            for child in strays:
                _kill(child)
                os.waitpid(child, os.WNOHANG)
            time.sleep(0.0001)

    def _probe(self, job: dict[str, Any], client: int) -> dict[str, Any]:
        try:
            child = self._fork(job["limits"], [self.null, self.null, self.null, client], "candidate", _probes)
            watched = os.pidfd_open(child)
            try:
                return {"timed_out": self._wait(watched, time.monotonic() + job["limits"]["wall_seconds"])}
            finally:
                os.close(watched)
        finally:
            os.close(client)
            self._kill_leftovers()


def _renumber(channels: list[int]) -> None:
    """Make ``channels`` the descriptors 0, 1, 2, ... of this process."""
    # In two steps, since a source may have the number of a target.
    high = [os.dup2(channel, 200 + index, inheritable=False) for index, channel in enumerate(channels)]
    for index, channel in enumerate(high):
        os.dup2(channel, index)


def _ended(pid: int) -> bool:
    """Whether a child that has not been reaped is dead: it may have been killed while it waited for a job."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _isolation_of(limits: dict[str, Any]) -> tuple[Any, ...]:
    """What the isolation of a process depends on: a process forked earlier fits a job only if all of it is equal."""
    return tuple(value for name, value in sorted(limits.items()) if name not in ("wall_seconds", "output_bytes"))


def _judge_limits(limits: dict[str, Any]) -> dict[str, Any]:
    """The limits of a judge. It serves many jobs, so only the wall limit of each job bounds its time.

    It may write one file, which it is given: the standard input of a program.
    """
    return {
        "memory_bytes": limits["memory_bytes"],
        "cpu_seconds": 10**9,
        "file_bytes": judge.JOB_LIMIT,
        "processes": 1,
    }


def _candidate(stdio: bool) -> None:
    candidate.run(stdio)
    os._exit(0)


def _probes() -> None:
    found = {name: probes.attempt(probe) for name, probe in probes.PROBES.items()}
    frames.write_frame(candidate.CHANNEL, codec.pack({"found": found}))
    frames.write_frame(candidate.CHANNEL, codec.pack({"last": probes.execute()}))


def _kill(pid: int) -> None:
    """Kill a child that has not been reaped (so the number is still its own), and its group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _children(parent: int) -> list[int]:
    """Children of this process that run or wait to be reaped."""
    try:
        with open(f"/proc/{parent}/task/{parent}/children") as file:
            return [int(text) for text in file.read().split()]
    except FileNotFoundError:  # a kernel built without that file
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent_of(name) == parent]


def _parent_of(name: str) -> int:
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
