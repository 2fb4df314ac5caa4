"""The stored figures of every run: values by prompt and k, and a few training curves. One Parquet file per grid."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from benchmarks.objectives.experiments import KS

SERIES = ("policy/entropy", "groups/unique_answer_share", "reward/mean", "time/step_s", "queue/staleness_max")
_SCHEMA = pa.schema(
    [
        pa.field("contender", pa.string()),
        pa.field("rate", pa.float64()),  # learning rate; 0: the base model
        pa.field("seed", pa.int32()),
        pa.field("split", pa.string()),
        pa.field("samples", pa.int32()),  # per prompt
        pa.field("values", pa.map_(pa.string(), pa.list_(pa.float32()))),  # by strategy, [prompts, KS] row by row
        pa.field("fooled", pa.list_(pa.float32())),  # by prompt: share of the wrong answers that score above 1/2
        pa.field("series", pa.map_(pa.string(), pa.list_(pa.float32()))),  # by metric, one value per optimizer step
    ]
)


@dataclass(frozen=True)
class Key:
    """Which run this is."""

    contender: str
    rate: float
    seed: int
    split: str


@dataclass(frozen=True)
class Result:
    """The figures of a run.

    values: by strategy, float64 [P, len(KS)], each prompt's unbiased value from `samples` samples.
    fooled: float64 [P], NaN if a prompt has no wrong answer.
    series: by metric of SERIES, float64 [steps].
    """

    samples: int
    values: Mapping[str, np.ndarray]
    fooled: np.ndarray
    series: Mapping[str, np.ndarray]

    def value(self, strategy: str, k: int) -> np.ndarray:
        """The strategy's value of each prompt, float64 [P]."""
        return self.values[strategy][:, KS.index(k)]


def summarise(groups: Path, rows: Sequence[Mapping[str, float]], strategies: Sequence[str]) -> Result:
    """The result of an evaluation's graded groups (Parquet) and a run's metrics."""
    from learner import strategy_value

    table = parquet.read_table(groups, columns=["sequence", "verdict", "score"]).sort_by("sequence")
    right_PN = np.array([[v == "correct" for v in verdicts] for verdicts in table["verdict"].to_pylist()], dtype=float)
    score_PN = np.array(table["score"].to_pylist(), dtype=float)
    values = {
        strategy: np.stack([strategy_value(right_PN, scores=score_PN, strategy=strategy, k=k) for k in KS], axis=1)
        for strategy in strategies
    }
    wrong_P = (1 - right_PN).sum(axis=1)
    accepted_P = ((1 - right_PN) * (score_PN > 0.5)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        fooled = accepted_P / wrong_P
    series = {name: np.array([row[name] for row in rows if name in row]) for name in SERIES}
    return Result(right_PN.shape[1], values, fooled, series)


class Results:
    """The finished runs of a grid, in `path`. Safe for threads of one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._found: dict[Key, Result] = {}
        if path.exists():
            for row in parquet.read_table(path, schema=_SCHEMA).to_pylist(maps_as_pydicts="strict"):
                self._found[Key(row["contender"], row["rate"], row["seed"], row["split"])] = _result(row)

    def get(self, key: Key) -> Result | None:
        with self._lock:
            return self._found.get(key)

    def items(self) -> list[tuple[Key, Result]]:
        """In the order of contender, split, rate, seed."""
        with self._lock:
            return sorted(self._found.items(), key=lambda kv: (kv[0].contender, kv[0].split, kv[0].rate, kv[0].seed))

    def add(self, key: Key, result: Result) -> None:
        """Store a run's result; it is on disk when this returns."""
        with self._lock:
            self._found[key] = result
            rows = [_row(k, r) for k, r in self._found.items()]
            temporary = self.path.with_suffix(".tmp")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary, compression="zstd")
            os.replace(temporary, self.path)


def _row(key: Key, result: Result) -> dict:
    return {
        "contender": key.contender,
        "rate": key.rate,
        "seed": key.seed,
        "split": key.split,
        "samples": result.samples,
        "values": {name: values.ravel().tolist() for name, values in result.values.items()},
        "fooled": result.fooled.tolist(),
        "series": {name: values.tolist() for name, values in result.series.items()},
    }


def _result(row: dict) -> Result:
    return Result(
        row["samples"],
        {name: np.array(values).reshape(-1, len(KS)) for name, values in row["values"].items()},
        np.array(row["fooled"]),
        {name: np.array(values) for name, values in row["series"].items()},
    )
