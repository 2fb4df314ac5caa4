"""How far a run is, read often from outside without disturbing it."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.records.metric_names import TRAIN_STEP
from cluster.records.run_directory import parse_row

TAIL_BYTES = 1 << 16  # a row has 2 to 4 KiB


def last_step(run: Path) -> int:
    """The newest `train/step` in a run's metrics.jsonl; 0 before the first. A half-written last line is passed over."""
    try:
        with open(run / "metrics.jsonl", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return 0
    rows = map(parse_row, reversed(lines))
    return next((int(row[TRAIN_STEP]) for row in rows if row and TRAIN_STEP in row), 0)
