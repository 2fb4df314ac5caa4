"""The run's one wandb writer: the only file that knows wandb.

It lives in the driver process, so no two processes write one run. Rows are split by axis and logged with
their axis value; wandb's implicit step, which drops rows when several clocks share it, is never used. Offline
nothing is sent: no metrics, no crash reports, no probes for cloud machines. wandb is imported only when on.
"""

from __future__ import annotations

import netrc
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from actors.threads import bounded
from cluster.errors import UsageError
from cluster.metric_names import AXES, METRICS, split_by_axis
from cluster.run_directory import clear_errors, write_atomically

INIT_DEADLINE_S = 60.0
FINISH_DEADLINE_S = 60.0
FINISH_GRACE_S = 5.0  # wandb's own time-out comes first and ends an upload in good order

_DEFAULT_URL = "https://api.wandb.ai"


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
    """wandb was demanded (`wandb.mode: online`) and cannot start; the message names the mend."""


class WandbWriter:
    """One wandb run, begun on construction. Use from one thread; `finish` at the end.

    Args:
        settings: section `wandb`. `auto` is online if an API key is configured and the server answers, else
            offline (or what the environment variable WANDB_MODE says).
        run_directory: holds wandb's files in `wandb/`, with the run's id: a resumed run goes on in wandb too.
        config: resolved configuration, shown beside the run.
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
        self._run: Any = None
        self._finish_deadline_s = finish_deadline_s
        self.mode, self._why = choose_mode(settings.mode)
        if self.mode == "disabled":
            return
        root = Path(run_directory).absolute()
        self.run_id, self._resumed = _run_id(root, run_id)
        arguments: dict[str, Any] = {
            "project": settings.project,
            "entity": settings.entity,
            "tags": list(settings.tags) or None,
            "dir": str(root),
            "id": self.run_id,
            "name": name,
            "config": dict(config),
            "resume": "allow",
        }
        if self.mode == "online":
            try:
                self._run = _begin("online", init_deadline_s, finish_deadline_s, arguments)
            except Exception as error:
                # wandb's own error types are many and change; each means that the server cannot be used.
                if settings.mode == "online":
                    raise WandbError(
                        f"wandb.mode is online, but wandb cannot start: {error}. Run `wandb login`, "
                        "check the network, or set wandb.mode to auto, offline or disabled."
                    ) from error
                self.mode, self._why = "offline", f"wandb could not start online: {error}"
                _forget_failed_start()
        if self._run is None:
            self._run = _begin("offline", init_deadline_s, finish_deadline_s, arguments)
        self._define_axes()

    def _define_axes(self) -> None:
        for axis in AXES:
            self._run.define_metric(axis, hidden=True)
        for metric in METRICS:
            # wandb knows globs only at the end of a name, so a pattern is defined up to its placeholder.
            name = metric.key.split("<")[0] + "*" if metric.is_pattern else metric.key
            self._run.define_metric(name, step_metric=metric.axis, step_sync=False)

    @property
    def directory(self) -> Path | None:
        """Where this process's wandb files are; None if disabled."""
        return Path(self._run.settings.sync_dir) if self._run is not None else None

    def describe(self) -> str:
        """One line for the user: where the run can be seen, and how to upload it later."""
        if self._run is None:
            return f"wandb: disabled ({self._why})"
        if self.mode == "online":
            return f"wandb: online at {self._run.url}"
        return f"wandb: offline ({self._why}). Upload later with: {self._sync_command()}"

    def _sync_command(self) -> str:
        directory = self.directory
        assert directory is not None
        if self._resumed:  # every process of the run left a directory; together they are the run
            return f"wandb sync {shlex.quote(str(directory.parent))}/offline-run-*"
        return f"wandb sync {shlex.quote(str(directory))}"

    def log(self, row: Mapping[str, Any]) -> None:
        """Logs one row of cluster/metric_names.py, split by axis. Raises MetricError on a bad row."""
        for part in split_by_axis(row):
            if self._run is not None:
                self._run.log(part)

    def finish(self, exit_code: int = 0, *, deadline_s: float | None = None) -> str | None:
        """Ends the run; returns a message if the rest could not be sent in time. Safe to call twice.

        wandb can hang here when the network does, so it runs in a thread that is left behind at the deadline;
        everything logged is in the files by then. `deadline_s` (seconds) takes the place of the usual one.
        """
        if self._run is None:
            return None
        command, run, self._run = self._sync_command(), self._run, None
        wait_s = self._finish_deadline_s + FINISH_GRACE_S if deadline_s is None else deadline_s
        try:
            bounded(lambda: run.finish(exit_code=exit_code), owner="wandb", to="finish", deadline_s=wait_s)
        except Exception as error:  # noqa: BLE001  (whatever it is, the run's result does not depend on it)
            return f"wandb could not finish: {error}; upload the rest with: {command}"
        return None


