"""Clear messages where the disk of a run directory is full or not writable."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cluster.errors import UsageError

_FULL_REMEDY = "the disk (or quota) is full: free space, lower checkpoint.keep, or move run.directory"
_NO_ROOM = 64 << 10  # bytes free, below which a disk is full
_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunDirectoryError(UsageError):
    """The run directory cannot be used; the message names the path, the key and the remedy."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full; also an error that another process reported as text."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(os.strerror(code) in str(error) for code in _FULL)


@contextlib.contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turns an OSError about the run directory into one clear message that names the key and the remedy."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            remedy = _FULL_REMEDY
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "it is not writable: set run.directory to a directory that you may write"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            remedy = "a file is in the place of a directory: set run.directory or run.name to another path"
        else:
            remedy = "set run.directory to a directory that can be written"
        raise RunDirectoryError(f"run directory {path}: {remedy} ({error})") from error


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turns whatever a full disk makes writers below `path` raise into the same message; other errors pass.

    They may be other processes, and not all say why: torch only finds its file shorter than it should be.
    """
    try:
        yield
    except (RunDirectoryError, TimeoutError):  # says it already; the disk hangs, and would not answer
        raise
    except Exception as error:
        if is_full(error) or _has_no_room(path):
            raise RunDirectoryError(f"run directory {path}: {_FULL_REMEDY} ({error})") from error
        raise


def _has_no_room(path: Path) -> bool:
    """Whether the disk of `path` is full; False if it does not say, for example because the directory is gone."""
    try:
        return shutil.disk_usage(path).free < _NO_ROOM
    except OSError:
        return False
