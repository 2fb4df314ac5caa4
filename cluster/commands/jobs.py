"""`bonrl jobs`: list, follow and stop the jobs of a Ray cluster."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cluster.commands.options import Address, OptionalAddress
from cluster.exit_status import FAILED

_COLUMNS = ("job", "status", "started", "lasted", "command")
_LONGEST_COMMAND = 70  # characters

jobs = typer.Typer(rich_markup_mode=None)
Job = Annotated[str, typer.Argument(metavar="JOB", help="As `bonrl jobs` shows it, e.g. bonrl-20261128-101500-a1b2c3.")]


@jobs.callback(invoke_without_command=True)
def list_jobs(
    context: typer.Context,
    address: OptionalAddress = None,
) -> None:
    """List the jobs of a Ray cluster, the newest first. Variables of jobs are not shown.

    \b
    Examples
      bonrl jobs -a http://head:8265
      bonrl jobs logs JOB --follow -a http://head:8265
      bonrl jobs stop JOB -a http://head:8265

    Without --address the environment variable RAY_API_SERVER_ADDRESS names the cluster. A cluster with a token needs
    RAY_AUTH_MODE=token here, and the token (docs/cluster.md).
    """
    if context.invoked_subcommand is not None:
        if address is not None:  # also the address that is given before the subcommand
            context.default_map = {context.invoked_subcommand: {"address": address}}
        return
    if address is None:
        raise typer.BadParameter("give the dashboard of the head node, http://HOST:8265", param_hint="--address")
    client, url = _connect(address)
    from cluster.jobs.server import explained

    with explained(url):
        found = [job for job in client.list_jobs() if job.submission_id]
    if not found:
        typer.echo(f"no job was submitted to {url}")
    for line in table(found, time.time()):
        typer.echo(line)


@jobs.command()
def logs(
    job: Job,
    address: Address,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines until the job ends; return its exit status.")
    ] = False,
) -> None:
    """Print what a job has printed. `bonrl logs RUN` shows the log files of a run's actors."""
    from cluster.jobs.server import explained
    from cluster.jobs.submission import follow as follow_job

    client, url = _connect(address)
    with explained(url, job):
        text = client.get_job_logs(job) if not follow else ""
        client.get_job_info(job)
    if not follow:
        typer.echo(text, nl=False)
        return
    raise typer.Exit(follow_job(client, url, job, None, typer.echo))


@jobs.command()
def stop(job: Job, address: Address) -> None:
    """Stop a job and wait for its end. A run saves a checkpoint within 30 s; `bonrl submit --resume` continues it."""
    from cluster.jobs.environment import STOP_SECONDS
    from cluster.jobs.server import explained

    client, url = _connect(address)
    with explained(url, job):
        if not client.stop_job(job):
            typer.echo(f"job {job} had ended before: {client.get_job_status(job)}")
            return
        typer.echo(f"stopping {job}; a run saves a checkpoint first, which takes up to 30 s")
        status = _wait_for_end(client, job, STOP_SECONDS + 15)
    typer.echo(f"job {job}: {status}")
    if not status.is_terminal():
        typer.echo(f"it has not ended: follow it with bonrl jobs logs {job} --follow --address {url}", err=True)
        raise typer.Exit(FAILED)


def _wait_for_end(client: Any, job: str, limit_s: float) -> Any:
    """The status of the job once it has ended, or after `limit_s` seconds."""
    deadline = time.monotonic() + limit_s
    while not (status := client.get_job_status(job)).is_terminal() and time.monotonic() < deadline:
        time.sleep(0.5)
    return status


def table(found: Sequence[Any], now: float) -> list[str]:
    """Lines that show jobs of Ray's client, the newest first; `now` in seconds since the epoch."""
    rows = [_COLUMNS, *(_row(job, now) for job in sorted(found, key=lambda job: -(job.start_time or 0)))]
    if len(rows) == 1:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(job: Any, now: float) -> tuple[str, ...]:
    from cluster.jobs.environment import plain

    started, ended = ((ms / 1000 if ms else None) for ms in (job.start_time, job.end_time))
    when = dt.datetime.fromtimestamp(started).strftime("%Y-%m-%d %H:%M:%S") if started else "-"
    lasted = str(dt.timedelta(seconds=round((ended or now) - started))) if started else "-"
    command = " ".join(plain(job.entrypoint).split())
    short = command if len(command) <= _LONGEST_COMMAND else f"{command[: _LONGEST_COMMAND - 1]}…"
    return job.submission_id, str(job.status), when, lasted, short


def _connect(address: str) -> tuple[Any, str]:
    """A client of the job server at `address`, and its URL."""
    from cluster.jobs.server import check_address, explained, make_client

    url = check_address(address)
    with explained(url):
        return make_client(url), url
