"""The stored figures of every run: values by prompt and k, and a few training curves. One Parquet file per grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from benchmarks.objectives.experiments import KS
from benchmarks.planned.store import Measurements

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


class Key(NamedTuple):
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


class Results(Measurements[Key, Result]):
    """The finished runs of a grid, in `path`; see :class:`Measurements`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, None, _SCHEMA, _read, _write)


def _read(row: Mapping[str, Any]) -> tuple[Key, Result]:
    return Key(*(row[name] for name in Key._fields)), Result(
        row["samples"],
        {name: np.array(values).reshape(-1, len(KS)) for name, values in row["values"].items()},
        np.array(row["fooled"]),
        {name: np.array(values) for name, values in row["series"].items()},
    )


def _write(key: Key, result: Result) -> dict[str, Any]:
    return key._asdict() | {
        "samples": result.samples,
        "values": {name: values.ravel().tolist() for name, values in result.values.items()},
        "fooled": result.fooled.tolist(),
        "series": {name: values.tolist() for name, values in result.series.items()},
    }
