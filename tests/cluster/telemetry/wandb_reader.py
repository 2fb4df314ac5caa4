"""Reads an offline wandb run file back: LevelDB's log framing round wandb's own protobuf records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32768  # bytes; wandb's run file has LevelDB's log format


@dataclass
class RunFile:
    """What a .wandb file says."""

    config: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    axis_of: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None


def records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    position, record = 7, b""
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:  # no header fits: the rest of the block is padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def read_run_file(path: Path) -> RunFile:
    from wandb.proto import wandb_internal_pb2

    run = RunFile()
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                run.name = record.run.display_name
                run.config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            case "metric":
                run.axis_of[record.metric.name or record.metric.glob_name] = record.metric.step_metric
            case "history":
                items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
                run.rows.append({k: json.loads(v) for k, v in items.items() if not k.startswith("_")})
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def read_history(wandb_directory: Path) -> list[dict[str, Any]]:
    """All rows of the run files under `wandb_directory`, in the order of their names."""
    return [row for path in sorted(wandb_directory.rglob("*.wandb")) for row in read_run_file(path).rows]
