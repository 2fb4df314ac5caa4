"""A seccomp filter that lets a running Python compute, and nothing else: an allow-list over system calls.

Other calls fail with EPERM (clone3 with ENOSYS, as on a kernel without it). The kernel offers this
without privileges (`no_new_privs` first). x86_64 only: elsewhere ``build`` raises and the layer counts as absent.
Every jump stays inside the few instructions of its own rule, because one wrong offset opens the whole filter.
The probes verify at each start that the filter works.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

from . import kernel

_SYS_SECCOMP = 317
_SET_MODE_FILTER = 1
_ALL_THREADS = 1
_AUDIT_ARCH_X86_64 = 0xC000003E
_X32_BIT = 0x40000000

_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _GREATER_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

# Numbers of arch/x86/entry/syscalls/syscall_64.tbl.
_PLAIN = {
    **{"read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10},
    **{"munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17},
    **{"readv": 19, "writev": 20, "pipe": 22, "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28},
    **{"dup": 32, "dup2": 33, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38, "getpid": 39},
    **{"exit": 60, "uname": 63, "getcwd": 79, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "times": 100},
    **{"getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111},
    **{"sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204},
    **{"set_tid_address": 218, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229},
    **{"clock_nanosleep": 230, "exit_group": 231, "pselect6": 270, "ppoll": 271, "set_robust_list": 273},
    **{"dup3": 292, "pipe2": 293, "getcpu": 309, "getrandom": 318, "membarrier": 324, "rseq": 334},
}
# Looking at files; only where opens for reading are allowed at all.
_LOOK = {
    **{"stat": 4, "lstat": 6, "access": 21, "getdents": 78, "readlink": 89, "getdents64": 217},
    **{"newfstatat": 262, "readlinkat": 267, "faccessat": 269, "statx": 332, "faccessat2": 439},
}
_RECVMSG = 47
_OPEN, _OPENAT, _FCNTL, _PRLIMIT, _CLONE3 = 2, 257, 72, 302, 435
_OWN_LIMITS = (2, 3, 9)  # DATA, STACK, AS
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000  # WRONLY, RDWR, CREAT, TRUNC, APPEND, TMPFILE
# DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC. SETOWN and similar ones would send signals, so they are not allowed.
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)

Instruction = tuple[int, int, int, int]


def _argument(index: int, high: bool = False) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * index + (4 if high else 0))


def _ret(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


def _deny(number: int = errno.EPERM) -> Instruction:
    return _ret(_ERRNO | number)


def _rule(number: int, body: list[Instruction]) -> list[Instruction]:
    """If the system call is ``number``, run ``body``, which must end in a return on every path."""
    return [(_EQUAL, 0, len(body), number), *body]


def build(reading: bool, receiving: bool = False) -> bytes:
    """The filter as the kernel reads it.

    Args:
        reading: Files may be opened for reading (Landlock says which); else none may be opened at all.
        receiving: Messages, with descriptors in them, may be received over sockets that are open already.

    Raises:
        OSError: This is not x86_64.
    """
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, f"the seccomp filter is written for x86_64, and this is {platform.machine()}")
    code: list[Instruction] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        _ret(_KILL),
        (_LOAD, 0, 0, 0),
        (_GREATER_EQUAL, 0, 1, _X32_BIT),
        _deny(),
    ]
    for number in (*_PLAIN.values(), *(_LOOK.values() if reading else ()), *([_RECVMSG] if receiving else [])):
        code += _rule(number, [_ret(_ALLOW)])
    if reading:
        for number, index in ((_OPEN, 1), (_OPENAT, 2)):
            code += _rule(number, [_argument(index), (_ANY_BIT, 0, 1, _WRITING), _deny(), _ret(_ALLOW)])
    commands: list[Instruction] = [_argument(1)]
    for command in _FCNTL_COMMANDS:
        commands += [(_EQUAL, 0, 1, command), _ret(_ALLOW)]
    code += _rule(_FCNTL, [*commands, _deny()])
    # prlimit may read this process's own limits (pid 0 and no new limit), and set those of its memory, which without
    # privileges means lower ones, and of its stack, which they bound.
    own: list[Instruction] = [_argument(0), (_EQUAL, 1, 0, 0), _deny()]
    own.append(_argument(1))
    for limit in _OWN_LIMITS:
        own += [(_EQUAL, 0, 1, limit), _ret(_ALLOW)]
    for load in (_argument(2), _argument(2, high=True)):
        own += [load, (_EQUAL, 1, 0, 0), _deny()]
    code += _rule(_PRLIMIT, [*own, _ret(_ALLOW)])
    code += _rule(_CLONE3, [_deny(errno.ENOSYS)])
    code.append(_deny())
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install(program: bytes) -> None:
    """Put this process, with all its threads, under the filter, which cannot be removed.

    `no_new_privs` must be set. Raises OSError.
    """
    loaded = _Program(len(program) // 8, program)
    stubborn = kernel.syscall(_SYS_SECCOMP, "seccomp", _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(loaded))
    if stubborn:
        raise OSError(errno.EBUSY, f"seccomp: the filter does not reach thread {stubborn}")
