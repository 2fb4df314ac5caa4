"""The run that a configuration names with run.directory and run.name, for `bonrl train --resume-or-start`."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from cluster.config import RunConfig, build_config
from cluster.errors import UsageError
from cluster.records.config_changes import recorded_config
from cluster.records.run_directory import RunDirectory, RunDirectoryError, holds_checkpoint, occupied

_FILLED_IN = ("date", "validation_size")  # of `task`: what a start chooses where the configuration says nothing


def named_run(config: RunConfig) -> Path:
    """The directory of the run.

    Raises:
        UsageError: the configuration names none.
    """
    if config.run.name is None:
        raise UsageError("--resume-or-start finds the run by its name: set run.name, the same at every start")
    return Path(config.run.directory).expanduser() / config.run.name


def holds_run(run: Path) -> bool:
    """Whether a run has begun there."""
    return (run / "config.yaml").is_file()


def continued(config: RunConfig, run: Path) -> RunConfig:
    """`config` to resume `run` with: what the start of the run filled in stays, and so do its recorded place and name.

    Raises:
        ConfigError: the run's own configuration cannot be read, or the two do not fit.
    """
    tree, recorded = config.to_mapping(), recorded_config(run).to_mapping()
    missing = [key for key in _FILLED_IN if tree["task"][key] is None]
    tree["task"] |= {key: recorded["task"][key] for key in missing}
    tree["run"] |= {key: recorded["run"][key] for key in ("directory", "name")}
    return build_config(tree)


def set_aside(run: Path) -> Path:
    """Rename the directory of a run that has saved no checkpoint, so that it can begin again; returns the new path.

    Raises:
        RunDirectoryError: a process is at work in it, or it holds a checkpoint.
    """
    with RunDirectory.open(run) as directory:
        if holds_checkpoint(directory.path):
            raise RunDirectoryError(occupied(directory.path))
        names = (run.with_name(f"{run.name}-no-checkpoint-{number}") for number in count(1))
        return run.rename(next(path for path in names if not path.exists()))
