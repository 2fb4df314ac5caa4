"""Which actors log outside of the run directory, because their host does not see it: logs/elsewhere.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cluster.errors import UsageError
from cluster.records.run_directory import RunDirectory

if TYPE_CHECKING:
    from actors.process_stats import Heartbeat

FILE = "logs/elsewhere.json"


class LogPlace(NamedTuple):
    """A log file on the disk of a host."""

    host: str
    file: str

    def __str__(self) -> str:
        return f"{self.file} on {self.host}, which does not see the run directory"


def logs_elsewhere(run: Path) -> dict[str, LogPlace]:
    """Actor -> its log file on a host that does not see the run directory, as last reported.

    Raises:
        UsageError: the list cannot be read.
    """
    try:
        listed = json.loads((run / FILE).read_text(encoding="utf-8"))
        return {actor: LogPlace(**place) for actor, place in listed.items()}
    except FileNotFoundError:  # all logs are in the run directory
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{run / FILE} cannot be read ({error}); remove it to continue without it") from error


class LogPlaces:
    """Keeps the list of a run up to date, from heartbeats."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._seen: dict[str, LogPlace] = {}
        self._elsewhere = logs_elsewhere(directory.path)  # of the processes before a resume

    def on_heartbeat(self, actor: str, heartbeat: Heartbeat) -> None:
        """Take note of an actor's heartbeat."""
        name, place = actor.replace(" ", "-"), LogPlace(heartbeat.host, heartbeat.log_file)
        if not place.file or self._seen.get(name) == place:
            return
        self._seen[name] = place
        before, logs = self._elsewhere.get(name), self._directory.logs
        # A file of the same path may be on the actor's own disk.
        if Path(place.file).parent == logs and (logs / f"{name}.log").is_file():
            self._elsewhere.pop(name, None)
        else:
            self._elsewhere[name] = place
        if self._elsewhere.get(name) != before:
            self._directory.replace_json(FILE, {one: place._asdict() for one, place in self._elsewhere.items()})
