"""What an isolated process can still do. Each probe tries one operation, so a layer counts only if it has an effect.

A probe answers ``denied: reason`` or ``allowed``. No probe does harm if it succeeds.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import socket
import struct
import tempfile
from collections.abc import Callable

from . import kernel

# Determined before the isolation, because it needs a write.
_TEMPORARY = tempfile.gettempdir()

PACKAGES: list[str] = []
"""Files of installed packages that programs must not read; filled before the isolation."""


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _thread() -> None:
    import _thread

    _thread.start_new_thread(int, ())


def _socket(family: int, kind: int) -> Callable[[], None]:
    return lambda: socket.socket(family, kind).close()


def _ptrace_parent() -> None:
    seize = 0x4206  # stops nothing, and ends with this process
    kernel.syscall(101, "ptrace", seize, os.getppid() or 1, 0, 0)


def _read_parent_memory() -> None:
    buffer = ctypes.create_string_buffer(8)
    local = struct.pack("<QQ", ctypes.addressof(buffer), 8)
    remote = struct.pack("<QQ", id(None), 8)
    # Children of a fork server share its layout, so this address is valid there.
    kernel.syscall(310, "process_vm_readv", os.getppid() or 1, ctypes.c_char_p(local), 1, ctypes.c_char_p(remote), 1, 0)


def _write_file() -> None:
    path = os.path.join(_TEMPORARY, f"bonrl-probe-{os.getpid()}-{os.urandom(4).hex()}")
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.unlink(path)


def _read(path: str) -> Callable[[], None]:
    def probe() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        os.close(descriptor)

    return probe


def _read_packages() -> None:
    refusal: OSError = FileNotFoundError(errno.ENOENT, "no package is installed")
    for path in PACKAGES:
        try:
            return _read(path)()
        except OSError as error:
            refusal = error
    raise refusal


def _status() -> None:
    os.stat("/etc/passwd")


def _list_root() -> None:
    if not os.listdir("/"):
        raise PermissionError(errno.ENOENT, "empty")


def _memory() -> None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    mmap.mmap(-1, (8 << 30) if limit == resource.RLIM_INFINITY else limit).close()


def _raise_limit() -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    if resource.getrlimit(resource.RLIMIT_AS) == unlimited:
        return
    resource.setrlimit(resource.RLIMIT_AS, unlimited)


def _unshare() -> None:
    kernel.check(kernel._libc.unshare(ctypes.c_int(0x10000000)), "unshare")


def _foreign_process() -> None:
    if os.getpid() == 1:
        raise PermissionError(errno.ESRCH, "own process namespace")


PROBES: dict[str, Callable[[], None]] = {
    "allocate beyond the memory limit": _memory,
    "raise a limit": _raise_limit,
    "fork": _fork,
    "start a thread": _thread,
    "open a TCP socket": _socket(socket.AF_INET, socket.SOCK_STREAM),
    "open a UDP socket": _socket(socket.AF_INET, socket.SOCK_DGRAM),
    "open a Unix socket": _socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "signal the parent": lambda: os.kill(os.getppid() or 1, 0),
    "trace the parent": _ptrace_parent,
    "read the parent's memory": _read_parent_memory,
    "make a namespace": _unshare,
    "write a file": _write_file,
    "read /etc/passwd": _read("/etc/passwd"),
    "read the environment": _read("/proc/self/environ"),
    "list /": _list_root,
    "see a file's status": _status,
    "read the standard library": _read(os.__file__),
    "read installed packages": _read_packages,
    "see other processes": _foreign_process,
}
LAST = "execute a program"


def attempt(probe: Callable[[], None]) -> str:
    """``allowed`` or ``denied: why``."""
    try:
        probe()
    except (OSError, ValueError, MemoryError, RuntimeError) as error:
        number = getattr(error, "errno", None)
        return f"denied: {errno.errorcode.get(number, '') if number else type(error).__name__}"
    return "allowed"


def execute() -> str:
    """Run another program. If that is allowed, this function does not return."""
    return attempt(lambda: os.execv("/bin/true", ["true"]))
