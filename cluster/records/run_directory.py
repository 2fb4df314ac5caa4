"""The directory of a run, which describes itself (for users: docs/run-directory.md).

    config.yaml     the resolved configuration that the run was last started with, every default included
    config_changes.jsonl  what resumes changed in it: cluster/records/config_changes.py
    versions.json   Python, packages, platform, CPU count
    git.json        commit of the source tree and whether it was changed
    metrics.jsonl   one JSON object a line: a row of cluster/records/metrics.yaml with its axis values
    logs/           driver.log and one file per actor: actors/logs.py; elsewhere.json: log_places.py
    groups/         graded groups as Parquet: step-000001.parquet, ... and evaluation-000000.parquet, ...
    checkpoints/    see cluster/records/checkpoints.py
    queue.arrow     the replay queue's accounting, from which a new queue actor continues
    incidents.jsonl actors that were lost and replaced; quarantine/ prompts that are skipped (telemetry/incidents.py)
    user_code.json  the user's rewards, tasks and plugins: SHA-256; user_code/ copies (cluster/records/user_code.py)
    input_files.json  where relative paths led to; input_files/ copies of a job's (cluster/records/input_files.py)
    model_weights.json  the weights that the run began with: cluster/checks/starting_weights.py
    verifiers.json  isolation of the programs that the verifier workers run: cluster/run/startup.py
    wandb/          wandb's own files, when it is on; also tensorboard/ and mlflow/
    best.json       the best evaluated step: cluster/records/best.py
    summary.json    what the run ended with
    lock            held (flock) by the process that runs here

Whole files are replaced atomically (temporary file, fsync, rename), so a killed run leaves the old or the new
one. metrics.jsonl is appended line by line; `rewind` repairs it on resume: the rows of steps after the
checkpoint are dropped, with the groups of those steps, because they are about to be trained again. So each
file holds every step once. Non-finite numbers are written as the strings "NaN", "Infinity" and "-Infinity",
which strict JSON readers accept and `float()` understands.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import yaml

from actors.atomic_file import write_atomically
from actors.ordered_writer import OrderedWriter
from actors.threads import in_daemon_thread
from cluster.records.disk import RunDirectoryError, clear_errors
from cluster.records.metric_names import EVALUATION_STEP, TIME, TRAIN_STEP, check_row, to_number
from cluster.records.software import GIT_FILE, VERSIONS_FILE, git_state, versions

INCIDENTS_FILE = "incidents.jsonl"
_END_SECONDS = 5.0  # for what is left to write when a run fails
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunDirectory:
    """An open, locked run directory. Use `create` or `open`, then `close` (or a `with` block)."""

    def __init__(self, path: Path, lock: TextIO) -> None:
        self.path = path
        self._lock: TextIO | None = lock
        self._metrics: TextIO | None = None
        self._writer: OrderedWriter | None = None
        # A forked child would keep the lock after this process died, and block the next resume.
        os.register_at_fork(after_in_child=self._drop_lock_in_child)

    @classmethod
    def create(cls, base: str | Path, name: str | None, config: Mapping[str, Any]) -> RunDirectory:
        """Makes `base/name` (a time stamp without a name), locks it and writes what describes the run.

        Raises RunDirectoryError if the directory holds a run already, cannot be written or the disk is full.
        """
        if name is not None and not _NAME.fullmatch(name):
            raise RunDirectoryError(
                f"run.name {name!r} cannot be a directory name: use letters, digits, '.', '_' and '-'"
            )
        base = Path(base).expanduser().absolute()
        with clear_errors(base):
            base.mkdir(parents=True, exist_ok=True)
            path = base / name if name is not None else _make_stamped(base)
            path.mkdir(exist_ok=True)
            directory = cls(path, _take_lock(path))
        try:
            if (path / "config.yaml").exists():
                raise RunDirectoryError(occupied(path))
            with clear_errors(path):
                for sub in ("groups", "checkpoints", "logs"):
                    (path / sub).mkdir(exist_ok=True)
            directory._describe(config)
        except BaseException:
            directory.close()
            raise
        return directory

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Opens and locks the directory of an earlier run; RunDirectoryError if it is none or is in use."""
        path = Path(path).expanduser().absolute()
        if not (path / "config.yaml").is_file():
            raise RunDirectoryError(
                f"{path} is not a run directory (it has no config.yaml): give a run directory to --resume"
            )
        with clear_errors(path):
            return cls(path, _take_lock(path))

    def _describe(self, config: Mapping[str, Any]) -> None:
        self.write_json(VERSIONS_FILE, versions())
        self.write_json(GIT_FILE, git_state())
        # Last: its presence marks a complete description.
        self.write_config(config)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def groups(self) -> Path:
        return self.path / "groups"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replaces config.yaml by a resolved configuration."""
        self.write_text("config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def write_text(self, name: str, text: str) -> None:
        """Replaces one file of the directory atomically; its folder is made if need be."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """As `write_text`, for any content."""
        with clear_errors(self.path):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / name, data)

    def write_json(self, name: str, value: Any) -> None:
        """Replaces one JSON file of the directory atomically (non-finite numbers as strings)."""
        self.write_text(name, _json(value))

    def remove(self, name: str) -> None:
        """Removes one file of the directory if it is there."""
        with clear_errors(self.path):
            (self.path / name).unlink(missing_ok=True)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json: what the run ended with."""
        self.write_json("summary.json", dict(summary))

    @contextlib.asynccontextmanager
    async def written_on_a_thread(self, deadline_s: float) -> AsyncIterator[None]:
        """Inside the block the methods `append_...` and `replace_json` only queue what they write.

        So a slow disk does not stop the event loop. An error of a write is raised by the next of these calls, by
        `flush`, or at the end of the block, which writes the rest.

        Args:
            deadline_s: seconds that one write may take; then the next call raises TimeoutError.
        """
        self._writer = writer = OrderedWriter(f"write to {self.path} (see deadlines.checkpoint_s)", deadline_s)
        try:
            yield
            await self.flush(deadline_s)
        except BaseException:
            with contextlib.suppress(Exception):  # it ends for another reason
                await self.flush(_END_SECONDS)
            raise
        finally:
            if writer.idle:  # else the disk hangs, and would stop whoever writes to it
                self._writer = None

    async def flush(self, deadline_s: float) -> None:
        """What was queued is in its files, and the rows of metrics.jsonl are durable.

        Raises:
            RunDirectoryError: a write failed.
            TimeoutError: they were not written within `deadline_s`.
        """
        if (writer := self._writer) is not None:
            writer.add(self._sync_metrics)
            await in_daemon_thread(
                partial(writer.flush, deadline_s),
                owner="the driver",
                to=f"write to {self.path} (see deadlines.checkpoint_s)",
                deadline_s=deadline_s + 1,  # its own comes first
            )

    def _in_order(self, write: Callable[[], object]) -> None:
        if self._writer is None:
            write()
        else:
            self._writer.add(write)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Appends one row to metrics.jsonl; it is in the file on return, or after `flush`.

        Raises MetricError on a bad row.
        """
        check_row(row)
        line = json.dumps({k: _strict(to_number(k, v)) for k, v in row.items()}, allow_nan=False)
        self._in_order(partial(self._append_row, line))

    def _append_row(self, line: str) -> None:
        with clear_errors(self.path):
            if self._metrics is None:
                self._metrics = (self.path / "metrics.jsonl").open("a", buffering=1, encoding="utf-8")
            self._metrics.write(line + "\n")

    def _sync_metrics(self) -> None:
        if self._metrics is not None:
            with clear_errors(self.path):
                os.fsync(self._metrics.fileno())

    def append_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Appends one object to a file of JSON lines."""
        line = json.dumps(_strict(value), allow_nan=False)
        self._in_order(partial(self._append_line, name, line))

    def _append_line(self, name: str, line: str) -> None:
        with clear_errors(self.path), (self.path / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def replace_json(self, name: str, value: Any) -> None:
        """As `write_json`, in the order of the other writes of a run that is under way."""
        self._in_order(partial(self.write_text, name, _json(value)))

    def append_incident(self, kind: str, unit: str, **what: Any) -> None:
        """Appends to incidents.jsonl what went wrong with a unit, and when (kinds: cluster/telemetry/incidents.py)."""
        self.append_json(INCIDENTS_FILE, {"time": time.time(), "kind": kind, "unit": unit, **what})

    def read_metrics(self) -> list[dict[str, int | float]]:
        """All rows of metrics.jsonl; an incomplete last line (of a killed run) is left out."""
        return read_metrics(self.path)

    def elapsed_s(self) -> float:
        """Seconds of wall clock that the steps in metrics.jsonl took: where `time/s` continues after a resume."""
        return max((row[TIME] for row in self.read_metrics() if TIME in row), default=0.0)

    def rewind(self, step: int) -> int:
        """Drops metrics rows and group files of optimizer steps after `step`; returns the rows dropped.

        A row belongs to its `train/step` or `evaluation/step`; a row with neither to the row before it.
        """
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        file = self.path / "metrics.jsonl"
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        lines = text.splitlines()
        kept, current = [], 0
        for line in lines:
            row = parse_row(line)
            if row is not None:
                steps = [int(row[axis]) for axis in (TRAIN_STEP, EVALUATION_STEP) if axis in row]
                current = max(steps, default=current)
                if current <= step:
                    kept.append(line)
        if text != "".join(line + "\n" for line in kept):  # also when only the last newline is missing
            self.write_text("metrics.jsonl", "".join(line + "\n" for line in kept))
        with clear_errors(self.path):
            for group_file in self.groups.glob("*-*.parquet"):  # step-000050, evaluation-000050
                number = group_file.stem.rpartition("-")[2]
                if number.isdigit() and int(number) > step:
                    group_file.unlink()
        return len(lines) - len(kept)

    def close(self) -> None:
        """Closes metrics.jsonl and gives the lock back. Safe to call twice."""
        metrics, self._metrics = self._metrics, None
        # A full disk must not hide the error that ended the run; it raised when the row was appended. On one that hangs
        # the file cannot be closed.
        if metrics is not None and self._writer is None:
            with contextlib.suppress(OSError):
                metrics.close()
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def _drop_lock_in_child(self) -> None:
        if self._lock is not None:
            self._lock.close()  # the lock itself stays with the parent's descriptor
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, int | float]]:
    """The rows of `path/metrics.jsonl`, also of a running run; an incomplete last line is left out."""
    file = Path(path) / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    return [row for row in map(parse_row, lines) if row is not None]


