"""The measurements of a comparison: right answers by prompt for each evaluated model, in one Parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.planned.store import Measurements
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


class Store(Measurements[Key, Counts]):
    """The counts in `path`; see :class:`Measurements`."""

    def __init__(self, path: Path, digest: str) -> None:
        super().__init__(path, digest, _SCHEMA, _read, _write)


def _read(row: Mapping[str, Any]) -> tuple[Key, Counts]:
    key = Key(*(row[name] for name in Key._fields))
    return key, Counts(row["samples"], np.array(row["right"]), row["tokens"], row["seconds"])


def _write(key: Key, c: Counts) -> dict[str, Any]:
    return key._asdict() | {"samples": c.samples, "right": c.right_P.tolist(), "tokens": c.tokens, "seconds": c.seconds}
