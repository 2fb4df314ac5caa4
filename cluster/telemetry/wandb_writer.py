"""The run's one wandb writer: the only file that knows wandb.

wandb can die, hang, raise, or fill its disk; none of that may touch the run. So it runs in a separate helper process
(``python -m`` this module), and a thread of the driver feeds it from a bounded queue. A helper that is lost is
killed and started again under the same run id; after MAX_RESTARTS in a row, or if none starts, wandb is off for the
rest of the run. Each loss is one warning. metrics.jsonl does not depend on any of it.

Rows are split by axis and logged with their axis value; wandb's implicit step, which drops rows when several clocks
share it, is never used. Offline nothing is sent: no metrics, no crash reports, no probes for cloud machines.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

from cluster.checks.wandb_mode import choose_mode, run_id_of
from cluster.errors import UsageError
from cluster.records.metric_names import AXES, METRICS, split_by_axis
from cluster.records.run_directory import is_full
from cluster.telemetry.helper_process import Channel, HelperError, HelperLost, HelperProcess

INIT_DEADLINE_S = 60.0
FINISH_DEADLINE_S = 60.0
FINISH_GRACE_S = 5.0  # wandb's own time-out comes first and ends an upload in good order
LOG_DEADLINE_S = 30.0  # for one row to be taken
IMPORT_SECONDS = 60.0  # for the helper to import wandb on a busy machine
CHECK_SECONDS = 5.0  # between two looks at an idle helper
STOPPED_SECONDS = 8.0  # after which a stopped wandb process counts as lost
FLUSH_SECONDS = 5.0  # between two writes of wandb's file: what a killed wandb may lose
RESEND_SECONDS = 60.0  # rows younger than this are sent again to a new helper: the lost one may not have written them
MAX_RESTARTS = 3  # in a row: a helper that served for STEADY_SECONDS begins a new one
STEADY_SECONDS = 60.0
MAX_WAITING = 10_000  # parts of rows in the queue

_PROBE_BYTES = 64 << 10  # written now and then next to wandb's file: wandb loses rows on a full disk without an error


class WandbSettings(Protocol):
    """The section `wandb` of the configuration."""

    @property
    def project(self) -> str: ...
    @property
    def entity(self) -> str | None: ...
    @property
    def mode(self) -> str: ...
    @property
    def tags(self) -> tuple[str, ...]: ...


class WandbError(UsageError):
    """wandb was demanded (`wandb.mode: online`) and cannot start; the message names the remedy."""


@dataclass(frozen=True)
class Loss:
    """wandb was lost; how it went on (`recovered_s`: seconds until it took rows again; None: it is off)."""

    message: str
    recovered_s: float | None


class WandbWriter:
    """One wandb run, begun on construction. Use from one thread; `finish` at the end. `log` never waits for wandb.

    Args:
        settings: section `wandb`. `auto` is online if an API key is configured and the server answers, else
            offline (or what the environment variable WANDB_MODE says).
        run_directory: holds wandb's files in `wandb/` (unless WANDB_DIR names another place), with the run's id: a
            resumed run goes on in wandb too.
        config: resolved configuration, shown with the run.
        name: display name.
        run_id: wandb id to go on with; None takes the one in the directory, or a new one.
        init_deadline_s, finish_deadline_s: seconds that starting and uploading the rest may take.

    Raises:
        WandbError: `mode: online` without an API key or without an answer.
    """

    def __init__(
        self,
        settings: WandbSettings,
        run_directory: str | Path,
        *,
        config: Mapping[str, Any],
        name: str,
        run_id: str | None = None,
        init_deadline_s: float = INIT_DEADLINE_S,
        finish_deadline_s: float = FINISH_DEADLINE_S,
    ) -> None:
        self._helper: HelperProcess | None = None
        self._init_deadline_s, self._finish_deadline_s = init_deadline_s, finish_deadline_s
        self._restarts = 0
        self._served_since = 0.0
        self._over = threading.Event()  # the run does not wait for wandb any longer
        self._losses: deque[Loss] = deque()
        self._recent: deque[tuple[float, dict[str, Any]]] = deque()  # requests that a lost helper may not have written
        self._late: str | None = None
        self.mode, self._why = choose_mode(settings.mode)
        self.directory: Path | None = None  # where this process's wandb files are; None if there are none
        self._url = ""
        if self.mode == "disabled":
            return
        root = Path(run_directory).absolute()
        self.run_id, self._resumed = run_id_of(root, run_id)
        self._arguments: dict[str, Any] = {
            "project": settings.project,
            "entity": settings.entity,
            "tags": list(settings.tags) or None,
            "dir": os.environ.get("WANDB_DIR") or str(root),
            "id": self.run_id,
            "name": name,
            "config": dict(config),
            "resume": "allow",
        }
        self._begin(demanded=settings.mode == "online")
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._feed, name="wandb", daemon=True)
        if self._helper is not None:
            self._thread.start()

    def _begin(self, *, demanded: bool) -> None:
        if self.mode == "online":
            try:
                self._start()
                return
            except HelperError as error:
                if demanded:
                    raise WandbError(
                        f"wandb.mode is online, but wandb cannot start: {error}. Run `wandb login`, "
                        "check the network, or set wandb.mode to auto, offline or disabled."
                    ) from error
                self.mode, self._why = "offline", f"wandb could not start online: {error}"
        try:
            self._start()
        except HelperError as error:
            self.mode, self._why = "disabled", f"wandb could not start: {error}"

    def _start(self) -> HelperProcess:
        """Start a helper that goes on with the run.

        Raises:
            HelperError: it could not; nothing of it is left.
        """
        helper = HelperProcess("cluster.telemetry.wandb_writer", "wandb", _ENVIRONMENT)
        request = {
            "call": "start",
            "mode": self.mode,
            "init_timeout": self._init_deadline_s,
            "finish_timeout": self._finish_deadline_s,
            "arguments": self._arguments,
        }
        try:
            started = helper.ask(request, self._init_deadline_s + IMPORT_SECONDS)
        except BaseException:
            helper.kill()
            raise
        self._helper, self.directory = helper, Path(started["directory"])
        self._served_since = time.monotonic()
        self._url = started["url"] or self._url
        return helper

    def describe(self) -> str:
        """One line for the user: where the run can be seen, and how to upload it later."""
        if self.mode == "disabled":
            return f"wandb: disabled ({self._why})"
        if self.mode == "online":
            return f"wandb: online at {self._url}"
        return f"wandb: offline ({self._why}). Upload later with: {self._sync_command()}"

    def _sync_command(self) -> str:
        assert self.directory is not None
        if self._resumed:  # every process of the run left a directory; together they are the run
            directories = "*run-*" if self._url else "offline-run-*"
            return f"wandb sync {shlex.quote(str(self.directory.parent))}/{directories}"
        return f"wandb sync {shlex.quote(str(self.directory))}"

    def log(self, row: Mapping[str, Any]) -> None:
        """Logs one row of cluster/records/metrics.yaml, split by axis. Raises MetricError on a bad row."""
        for part in split_by_axis(row):
            if self._helper is not None:
                try:
                    self._waiting.put_nowait({"call": "log", "row": part})
                except queue.Full:
                    self._over.set()
                    self._switch_off(f"{MAX_WAITING} rows wait for it")
                    return

    def losses(self) -> list[Loss]:
        """What went wrong with wandb since the last call; for the user to read."""
        found = []
        while self._losses:
            found.append(self._losses.popleft())
        return found

    def finish(self, exit_code: int = 0, *, deadline_s: float | None = None) -> str | None:
        """Ends the run; returns a message if the rest could not be sent in time. Safe to call twice.

        wandb can hang here when the network does, so it is killed at the deadline; everything logged is in the files
        by then. `deadline_s` (seconds) takes the place of the usual one.
        """
        if self._helper is None:
            return None
        wait_s = self._finish_deadline_s + FINISH_GRACE_S if deadline_s is None else deadline_s
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait({"call": "finish", "exit_code": exit_code})
            self._thread.join(timeout=wait_s)
        self._over.set()
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.kill()
        if self._thread.is_alive():
            self._late = f"wandb could not finish: wandb did not finish within {wait_s:g} s"
        return f"{self._late}; upload the rest with: {self._sync_command()}" if self._late else None

    def _feed(self) -> None:
        """The thread that talks to the helper."""
        while self._helper is not None:
            try:
                request = self._waiting.get(timeout=CHECK_SECONDS)
            except queue.Empty:
                request = {"call": "check"}
            self._deliver(request)
            if request["call"] == "finish":
                return

    def _deliver(self, request: dict[str, Any]) -> None:
        """Have `request` served, by a new helper if this one is lost."""
        while (helper := self._helper) is not None:
            try:
                if request["call"] == "finish":
                    return self._conclude(helper, request)
                helper.ask(request, LOG_DEADLINE_S)
                if request["call"] == "log":
                    self._remember(request)
                return
            except HelperError as error:
                self._recover(helper, str(error))

    def _remember(self, request: dict[str, Any]) -> None:
        now = time.monotonic()
        self._recent.append((now, request))
        while now - self._recent[0][0] > RESEND_SECONDS:
            self._recent.popleft()

    def _conclude(self, helper: HelperProcess, request: dict[str, Any]) -> None:
        helper.ask({"call": "check"}, LOG_DEADLINE_S)  # a helper that is lost by now is replaced once more
        try:
            helper.ask(request, self._finish_deadline_s + FINISH_GRACE_S)
        except HelperLost:
            raise
        except HelperError as error:
            self._late = f"wandb could not finish: {error}"
        helper.wait(FINISH_GRACE_S)
        self._helper = None

    def _recover(self, helper: HelperProcess, reason: str) -> None:
        """Replace a lost helper, or switch wandb off."""
        began = time.monotonic()
        helper.kill()
        if began - self._served_since > STEADY_SECONDS:
            self._restarts = 0
        while self._restarts < MAX_RESTARTS and not self._over.is_set() and not _is_full(reason):
            self._restarts += 1
            self._resumed = True
            try:
                helper = self._start()
                for _, request in self._recent:
                    helper.ask(request, LOG_DEADLINE_S)
            except HelperError as error:
                helper.kill()
                reason = reason if str(error) in reason else f"{reason}; then: {error}"
                self.mode = "offline"  # the server may be what is gone
                continue
            message = f"wandb was lost: {reason}. It was started again and goes on with run {self.run_id}"
            self._losses.append(Loss(f"{message} in {self.directory}", time.monotonic() - began))
            break
        else:
            if not self._over.is_set():
                self._switch_off(reason)
        if self._over.is_set():  # nothing else would end the new one
            helper.kill()

    def _switch_off(self, reason: str) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.kill()
        advice = f"every row is in metrics.jsonl; upload what wandb has with: {self._sync_command()}"
        self._losses.append(Loss(f"wandb was lost: {reason}. It is off for the rest of this run: {advice}", None))


def _is_full(reason: str) -> bool:
    """Whether a disk is full, so that a new helper could do no better."""
    return is_full(OSError(reason))


_ENVIRONMENT = {
    "WANDB_ERROR_REPORTING": "false",  # these reports delay the exit where there is no network
    "WANDB_SILENT": "true",  # the log-in message heeds only the variable
}


class _Session:
    """The helper's side: one wandb run. Every method may raise anything; :func:`_serve` reports it."""

    def start(
        self,
        mode: Literal["online", "offline"],
        init_timeout: float,
        finish_timeout: float,
        arguments: Mapping[str, Any],
    ) -> dict[str, str]:
        import wandb

        offline = mode == "offline"
        settings = wandb.Settings(
            console="off",  # Ray's workers and the progress display own the terminal
            silent=True,  # what the user should know, `describe` and `finish` say
            init_timeout=init_timeout,
            login_timeout=init_timeout,
            finish_timeout=finish_timeout,
            finish_timeout_raises=True,
            disable_git=True,  # git.json, versions.json and config.yaml of the run directory say it
            disable_code=True,
            save_code=False,
            x_disable_stats=offline,  # the hardware probes ask the network for cloud metadata
            x_disable_machine_info=offline,
            x_transaction_log_flush_interval=FLUSH_SECONDS,
        )
        self._run = wandb.init(mode=mode, settings=settings, **arguments)
        self._directory = Path(self._run.settings.sync_dir)
        self._processes = psutil.Process().children()
        self._next_probe = 0.0
        for axis in AXES:
            self._run.define_metric(axis, hidden=True)
        for metric in METRICS:
            # wandb knows globs only at the end of a name, so a pattern is defined up to its placeholder.
            name = metric.key.split("<")[0] + "*" if metric.is_pattern else metric.key
            self._run.define_metric(name, step_metric=metric.axis, step_sync=False)
        self.check()
        return {"directory": str(self._directory), "url": self._run.url or ""}

    def log(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row))
        self.check()

    def check(self) -> None:
        """Raise when wandb's own processes cannot do their work: wandb may not notice, or not say so."""
        for process in self._processes:
            _require_running(process)
        if time.monotonic() >= self._next_probe and self._directory.is_dir():  # online wandb-core makes it later
            probe = self._directory / ".probe"
            try:
                probe.write_bytes(bytes(_PROBE_BYTES))
            finally:
                with contextlib.suppress(OSError):
                    probe.unlink(missing_ok=True)
            self._next_probe = time.monotonic() + FLUSH_SECONDS

    def finish(self, exit_code: int) -> None:
        import wandb

        self._next_probe = 0.0
        self.check()
        self._run.finish(exit_code=exit_code)
        with contextlib.suppress(SystemExit):  # the status of wandb-core, which is of no use here
            wandb.teardown()


