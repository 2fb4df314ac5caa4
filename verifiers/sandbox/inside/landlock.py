"""Landlock: this process may read the given paths and what is below them, and no other file; no TCP, no signals out.

Offered by Linux to unprivileged processes since 5.13 (file access), with TCP since ABI 4 and the scoping of
signals and abstract Unix sockets since ABI 6. Not covered by Landlock: stat(), readlink(), UDP.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from . import kernel

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# How many kinds of file access each ABI knows; kinds that are not named to the kernel stay allowed.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_NEWEST_FILE_RIGHTS = 16


def abi() -> int:
    """The version of Landlock that the kernel supports. Raises OSError if it has none."""
    return kernel.syscall(_CREATE, "landlock_create_ruleset", None, 0, _VERSION)


def ruleset(readable: Iterable[str]) -> int:
    """A ruleset that allows reading of and below ``readable`` (absent paths are left out) and nothing else.

    Returns:
        A file descriptor for ``restrict``; make it once, use it in every child. Raises OSError.
    """
    version = abi()
    files = (1 << _FILE_RIGHTS.get(version, _NEWEST_FILE_RIGHTS)) - 1
    network = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0
    attributes = struct.pack("<QQQ", files, network, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    made = kernel.syscall(_CREATE, "landlock_create_ruleset", ctypes.c_char_p(attributes), size, 0)
    for path in readable:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights = _READ_FILE | (_READ_DIR if stat.S_ISDIR(os.fstat(place).st_mode) else 0)
        rule = struct.pack("<Qi", rights, place)
        kernel.syscall(_ADD_RULE, "landlock_add_rule", made, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
        os.close(place)
    return made


def restrict(made: int) -> None:
    """Restrict this process by the ruleset permanently; `no_new_privs` must be set. Raises OSError."""
    kernel.syscall(_RESTRICT_SELF, "landlock_restrict_self", made, 0)
