"""Applies the configured isolation layers to the calling process, a new fork."""

from __future__ import annotations

import os
import resource
import select
import signal
from typing import Any

from . import kernel, landlock, threads
from . import seccomp as _seccomp


class Layers:
    """The isolation layers of one server: created once, applied in each child.

    Args:
        uid: Children switch to this user; None: they keep theirs.
        namespaces: Each child gets separate namespaces and an empty root.
        seccomp: ``closed`` (no file is opened), ``reading`` (for reading only), or None (no filter).
        landlock: Only ``readable`` can be read.
        readable: Files and directories that programs may read, with all that is below.
    """

    def __init__(
        self, *, uid: int | None, namespaces: bool, seccomp: str | None, landlock: bool, readable: list[str]
    ) -> None:
        self.uid = uid
        self.namespaces = namespaces
        reading = seccomp == "reading"
        self._filter = b"" if seccomp is None else _seccomp.build(reading)
        self._judge_filter = b"" if seccomp is None else _seccomp.build(reading, receiving=True)
        self._ruleset = _ruleset(readable) if landlock else None

    def apply(self, limits: dict[str, Any], parent: int, keep: int, judging: bool = False) -> None:
        """Isolate this process. With namespaces it returns in a grandchild, whose parent waits for it.

        Args:
            limits: ``cpu_seconds``, ``memory_bytes``, ``file_bytes``, ``processes`` (its threads).
            parent: Process id of the server; when it dies, so does this process.
            keep: Descriptors below this number stay open.
            judging: It will receive descriptors over sockets (and is trusted to, as a candidate is not).

        Raises:
            OSError: A layer could not be applied; then nothing untrusted may run.
        """
        os.setsid()
        # The ruleset moves below the line under which descriptors stay; it is closed once it is in force.
        ruleset = None if self._ruleset is None else os.dup2(self._ruleset, keep, inheritable=False)
        os.closerange(keep + (ruleset is not None), 4096)
        if self.uid is not None:
            os.setgroups([])
            os.setresgid(self.uid, self.uid, self.uid)
            os.setresuid(self.uid, self.uid, self.uid)
        _die_with(parent)
        if self.namespaces:
            kernel.enter_namespaces()
            _become_init()
            kernel.drop_capabilities()
        idle_threads = 0 if judging else limits["processes"] - 1
        _set_limits(limits, idle_threads)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0, "prctl(dumpable)")
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1, "prctl(no_new_privs)")
        if ruleset is not None:
            landlock.restrict(ruleset)
            os.close(ruleset)
        if idle_threads:
            threads.start_idle(idle_threads)
        if self.uid is not None or self.namespaces:
            # The kernel counts per user, and looks at the limit only when one more is wanted: so none is started.
            _limit(resource.RLIMIT_NPROC, 1, 1)
        program = self._judge_filter if judging else self._filter
        if program:
            _seccomp.install(program)


def _ruleset(readable: list[str]) -> int:
    # Away from the low numbers, which the children's channels take.
    made = landlock.ruleset(readable)
    moved = os.dup2(made, 100, inheritable=False)
    os.close(made)
    return moved


def _die_with(parent: int) -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL, "prctl(pdeathsig)")
    if os.getppid() != parent:
        os._exit(1)


def _become_init() -> None:
    """Fork into the new process namespace; the parent only passes on the exit status."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.closerange(0, writer)
        os.closerange(writer + 1, 4096)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
            os.kill(os.getpid(), number)
        os._exit(os.WEXITSTATUS(status))
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL, "prctl(pdeathsig)")
    os.close(writer)
    if select.select([reader], [], [], 0)[0]:  # its end: the parent died before its death could be announced
        os._exit(1)
    os.close(reader)


def _set_limits(limits: dict[str, Any], idle_threads: int) -> None:
    cpu = int(-(-limits["cpu_seconds"] // 1))
    _limit(resource.RLIMIT_CPU, cpu, cpu + 1)
    memory = limits["memory_bytes"] + threads.stack_bytes(idle_threads)
    fixed = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, value in fixed.items():
        _limit(kind, value, value)
    # As deep as the memory limit lets it be. What a program asks for beyond the usual 8 MiB is there already.
    _limit(resource.RLIMIT_STACK, memory, resource.getrlimit(resource.RLIMIT_STACK)[1])


def _limit(kind: int, soft: int, hard: int) -> None:
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), ceiling if hard == resource.RLIM_INFINITY else min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))
