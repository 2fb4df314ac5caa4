"""The replay queue on disk: accounting and waiting groups in one Arrow file, replaced atomically.

The groups are the rows; the accounting is JSON in the schema's metadata, with a SHA-256 over both. A crash during
writing leaves the previous file; damaged files are rejected.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc

from actors.atomic_file import atomic_file
from actors.group import GROUP_SCHEMA, GroupError, check_schema, upgraded

_STATE, _DIGEST = b"bonrl.queue.state", b"bonrl.queue.sha256"


class SnapshotError(RuntimeError):
    """A snapshot of the queue cannot be written or trusted; the message names the file and the remedy."""


def write_snapshot(path: Path, state: Mapping[str, Any], groups: Mapping[int, pa.RecordBatch]) -> None:
    """Replace `path` by the queue's `state` (plain JSON types) and its waiting `groups` by position.

    Raises:
        SnapshotError: the disk is full or not writable.
    """
    text = json.dumps(state, sort_keys=True).encode()
    rows = [groups[sequence] for sequence in sorted(groups)]
    metadata = {**(GROUP_SCHEMA.metadata or {}), _STATE: text, _DIGEST: _digest(text, rows)}
    schema = GROUP_SCHEMA.with_metadata(metadata)
    try:
        with atomic_file(path, one_writer=True) as file, ipc.new_file(file, schema) as writer:
            for row in rows:
                writer.write_batch(pa.RecordBatch.from_arrays(row.columns, schema=schema))
    except OSError as error:
        raise SnapshotError(
            f"cannot write the queue to {path}: {error.strerror}; free space or change run.directory"
        ) from error


def read_snapshot(path: Path) -> tuple[dict[str, Any], dict[int, pa.RecordBatch]]:
    """What :func:`write_snapshot` wrote.

    Raises:
        SnapshotError: the file is missing, torn, damaged, or of an unknown schema version.
    """
    try:
        with ipc.open_file(pa.BufferReader(path.read_bytes())) as reader:
            metadata = reader.schema.metadata or {}
            check_schema(reader.schema)
            rows = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        text, digest = metadata[_STATE], metadata[_DIGEST]
    except OSError as error:
        raise SnapshotError(f"cannot read the queue from {path}: {error}; resume from an older checkpoint") from error
    except (pa.ArrowException, KeyError, GroupError) as error:
        raise SnapshotError(f"{path} is not a queue snapshot: {error}; resume from an older checkpoint") from error
    if _digest(text, rows) != digest:
        raise SnapshotError(f"{path} is damaged (its checksum differs): resume from an older checkpoint")
    return json.loads(text), {row.column("sequence")[0].as_py(): upgraded(row) for row in rows}


def _digest(text: bytes, rows: list[pa.RecordBatch]) -> bytes:
    digest = hashlib.sha256(text)
    for row in rows:
        digest.update(row.serialize())
    return digest.hexdigest().encode()
