"""The measurements: right answers by problem of each model and task, in one Parquet file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.planned.store import Measurements
from learner.metrics import pass_at_k

_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string()),
        pa.field("task", pa.string()),
        pa.field("samples", pa.int32()),  # per problem
        pa.field("right", pa.list_(pa.int32())),  # by problem: samples that pass all tests
        pa.field(
            "shown", pa.list_(pa.int32())
        ),  # by problem: samples that pass the test in the prompt; null: none there
        pa.field("programs", pa.int32()),  # samples that contain a program
        pa.field("truncated", pa.int32()),  # samples that were cut at rollout.max_response_tokens
        pa.field("tokens", pa.int64()),  # sampled
        pa.field("sample_seconds", pa.float64()),  # of the whole evaluation, start of the actors included
        pa.field("verify_seconds", pa.float64()),  # sum over samples
    ]
)


class Key(NamedTuple):
    model: str
    task: str


@dataclass(frozen=True)
class Counts:
    """See the schema. right_P, shown_P: int[P]."""

    samples: int
    right_P: np.ndarray
    shown_P: np.ndarray | None
    programs: int
    truncated: int
    tokens: int
    sample_seconds: float
    verify_seconds: float

    @property
    def answers(self) -> int:
        return self.samples * len(self.right_P)

    def pass_at(self, k: int) -> np.ndarray:
        """Unbiased pass@k of each problem, float64[P]."""
        return _pass_at(self.samples, k)[self.right_P]

    def best_of(self, k: int) -> np.ndarray:
        """Unbiased success of each problem, float64[P], if one of k answers is returned that passes the shown test.

        Among those that pass it the choice is random; an answer that passes all tests passes the shown one too. So the
        value is the probability that one of k passes the shown test, times the share of right ones among those.
        """
        if self.shown_P is None:
            raise ValueError("this task shows no tests")
        right_share_P = self.right_P / np.maximum(self.shown_P, 1)
        return _pass_at(self.samples, k)[self.shown_P] * right_share_P


class Store(Measurements[Key, Counts]):
    """The counts in `path`; see :class:`Measurements`."""

    def __init__(self, path: Path, digest: str) -> None:
        super().__init__(path, digest, _SCHEMA, _read, _write)


def _pass_at(n: int, k: int) -> np.ndarray:
    return np.array([pass_at_k(n, c, k) for c in range(n + 1)])


def _read(row: Mapping[str, Any]) -> tuple[Key, Counts]:
    shown = None if row["shown"] is None else np.array(row["shown"])
    rest = {name: row[name] for name in row if name not in ("model", "task", "samples", "right", "shown")}
    return Key(row["model"], row["task"]), Counts(row["samples"], np.array(row["right"]), shown, **rest)


def _write(key: Key, counts: Counts) -> dict[str, Any]:
    row = asdict(counts)
    right_P, shown_P = row.pop("right_P"), row.pop("shown_P")
    return key._asdict() | row | {"right": right_P.tolist(), "shown": None if shown_P is None else shown_P.tolist()}
