"""The log files of a run's actors (``actors/logs.py``): read and merged by time, or followed."""

from __future__ import annotations

import heapq
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cluster.errors import UsageError
from cluster.records.log_places import LogPlace, logs_elsewhere

_HEADER = re.compile(r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[A-Z]+) (?P<actor>\S+) step \d+ ")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, order=True, slots=True)
class LogRecord:
    """One message; `text` has all its lines, such as a traceback. Records are ordered by time."""

    time: str
    actor: str
    level: str = field(compare=False)
    text: str = field(compare=False)

    def at_least(self, level: str) -> bool:
        """Whether it is as serious as `level`. A level that Python does not know counts as the most serious."""
        levels = logging.getLevelNamesMapping()
        return levels.get(self.level, logging.CRITICAL) >= levels[level]


def log_files(run: Path, actor: str | None = None) -> dict[str, Path]:
    """Actor -> its newest log file in the run directory.

    Args:
        run: run directory.
        actor: `sampler-0`, or `sampler` for all samplers; None: all.

    Raises:
        UsageError: the run has no log files, or none of this actor; if they are on another host, the message names it.
    """
    found = {file.stem: file for file in sorted((run / "logs").glob("*.log"))}
    if not found:
        raise UsageError(f"{run}: no log files in {run / 'logs'}; give a run directory, such as runs/NAME")
    chosen = {name: file for name, file in found.items() if _is_meant(name, actor)}
    if not chosen:
        if places := logged_elsewhere(run, actor):
            files = "\n".join(f"  {name}: {place}" for name, place in places.items())
            raise UsageError(f"{run} has no log of {actor!r}; read it on its host:\n{files}")
        raise UsageError(f"{run} has no log of {actor!r}; there are {', '.join(found)}")
    return chosen


def logged_elsewhere(run: Path, actor: str | None = None) -> dict[str, LogPlace]:
    """Those of :func:`cluster.records.log_places.logs_elsewhere` that `actor` means, as in :func:`log_files`."""
    return {name: place for name, place in logs_elsewhere(run).items() if _is_meant(name, actor)}


def _is_meant(name: str, actor: str | None) -> bool:
    wanted = (actor or "").replace(" ", "-")
    return wanted in ("", name) or name.startswith(f"{wanted}-")


def merged(files: Iterable[Path]) -> Iterator[LogRecord]:
    """All records of these files and of their older parts (NAME.log.1, ...), by time."""
    return heapq.merge(*(_all_of(file) for file in files))


class Follower:
    """Reads what is added to log files, also after they are rotated, and new files.

    Args:
        run: run directory.
        actor: as in :func:`log_files`.
    """

    def __init__(self, run: Path, actor: str | None) -> None:
        self._run, self._actor = run, actor
        self._open: dict[str, BinaryIO] = {}
        self._rest: dict[str, bytes] = {}  # of a line that is not complete yet

    def new(self) -> list[LogRecord]:
        """The records that were added since the last call, by time; at first all of them."""
        found: list[LogRecord] = []
        for actor, file in log_files(self._run, self._actor).items():
            if actor not in self._open:
                found += _all_of(file, newest=False)
            found += _records(self._lines(actor, file), actor)
        return sorted(found)

    def _lines(self, actor: str, file: Path) -> Iterator[str]:
        """The complete new lines; a file that was rotated is read to its end first."""
        for _ in range(2):
            stream = self._open.get(actor) or file.open("rb")
            self._open[actor] = stream
            content = self._rest.pop(actor, b"") + stream.read()
            complete, newline, self._rest[actor] = content.rpartition(b"\n")
            yield from (complete + newline).decode(errors="replace").split("\n")[:-1]
            if not file.exists() or file.samefile(f"/proc/self/fd/{stream.fileno()}"):
                return
            stream.close()
            del self._open[actor]


def _all_of(file: Path, *, newest: bool = True) -> Iterator[LogRecord]:
    """The records of a log, its older parts first."""
    older = sorted(file.parent.glob(f"{file.name}.[0-9]"), reverse=True)
    for part in [*older, *([file] if newest else [])]:
        with part.open(encoding="utf-8", errors="replace", newline="\n") as lines:  # a text may hold a bare \r
            yield from _records(lines, file.stem)


def _records(lines: Iterable[str], actor: str) -> Iterator[LogRecord]:
    """Messages of one actor; a line without a header belongs to the message before it."""
    time, level, text = "", "INFO", ""
    for line in lines:
        header = _HEADER.match(line)
        if header is not None:
            if text:
                yield LogRecord(time, actor, level, text.rstrip("\n"))
            time, level, text = header["time"], header["level"], ""
        text += line.rstrip("\n") + "\n"
    if text:
        yield LogRecord(time, actor, level, text.rstrip("\n"))