def parse_row(line: str) -> dict[str, int | float] | None:
    """A row of metrics.jsonl; None if the line is incomplete or damaged."""
    try:
        row = {key: float(value) if isinstance(value, str) else value + 0 for key, value in json.loads(line).items()}
    except (ValueError, AttributeError, TypeError):
        return None
    return row if all(math.isfinite(row.get(axis, 0)) for axis in (TRAIN_STEP, EVALUATION_STEP)) else None


def read_entries(file: Path, *required: str) -> dict[str, dict[str, Any]]:
    """The entries of a JSON file by configuration key; none where there is no file.

    Raises:
        RunDirectoryError: it is damaged, or an entry lacks one of the `required` fields.
    """
    try:
        entries = dict(json.loads(file.read_text(encoding="utf-8")))
        return {key: {**entry, **{name: entry[name] for name in required}} for key, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"{file} cannot be read ({error!r}); restore it, or remove it if all files that the run used are still in "
            "their places"
        ) from error


def _json(value: Any) -> str:
    return json.dumps(_strict(value), indent=2, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    """`value` with non-finite floats as strings, paths as text and NumPy scalars as Python numbers."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return _strict(value.item()) if hasattr(value, "item") else value


def _make_stamped(base: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(100):  # two runs may start within one second
        path = base / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise RunDirectoryError(f"{base} has no free name like {stamp}: set run.name")


def holds_checkpoint(path: Path) -> bool:
    """Whether a run directory has a checkpoint, usable or not."""
    return any((path / "checkpoints").glob("step-*"))


def occupied(path: Path) -> str:
    """Why no run can begin in the directory of an earlier one; one without a checkpoint cannot be continued either."""
    if holds_checkpoint(path):
        return f"{path} holds a run already: set another run.name, or continue it with --resume {path}"
    return f"{path} holds a run without a checkpoint: set another run.name, or remove that directory"


def check_unused(path: Path) -> None:
    """RunDirectoryError where a process runs in a run directory; takes no lock and writes nothing."""
    file = path / "lock"
    if not file.is_file():
        return
    with clear_errors(path), file.open(encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(path, lock) from None


def _in_use(path: Path, lock: TextIO) -> RunDirectoryError:
    lock.seek(0)
    holder = lock.read().strip() or "another process"
    return RunDirectoryError(f"{path} is in use by {holder}: wait for it or stop it, or choose another run.name")


def _take_lock(path: Path) -> TextIO:
    lock = (path / "lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with lock:
            raise _in_use(path, lock) from None
    except OSError:
        lock.close()
        raise
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    lock.flush()
    return lock
