"""The command line, `bonrl COMMAND`: checks the installation, runs the command, and turns refusals into one message.

The commands are in cluster/commands. Every command reads a YAML file, applies `section.key=value` overrides and refuses
what cannot work before anything starts: one message, exit status 2. The installation is checked before the commands are
imported, and Ray, vLLM and torch are imported only by the commands that need them.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys

from cluster.checks.preflight import check_packages
from cluster.errors import UsageError
from cluster.exit_status import REFUSED

_HOME = re.compile(r"(--[a-z-]+=)(~.*)", re.DOTALL)
_DASHED_OVERRIDE = re.compile(r"(?:--|\+\+?)([a-z_0-9]+(?:\.[a-z_0-9]+)+)(=.*)?", re.DOTALL)


def _refusals() -> tuple[type[Exception], ...]:
    """Error classes of other modules that are also something the user can fix."""
    from cluster.records.checkpoints import CheckpointError
    from cluster.records.disk import RunDirectoryError

    return UsageError, RunDirectoryError, CheckpointError, ConnectionError


def _check_overrides(arguments: list[str]) -> None:
    """Refuse overrides in the form of an option, as other trainers have them.

    Raises:
        UsageError: with the form that is meant.
    """
    for argument in arguments:
        if (dashed := _DASHED_OVERRIDE.fullmatch(argument)) is not None:
            meant = dashed[1] + (dashed[2] or "=VALUE")
            raise UsageError(f"{argument}: keys of the configuration are written without dashes: {meant}")


def _check_checkpoint(arguments: list[str]) -> None:
    """Refuse `bonrl eval runs/NAME`: other commands take a run without an option.

    Raises:
        UsageError: with the command that is meant.
    """
    command, *rest = arguments or [""]
    if command not in ("eval", "export"):
        return
    from typer.main import get_group

    from cluster.commands.app import app

    # Parsed as for completion: what is missing or wrong is an error of the command itself.
    parsed = get_group(app).commands[command].make_context(command, rest, resilient_parsing=True)
    given = parsed.params.get("overrides") or parsed.args
    runs = [argument for argument in given if "=" not in argument]
    if runs and parsed.params.get("checkpoint") is None:
        meant = f"bonrl {command} --checkpoint {shlex.quote(runs[0])}"
        raise UsageError(f"bonrl {command} takes its run or checkpoint as an option: {meant}")


def _with_home(arguments: list[str]) -> list[str]:
    """The arguments with `--to=~/model` as the shell gives `--to ~/model`: most shells expand only the second."""
    found = [(argument, _HOME.fullmatch(argument)) for argument in arguments]
    return [option[1] + os.path.expanduser(option[2]) if option else argument for argument, option in found]


def _escape_what_cannot_be_printed() -> None:
    """A character that the terminal's encoding does not have must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Entry point of the console script `bonrl`."""
    _escape_what_cannot_be_printed()
    try:
        if sys.argv[1:] == ["--version"]:  # asked for where the installation is broken
            from cluster.commands.printing import version_text

            print(version_text())
            sys.exit()
        check_packages()
        from cluster.commands.app import app

        _check_overrides(sys.argv[1:])
        _check_checkpoint(sys.argv[1:])
        app(_with_home(sys.argv[1:]))
    except Exception as error:
        refusals = (UsageError,) if isinstance(error, UsageError) else _refusals()
        if not isinstance(error, refusals):
            raise
        for line in str(error).splitlines():
            print(f"bonrl: {line}", file=sys.stderr)
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
