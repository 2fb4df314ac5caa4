"""wandb as a tracker: the only file that knows wandb. See ``tracker.py`` for what happens when it fails.

wandb's implicit step, which drops rows when several clocks share it, is never used: each row is logged with the value
of its axis. A restarted helper continues under the same run id. Offline nothing is sent: no metrics, no crash
reports, no probes for cloud machines.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from cluster.checks.wandb_mode import choose_mode, run_id_of
from cluster.errors import UsageError
from cluster.records.metric_names import AXES, EVALUATION_STEP, METRICS
from cluster.telemetry.helper_process import HelperError
from cluster.telemetry.tracker import FINISH_DEADLINE_S, INIT_DEADLINE_S, Tracker
from cluster.telemetry.tracker_process import PROBE_SECONDS, DiskProbe, main

if TYPE_CHECKING:
    from cluster.config.settings import WandbSettings

STOPPED_SECONDS = 8.0  # after which a stopped wandb process counts as lost
SAMPLES = "eval/samples"  # the table of an evaluation's samples


class WandbError(UsageError):
    """wandb is required (`wandb.mode: online`) and cannot start; the message names the remedy."""


class WandbWriter(Tracker):
    """One wandb run, begun on construction.

    Args:
        settings: section `wandb`. `auto` is online if an API key is configured and the server answers, else
            offline (or what the environment variable WANDB_MODE says).
        run_directory: holds wandb's files in `wandb/` (unless WANDB_DIR names another place), with the run's id: a
            resumed run continues in wandb too.
        config: resolved configuration, shown with the run.
        name: display name.
        run_id: wandb id to continue; None takes the one in the directory, or a new one.
        init_deadline_s, finish_deadline_s: seconds that starting and uploading the rest may take.

    Raises:
        WandbError: `mode: online` without an API key or without an answer.
    """

    name = "wandb"
    module = "cluster.telemetry.wandb_writer"
    environment = {
        "WANDB_ERROR_REPORTING": "false",  # these reports delay the exit where there is no network
        "WANDB_SILENT": "true",  # the log-in message heeds only the variable
    }
    takes_samples = True

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
        super().__init__(init_deadline_s, finish_deadline_s)
        self.mode, self._why = choose_mode(settings.mode)
        self.directory: Path | None = None  # where this process's wandb files are; None if there are none
        self._url = ""
        if self.mode == "disabled":
            return
        root = Path(run_directory).absolute()
        self.run_id, self._resumed = run_id_of(root, run_id)
        self._settings = {
            "project": settings.project,
            "entity": settings.entity,
            "tags": list(settings.tags) or None,
            "dir": os.environ.get("WANDB_DIR") or str(root),
            "id": self.run_id,
            "name": name,
            "config": dict(config),
            "resume": "allow",
        }
        self._begin_in_mode(demanded=settings.mode == "online")
        self._begin_feeding()

    def _begin_in_mode(self, *, demanded: bool) -> None:
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

    def _start_arguments(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "init_timeout": self._init_deadline_s,
            "finish_timeout": self._finish_deadline_s,
            "arguments": self._settings,
        }

    def _started(self, answer: Mapping[str, str]) -> None:
        self.directory = Path(answer["directory"])
        self._url = answer["url"] or self._url

    def _start_failed(self) -> None:
        self.mode = "offline"  # the server may be what is gone

    def describe(self) -> str:
        """One line for the user: where the run can be seen, and how to upload it later."""
        if self.mode == "disabled":
            return f"wandb: disabled ({self._why})"
        if self.mode == "online":
            return f"wandb: online at {self._url}"
        assert self.directory is not None
        view = f"wandb leet {shlex.quote(str(self.directory))}"
        return f"wandb: offline ({self._why}). Look at it with: {view}. Upload later with: {self._sync_command()}"

    def _kept(self) -> str:
        return f"upload what wandb has with: {self._sync_command()}"

    def _place(self) -> str:
        return f" and continues run {self.run_id} in {self.directory}"

    def _sync_command(self) -> str:
        assert self.directory is not None
        if self._resumed or self._restarted:  # each helper left a directory; together they are the run
            directories = "*run-*" if self._url else "offline-run-*"
            return f"wandb sync {shlex.quote(str(self.directory.parent))}/{directories}"
        return f"wandb sync {shlex.quote(str(self.directory))}"


class _Session:
    """The helper's side: one wandb run."""

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
            x_transaction_log_flush_interval=PROBE_SECONDS,  # what a killed wandb may lose
        )
        self._run = wandb.init(mode=mode, settings=settings, **arguments)
        self._directory = Path(self._run.settings.sync_dir)
        self._processes = psutil.Process().children()
        self._probe = DiskProbe(self._directory)
        for axis in AXES:
            self._run.define_metric(axis, hidden=True)
        for metric in METRICS:
            # wandb knows globs only at the end of a name, so a pattern is defined up to its placeholder.
            name = metric.key.split("<")[0] + "*" if metric.is_pattern else metric.key
            self._run.define_metric(name, step_metric=metric.axis, step_sync=False)
        self._run.define_metric(SAMPLES, step_metric=EVALUATION_STEP, step_sync=False)
        self.check()
        return {"directory": str(self._directory), "url": self._run.url or ""}

    def log(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row))
        self.check()

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table of an evaluation's samples."""
        import wandb

        table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        self._run.log({EVALUATION_STEP: step, SAMPLES: table})
        self.check()

    def check(self) -> None:
        """Raise if wandb's own processes cannot work; wandb may not report this."""
        for process in self._processes:
            _require_running(process)
        self._probe.check()

    def finish(self, exit_code: int) -> None:
        import wandb

        self.check()
        self._probe.check(now=True)
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


if __name__ == "__main__":
    main(_Session())
