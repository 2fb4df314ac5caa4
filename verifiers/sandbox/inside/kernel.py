"""System calls that Python has no function for, by ctypes. Linux only; numbers checked for x86_64."""

from __future__ import annotations

import ctypes
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 1, 4, 38, 36
_SYS_CAPSET = 126
_SYS_FSTAT = 5
_STATUS = struct.Struct("<QQQIIIxxxxQqqq")  # device, inode, links, mode, user, group, (device), size, ...; then times
_CLONE_NAMESPACES = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000


def check(result: int, what: str) -> int:
    """``result`` of a C call, or OSError with its errno where it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, what: str, *arguments: object) -> int:
    """Call by number; raises OSError. Integers are passed as C longs."""
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return check(_libc.syscall(ctypes.c_long(number), *plain), what)


def prctl(option: int, value: int, what: str) -> None:
    """Set one attribute of this process; raises OSError."""
    zero = ctypes.c_ulong(0)
    check(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), what)


def share_heap() -> None:
    """Let all threads of this process and its children allocate from one heap: each additional heap reserves 64 MiB."""
    arena_max = -8  # M_ARENA_MAX of glibc; other C libraries have no such heaps
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(ctypes.c_int(arena_max), ctypes.c_int(1))


def status_of(descriptor: int) -> os.stat_result:
    """``os.fstat`` by the system call of that name, without the times. Raises OSError."""
    buffer = ctypes.create_string_buffer(256)
    syscall(_SYS_FSTAT, "fstat", descriptor, buffer)
    device, inode, links, mode, user, group, _, size, _, _ = _STATUS.unpack_from(buffer)
    return os.stat_result((mode, inode, device, links, user, group, size, 0, 0, 0))


def drop_capabilities() -> None:
    """Drop every capability, also those inside a separate user namespace."""
    header = struct.pack("<Ii", 0x20080522, 0)
    syscall(_SYS_CAPSET, "capset", ctypes.c_char_p(header), ctypes.c_char_p(bytes(24)))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    encoded = [None if text is None else ctypes.c_char_p(text.encode()) for text in (source, target, kind)]
    options = None if data is None else ctypes.c_char_p(data.encode())
    check(_libc.mount(*encoded, ctypes.c_ulong(flags), options), f"mount on {target}")


def enter_namespaces() -> None:
    """Enter new user, mount, network, PID, IPC and UTS namespaces with an empty read-only root.

    Needs no privilege where the kernel lets users make user namespaces. The pid namespace takes effect
    with the next fork. Raises OSError.
    """
    uid, gid = os.getuid(), os.getgid()
    # After a change of uid /proc/self belongs to root until the process is dumpable again.
    prctl(PR_SET_DUMPABLE, 1, "prctl(dumpable)")
    flags = 0
    for flag in _CLONE_NAMESPACES.values():
        flags |= flag
    check(_libc.unshare(ctypes.c_int(flags)), "unshare")
    for name, text in (("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1"), ("uid_map", f"{uid} {uid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE, None)
    # Any directory will do as the mount point; /proc exists everywhere and is not needed any more.
    _mount("tmpfs", "/proc", "tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, "size=4k")
    os.chroot("/proc")
    os.chdir("/")