def choose_mode(mode: str) -> tuple[str, str]:
    """(online, offline or disabled; why) for a configured mode. Makes no network request."""
    if mode != "auto":
        return mode, f"wandb.mode is {mode}"
    wanted = os.environ.get("WANDB_MODE", "").lower()
    if wanted in ("offline", "dryrun"):
        return "offline", f"WANDB_MODE is {wanted}"
    if wanted == "disabled":
        return "disabled", "WANDB_MODE is disabled"
    source = api_key_source()
    if source is None:
        return "offline", "no API key is set: `wandb login` sets one"
    return "online", f"API key from {source}"


def api_key_source() -> str | None:
    """Where wandb would find an API key for its server: a variable's name or a netrc file; None: nowhere."""
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(variable):
            return variable
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or _DEFAULT_URL).hostname or ""
    named = os.environ.get("NETRC")
    for file in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if host in netrc.netrc(str(file)).hosts:
                return str(file)
        except (OSError, netrc.NetrcParseError):  # a file that wandb could not use either
            continue
    return None


def _run_id(root: Path, given: str | None) -> tuple[str, bool]:
    """The run's wandb id, kept in its directory; and whether an earlier process of the run had it."""
    file = root / "wandb" / "run_id.txt"
    with clear_errors(root):
        earlier = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        run_id = given or earlier or secrets.token_hex(4)
        if run_id != earlier:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, f"{run_id}\n".encode())
    return run_id, run_id == earlier or given is not None


def _forget_failed_start() -> None:
    """Ends wandb's helper process, which otherwise refuses the run's id as being in use."""
    import wandb

    try:
        bounded(wandb.teardown, owner="wandb", to="end its helper process", deadline_s=FINISH_GRACE_S)
    except TimeoutError as error:
        raise WandbError(f"wandb did not start online, and {error}: set wandb.mode to offline or disabled") from None


def _begin(
    mode: Literal["online", "offline"],
    init_deadline_s: float,
    finish_deadline_s: float,
    arguments: Mapping[str, Any],
) -> Any:
    offline = mode == "offline"
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # these reports delay the exit where there is no network
    os.environ["WANDB_SILENT"] = "true"  # the log-in message heeds only the variable
    import wandb

    settings = wandb.Settings(
        console="off",  # Ray's workers and the progress display own the terminal
        silent=True,  # what the user should know, `describe` and `finish` say
        init_timeout=init_deadline_s,
        login_timeout=init_deadline_s,
        finish_timeout=finish_deadline_s,
        finish_timeout_raises=True,
        disable_git=True,  # git.json, versions.json and config.yaml of the run directory say it
        disable_code=True,
        save_code=False,
        x_disable_stats=offline,  # the hardware probes ask the network for cloud metadata
        x_disable_machine_info=offline,
        x_transaction_log_flush_interval=5.0,  # what a killed run may lose
    )
    return wandb.init(mode=mode, settings=settings, **arguments)
