"""What a run keeps of the files that its configuration names: user code and input files."""

from __future__ import annotations

from pathlib import Path

from cluster.config import RunConfig
from cluster.records import input_files, user_code
from cluster.records.run_directory import RunDirectory

# Files and folders of a run directory.
NAMES = (user_code.FILE, user_code.FOLDER, input_files.FILE, input_files.FOLDER)


def keep_files(directory: RunDirectory, config: RunConfig) -> None:
    """Write the records of a run's user code and input files, with their copies."""
    user_code.keep_user_code(directory, config)
    input_files.keep_input_files(directory, config)


def kept_overrides(run: Path) -> list[str]:
    """Overrides that put what the run keeps in place of files that are not here, as on another machine."""
    return [*user_code.kept_overrides(run), *input_files.kept_overrides(run)]


def changed_files(run: Path, config: RunConfig) -> list[str]:
    """One line for each of these files that is not what the run was using."""
    return [*user_code.changed_user_code(run, config), *input_files.changed_input_files(run, config)]
