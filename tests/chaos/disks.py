"""A small file system that can be filled and freed: a full disk, for one run only."""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path


class SmallDisk:
    """A tmpfs of `mib` MiB at `path`. Needs root; see :func:`small_disk`."""

    def __init__(self, path: Path, mib: float) -> None:
        self.path = path
        self._ballast = path / "ballast"
        path.mkdir()
        size = f"size={int(mib * 1024)}k"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)], capture_output=True, text=True)
        if done.returncode:
            path.rmdir()
            raise PermissionError(f"no file system can be mounted here: {done.stderr.strip()}")

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)
        self.path.rmdir()


@contextlib.contextmanager
def small_disk(path: Path, mib: float) -> Iterator[SmallDisk]:
    """A disk that exists inside the block.

    Raises:
        PermissionError: this process may not mount one.
    """
    disk = SmallDisk(path, mib)
    try:
        yield disk
    finally:
        disk.unmount()