def _require_running(process: psutil.Process) -> None:
    end = time.monotonic() + STOPPED_SECONDS
    while True:
        try:
            status = process.status()
        except psutil.NoSuchProcess:
            status = psutil.STATUS_ZOMBIE
        if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            raise ChildProcessError(f"its process wandb-core ({process.pid}) was killed")
        if status not in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            return
        if time.monotonic() > end:
            raise ChildProcessError(f"its process wandb-core ({process.pid}) is stopped")
        time.sleep(0.1)


def _serve(channel: Channel) -> None:
    """Answer requests until the run's process finishes the run or is gone."""
    session, started, finished = _Session(), False, False
    while not finished and (request := channel.receive()) is not None:
        call = request.pop("call")
        try:
            reply = {"value": getattr(session, call)(**request)}
        except BaseException as error:  # noqa: BLE001  (whatever it is: the run's process decides)
            reply = {"error": _summary(error)}
        started, finished = started or call == "start", call == "finish"
        channel.send(reply)
    if started and not finished:
        with _at_most(FINISH_GRACE_S):
            session.finish(exit_code=255)  # the run's process was killed


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, _leave)
    timer.daemon = True
    timer.start()
    yield


def _leave() -> None:
    """End this process and what it started, without wandb's exit handlers, which may hang."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os._exit(0)


def _summary(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


if __name__ == "__main__":
    _serve(Channel.of(int(sys.argv[1])))
    _leave()
