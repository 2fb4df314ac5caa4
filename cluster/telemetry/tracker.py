"""The run's side of an experiment tracker: rows go to a helper process, whose failures do not affect the run.

wandb, TensorBoard and MLflow can each hang, raise, or fill a disk, and none of that may touch the run. So each runs in
a separate helper process (``tracker_process.py``), and a thread of the driver feeds it from a bounded queue. A helper
that is lost is killed and started again; after MAX_RESTARTS in a row, or if none starts, the tracker is off for the
rest of the run. Each loss is one warning. metrics.jsonl does not depend on any of it.

Rows are split by axis and logged with their axis value, because several clocks run in a job.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cluster.records.disk import is_full
from cluster.records.metric_names import split_by_axis
from cluster.telemetry.helper_process import HelperError, HelperLost, HelperProcess
from cluster.telemetry.tracker_process import FINISH_GRACE_S

INIT_DEADLINE_S = 60.0
FINISH_DEADLINE_S = 60.0
LOG_DEADLINE_S = 30.0  # for one row to be taken
IMPORT_SECONDS = 60.0  # for the helper to import its library on a busy machine
CHECK_SECONDS = 5.0  # between two looks at an idle helper
RESEND_SECONDS = 60.0  # rows younger than this are sent again to a new helper: the lost one may not have written them
MAX_RESTARTS = 3  # in a row: a helper that served for STEADY_SECONDS begins a new one
STEADY_SECONDS = 60.0
MAX_WAITING = 10_000  # parts of rows in the queue


@dataclass(frozen=True)
class Loss:
    """A tracker was lost. `recovered_s`: seconds until it took rows again; None: it is switched off."""

    tracker: str
    message: str
    recovered_s: float | None


class Tracker(ABC):
    """One run in one tracker. Use from one thread; `finish` at the end. `log` never waits for the library.

    A subclass calls `_begin` at the end of its constructor.

    Args:
        init_deadline_s, finish_deadline_s: seconds that starting and uploading the rest may take.
    """

    name: ClassVar[str]  # in messages
    module: ClassVar[str]  # of the helper
    environment: ClassVar[Mapping[str, str]] = {}  # of the helper
    takes_samples: ClassVar[bool] = False

    def __init__(self, init_deadline_s: float = INIT_DEADLINE_S, finish_deadline_s: float = FINISH_DEADLINE_S) -> None:
        self._helper: HelperProcess | None = None
        self._init_deadline_s, self._finish_deadline_s = init_deadline_s, finish_deadline_s
        self._restarted = False  # a helper was replaced
        self._restarts = 0  # in a row
        self._served_since = 0.0
        self._over = threading.Event()  # the run does not wait for the tracker any longer
        self._losses: deque[Loss] = deque()
        self._recent: deque[tuple[float, dict[str, Any]]] = deque()  # requests that a lost helper may not have written
        self._late: str | None = None
        self._why_off = ""
        self._waiting: queue.Queue[dict[str, Any]] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._feed, name=self.name, daemon=True)

    @abstractmethod
    def describe(self) -> str:
        """One line for the user: where the run can be seen."""

    @abstractmethod
    def _kept(self) -> str:
        """After a loss: what the tracker holds, and how to see it."""

    def _place(self) -> str:
        """Where a restarted helper continues."""
        return ""

    @abstractmethod
    def _start_arguments(self) -> dict[str, Any]:
        """Arguments of the session's `start`."""

    def _started(self, answer: Mapping[str, str]) -> None:
        """The session's answer to `start`."""
        return None

    def _start_failed(self) -> None:
        """A helper could not be started again."""
        return None

    def _begin(self) -> None:
        """Start the first helper; a tracker that cannot start is off, and `describe` says why."""
        try:
            self._start()
        except HelperError as error:
            self._why_off = f"{self.name} could not start: {error}"
        self._begin_feeding()

    def _begin_feeding(self) -> None:
        if self._helper is not None:
            self._thread.start()

    def _start(self) -> HelperProcess:
        """Start a helper that continues the run.

        Raises:
            HelperError: it could not start; its processes are gone.
        """
        helper = HelperProcess(self.module, self.name, self.environment)
        request = {"call": "start", **self._start_arguments()}
        try:
            answer = helper.ask(request, self._init_deadline_s + IMPORT_SECONDS)
        except BaseException:
            helper.kill()
            raise
        self._helper = helper
        self._started(answer)
        self._served_since = time.monotonic()
        return helper

    def log(self, row: Mapping[str, Any]) -> None:
        """Logs one row of cluster/records/metric_names.py, split by axis. Raises MetricError on a bad row."""
        for part in split_by_axis(row):
            self._put({"call": "log", "row": part})

    def log_samples(self, step: int, samples: Sequence[Mapping[str, Any]]) -> None:
        """Logs samples of the evaluation after `step` steps, where the tracker shows tables."""
        if self.takes_samples and samples:
            self._put({"call": "samples", "step": step, "rows": [dict(sample) for sample in samples]})

    def _put(self, request: dict[str, Any]) -> None:
        if self._helper is None:
            return
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            self._over.set()
            self._switch_off(f"{MAX_WAITING} rows wait for it")

    def losses(self) -> list[Loss]:
        """What went wrong since the last call; for the user to read."""
        found = []
        while self._losses:
            found.append(self._losses.popleft())
        return found

    def finish(self, exit_code: int = 0, *, deadline_s: float | None = None) -> str | None:
        """Ends the run; returns a message if the rest could not be sent in time. Safe to call twice.

        A library can hang here when the network does, so it is killed at the deadline; everything logged is in its
        files by then. `deadline_s` (seconds) takes the place of the usual one.
        """
        if self._helper is None:
            return None
        wait_s = self._finish_deadline_s + FINISH_GRACE_S if deadline_s is None else deadline_s
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait({"call": "finish", "exit_code": exit_code})
            self._thread.join(timeout=wait_s)
        late = self._thread.is_alive()  # asked before the kill, which ends the thread's wait
        self._over.set()
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.kill()
        if late:
            self._late = f"{self.name} could not finish: {self.name} did not finish within {wait_s:g} s"
        return f"{self._late}; {self._kept()}" if self._late else None

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
                if request["call"] != "check":
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
            self._late = f"{self.name} could not finish: {error}"
        helper.wait(FINISH_GRACE_S)
        self._helper = None

    def _recover(self, helper: HelperProcess, reason: str) -> None:
        """Replace a lost helper, or switch the tracker off."""
        began = time.monotonic()
        helper.kill()
        if began - self._served_since > STEADY_SECONDS:
            self._restarts = 0
        while self._restarts < MAX_RESTARTS and not self._over.is_set() and not _is_full(reason):
            self._restarts += 1
            self._restarted = True
            try:
                helper = self._start()
                for _, request in self._recent:
                    helper.ask(request, LOG_DEADLINE_S)
            except HelperError as error:
                helper.kill()
                reason = reason if str(error) in reason else f"{reason}; then: {error}"
                self._start_failed()
                continue
            message = f"{self.name} was lost: {reason}. It was started again{self._place()}"
            self._losses.append(Loss(self.name, message, time.monotonic() - began))
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
        message = f"{self.name} was lost: {reason}. It is off for the rest of this run; metrics.jsonl has every row"
        self._losses.append(Loss(self.name, f"{message}; {self._kept()}", None))


def _is_full(reason: str) -> bool:
    """Whether the disk is full; then a new helper does not help."""
    return is_full(OSError(reason))
