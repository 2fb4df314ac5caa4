"""Environment variables with which Ray runs a submitted job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# Ray kills a job that is stopped after this many seconds (default: 3). A run saves a checkpoint within 30 s.
STOP_SECONDS = 45


def runtime_environment(package: Path, variables: Mapping[str, str]) -> dict[str, object]:
    """The `runtime_env` of a job."""
    return {
        "working_dir": str(package),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **variables},
    }
