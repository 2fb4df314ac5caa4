"""`bonrl logs`: the log files of a run's actors."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.printing import printable
from cluster.errors import UsageError
from cluster.exit_status import INTERRUPTED

if TYPE_CHECKING:
    from cluster.results.run_logs import LogRecord

POLL_SECONDS = 0.5


def logs(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run directory, e.g. runs/20261123-101500.")],
    actor: Annotated[
        str | None,
        typer.Argument(
            metavar="[ACTOR]", help="driver, sampler-0, learner-rank-1, ...; `sampler`: all samplers [all]."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Also print what is logged from now on, until Ctrl-C.")
    ] = False,
    level: Annotated[
        str, typer.Option("--level", metavar="DEBUG|INFO|WARNING|ERROR", help="Print messages of at least this level.")
    ] = "DEBUG",
) -> None:
    """Print what the actors of a run have logged, merged by time.

    \b
    Examples
      bonrl logs runs/NAME
      bonrl logs runs/NAME sampler-0 --follow
      bonrl logs runs/NAME --level WARNING

    What is logged depends on run.log_level. `bonrl jobs logs JOB` shows what a submitted job prints.
    """
    from cluster.results.run_logs import LEVELS, Follower, log_files, logged_elsewhere, merged

    if level.upper() not in LEVELS:
        raise UsageError(f"--level {level}: choose one of {', '.join(LEVELS)}")
    files = log_files(run, actor)
    for name, place in logged_elsewhere(run, actor).items():
        typer.echo(f"not shown: {name} logs to {place}", err=True)
    if not follow:
        _print(merged(files.values()), level.upper())
        return
    follower = Follower(run, actor)
    try:
        while True:
            _print(follower.new(), level.upper())
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _print(records: Iterable[LogRecord], level: str) -> None:
    for record in records:
        if record.at_least(level):
            typer.echo(printable(record.text))
