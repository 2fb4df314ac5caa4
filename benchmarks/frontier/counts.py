"""The measurements of a comparison: right answers by prompt for each evaluated model, in one Parquet file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from learner.metrics import pass_at_k

BASE = "base"
_SCHEMA = pa.schema(
    [
        pa.field("contender", pa.string()),
        pa.field("rate", pa.float64()),
        pa.field("seed", pa.int32()),
        pa.field("step", pa.int32()),
        pa.field("split", pa.string()),
        pa.field("temperature", pa.float64()),
        pa.field("samples", pa.int32()),  # per prompt
        pa.field("right", pa.list_(pa.int32())),  # by prompt
        pa.field("tokens", pa.float64()),  # sampled in training up to this step
        pa.field("seconds", pa.float64()),  # of training up to this step
    ]
)


class Key(NamedTuple):
    """Which model, and how it was evaluated. split `curve`: validation during training; its samples choose the step."""

    contender: str
    rate: float
    seed: int
    step: int
    split: str
    temperature: float


@dataclass(frozen=True)
class Counts:
    """Right answers by prompt, int[P], of `samples` each."""

    samples: int
    right_P: np.ndarray
    tokens: float = 0.0
    seconds: float = 0.0

    def pass_at(self, k: int) -> np.ndarray:
        """Unbiased pass@k of each prompt, float64[P]."""
        return np.array([pass_at_k(self.samples, c, k) for c in range(self.samples + 1)])[self.right_P]


class Store:
    """The measurements in `path`. Safe for threads of one process.

    Raises:
        RuntimeError: the file belongs to another plan.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.path = path
        self._schema = _SCHEMA.with_metadata({"plan": digest})
        self._lock = threading.Lock()
        self._found: dict[Key, Counts] = {}
        if not path.exists():
            return
        table = parquet.read_table(path)
        if (table.schema.metadata or {}).get(b"plan", b"").decode() != digest:
            raise RuntimeError(f"{path} was measured with another plan; choose another --evidence, or restore the plan")
        for row in table.to_pylist():
            key = Key(*(row[name] for name in Key._fields))
            self._found[key] = Counts(row["samples"], np.array(row["right"]), row["tokens"], row["seconds"])

    def get(self, key: Key) -> Counts | None:
        with self._lock:
            return self._found.get(key)

    def items(self) -> Iterator[tuple[Key, Counts]]:
        """Sorted by key."""
        with self._lock:
            return iter(sorted(self._found.items(), key=lambda pair: pair[0]))

    def add(self, found: dict[Key, Counts]) -> None:
        """Store measurements; they are on disk when this returns."""
        with self._lock:
            self._found |= found
            rows = [
                key._asdict()
                | {"samples": c.samples, "right": c.right_P.tolist(), "tokens": c.tokens, "seconds": c.seconds}
                for key, c in self._found.items()
            ]
            temporary = self.path.with_suffix(".tmp")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.Table.from_pylist(rows, schema=self._schema), temporary, compression="zstd")
            os.replace(temporary, self.path)
