"""The command line with which a user goes on after a run: in a job of a Ray cluster, one for `bonrl submit`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

JOB_DESCRIPTION = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's job server sets it for the command of a job
_SUBMIT = "bonrl submit --address http://HEAD:8265"


def in_job() -> bool:
    """Whether Ray's job server started this process, as for `bonrl submit` and for a RayJob of Kubernetes."""
    return JOB_DESCRIPTION in os.environ


def train_again(option: str, run: Path, *more: str) -> str:
    """The command that resumes or replays a run.

    Args:
        option: `--resume` or `--replay`.
        run: its directory.
        more: options and overrides, quoted for a shell.
    """
    words = " ".join([option, shlex.quote(str(run)), *more])
    if not in_job():
        return f"bonrl train {words}"
    if "--rollout-only" in more:  # submit has no such option
        return f"{_SUBMIT} --entrypoint {shlex.quote(f'python -m cluster.cli train {words}')}"
    return f"{_SUBMIT} {words}"


def report_again(run: Path) -> str:
    """The command that writes the page of a run; only on the user's own machine it can show the page too."""
    words = f"report {shlex.quote(str(run))}"
    return f"{_SUBMIT} --command {shlex.quote(words)}" if in_job() else f"bonrl {words} --open"
