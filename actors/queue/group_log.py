"""The log of graded groups: one Parquet file per optimizer step, from which the step can be trained again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from actors.atomic_file import atomic_file
from actors.group import GROUP_SCHEMA, upgraded


def groups_file(version: int) -> str:
    """Name of the Parquet file with the groups that weight `version` was trained on."""
    return f"step-{version:06d}.parquet"


LEASED_FILE = "leased.parquet"
"""The groups of the step that the learner works on. If the run ends there, they stay under this name."""


def write_groups(path: Path, batches: list[pa.RecordBatch]) -> None:
    """Write one step's groups; a crash or power loss leaves the old file or the new one, never a partial one."""
    try:
        with atomic_file(path, one_writer=True) as file:
            pq.write_table(pa.Table.from_batches(batches, GROUP_SCHEMA), file, compression="zstd")
    except OSError as error:
        raise OSError(
            error.errno, f"cannot write groups to {path}: {error.strerror}; free space or change run.directory"
        ) from error


def read_groups(path: Path) -> list[pa.RecordBatch]:
    """The groups of a file, each as the one-row record batch that was written, bit by bit (see `upgraded`).

    Raises:
        OSError: the file is gone or unreadable.
        GroupError: an unknown schema version wrote it.
    """
    return upgraded(pq.read_table(path)).combine_chunks().to_batches(max_chunksize=1)
