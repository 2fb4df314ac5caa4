"""Runs the command line in a process of its own, as a user would."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
LOCAL = REPOSITORY / "cluster" / "presets" / "local.yaml"


def environment() -> dict[str, str]:
    """This process's environment without what would make wandb go online or Ray join another cluster."""
    left_out = ("WANDB_API_KEY", "WANDB_MODE", "RAY_ADDRESS")
    return {k: v for k, v in os.environ.items() if k not in left_out} | {"PYTHONUNBUFFERED": "1"}


def command(*arguments: str, config: Path | None = LOCAL) -> list[str]:
    verb, *rest = arguments
    where = ["--config", str(config)] if config else []
    return [sys.executable, "-m", "cluster.cli", verb, *where, *rest]


def bonrl(*arguments: str, config: Path | None = LOCAL, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `bonrl ARGUMENTS` to its end."""
    return subprocess.run(
        command(*arguments, config=config),
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def run_directory(base: Path) -> Path:
    """The one run directory under `base`."""
    (found,) = [path for path in base.iterdir() if path.is_dir()]
    return found


def quiet_supervisor() -> Any:
    """A supervisor of a run in which nothing is lost."""
    return SimpleNamespace(
        restarts=0,
        restarts_of={},
        notices=SimpleNamespace(count=0),
        checkpoint_due=False,
        until_checkpoint_due=asyncio.Event().wait,
    )
