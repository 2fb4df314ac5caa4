"""How far a run is that is under way, for those who look often and must not disturb what they measure."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.records.metric_names import TRAIN_STEP
from cluster.records.run_directory import parse_row


class MetricsTail:
    """The last finished optimiser step in `run`/metrics.jsonl; every line is read once, however often one looks."""

    def __init__(self, run: Path) -> None:
        self._file = run / "metrics.jsonl"
        self._identity = (0, 0)
        self._offset = 0
        self._step = 0

    def step(self) -> int:
        """The newest row's `train/step`; 0 before the first. A resume may lower it; then the file is read again."""
        try:
            file = open(self._file, "rb")
        except FileNotFoundError:
            return 0
        with file:
            state = os.fstat(file.fileno())
            if (state.st_dev, state.st_ino) != self._identity or state.st_size < self._offset:
                self._identity, self._offset, self._step = (state.st_dev, state.st_ino), 0, 0
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")  # the last line may be half written
        self._offset += len(whole) + len(newline)
        for line in reversed(whole.splitlines()):
            row = parse_row(line.decode(errors="replace"))
            if row is not None and TRAIN_STEP in row:
                self._step = int(row[TRAIN_STEP])
                break
        return self._step
