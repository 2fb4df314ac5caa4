"""File names of weight buckets in shared memory, and removal of leftovers."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from uuid import uuid4

SHARED_MEMORY = Path("/dev/shm")
STALE_SECONDS = 3600.0
_FILE_NAME = re.compile(r"^bonrl-(?P<run>[A-Za-z0-9_.]+)-(?P<pid>\d+)-[0-9a-f]{8}\.bucket$")


def new_path(run: str, directory: Path = SHARED_MEMORY) -> Path:
    """A new bucket path; it contains the run and the writer's PID, so that leftovers can be recognized."""
    return directory / f"bonrl-{_safe(run)}-{os.getpid()}-{uuid4().hex[:8]}.bucket"


def _safe(run: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]", "_", run) or "run"


def remove_stale(directory: Path = SHARED_MEMORY, *, run: str | None = None) -> list[Path]:
    """Remove the buckets of dead writers (killed in the middle of an update) and return their paths.

    Args:
        run: its buckets are removed at any age. Recent ones of other runs stay, because writers in a container with its
            own PID namespace look dead.
    """
    removed = []
    for path, match in _buckets(directory):
        if not _alive(int(match["pid"])):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                own = run is not None and match["run"] == _safe(run)
                if own or time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
                    removed.append(path)
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # a process of another user
    return True


def remove_written_by(pids: Collection[int], directory: Path = SHARED_MEMORY) -> list[Path]:
    """Remove the buckets of these processes, which were killed, and return their paths."""
    removed = [path for path, match in _buckets(directory) if int(match["pid"]) in pids]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def _buckets(directory: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in directory.glob("bonrl-*.bucket"):
        if match := _FILE_NAME.match(path.name):
            yield path, match
