"""Environment variables of a submitted job, in a file of its package instead of Ray's record of the job.

Ray shows the variables of a `runtime_env` to everyone who lists jobs, and writes them to log files of the nodes. So
their values travel in a file that only its owner can read. The job's command is started through this module, which has
Ray call :func:`load` in every worker process of the job.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

NAME = "job-environment.json"
MODULE = "cluster.jobs.environment"
PREFIX = f"python -m {MODULE} "
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # in which Ray's job server describes a job to its command
# Ray kills a job that is stopped after this many seconds (default: 3). A run saves a checkpoint within 30 s.
STOP_SECONDS = 45
# Python and the dynamic linker read these when a process starts, before a file could set them.
_AT_START = ("LD_", "PYTHON")


def with_variables(command: str, package: Path, variables: Mapping[str, str]) -> tuple[str, dict[str, object]]:
    """Write the variables of a job into its package.

    Returns:
        The shell command that sets them for `command` and its actors, and the `runtime_env` with which Ray runs it.
    """
    early = {name: value for name, value in variables.items() if name.startswith(_AT_START)}
    late = {name: value for name, value in variables.items() if name not in early}
    runtime: dict[str, object] = {
        "working_dir": str(package),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **early},
    }
    if not late:
        return command, runtime
    file = os.open(package / NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        json.dump(late, stream)
    return PREFIX + shlex.quote(command), runtime


def plain(command: str) -> str:
    """The command that :func:`with_variables` was given."""
    return shlex.split(command.removeprefix(PREFIX))[0] if command.startswith(PREFIX) else command


def load() -> None:
    """Set the variables in this process, except those that its actor or task sets itself."""
    file = Path(__file__).resolve().parents[2] / NAME
    if not file.is_file():  # a process that finds bonrl elsewhere
        return
    node = _environment_of(os.getppid())
    for name, value in json.loads(file.read_text(encoding="utf-8")).items():
        if os.environ.get(name) == node.get(name):
            os.environ[name] = value


def _environment_of(process: int) -> dict[str, str]:
    """Variables with which a process was started; a worker's parent is the node's raylet."""
    try:
        content = Path(f"/proc/{process}/environ").read_bytes()
    except OSError:  # of another user: then a variable that is set counts as the actor's own
        return {}
    entries = content.decode(errors="surrogateescape").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def _in_workers(job: str) -> str:
    """Ray's description of the job, as JSON, with :func:`load` as the setup hook of its workers."""
    described = json.loads(job)
    hook = {"worker_process_setup_hook": f"{MODULE}.load"}
    return json.dumps({**described, "runtime_env": {**(described.get("runtime_env") or {}), **hook}})


def _run(command: str) -> None:
    """Become the shell that runs the job's command."""
    load()
    if _JOB in os.environ:
        os.environ[_JOB] = _in_workers(os.environ[_JOB])
    os.execv("/bin/sh", ["sh", "-c", command])


if __name__ == "__main__":
    _run(sys.argv[1])
