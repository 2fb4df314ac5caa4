"""Files that are replaced as a whole: after a crash or power loss there is the old content or the new one, no mix."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_file(path: Path, *, one_writer: bool = False) -> Iterator[BinaryIO]:
    """A new file to write, which is on disk as `path` after the block. If the block fails, `path` stays as it was.

    Args:
        one_writer: whether no two processes write `path` at once. Then the temporary file always has the same name, so
            that the next write replaces what a killed process leaves.
    """
    temporary = path.with_name(f".{path.name}.tmp" if one_writer else f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)  # free the space on a full disk
        raise
    sync_directory(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data`."""
    with atomic_file(path) as file:
        file.write(data)


def sync_directory(path: Path) -> None:
    """Make renames and new files in a directory durable, as far as its file system can."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network and user-space file systems refuse it for directories
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
