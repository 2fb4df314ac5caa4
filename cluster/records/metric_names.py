"""Names of the metrics that a run may log, read from the table in metrics.yaml.

The console, metrics.jsonl, wandb and the documentation all read this table; a row with a name that is not in it is
refused, so that a renamed metric cannot leave a dashboard empty without notice.

A job has four counters of progress, and each metric belongs to exactly one of them (its *axis*). wandb drops or
misplaces rows when several counters share its implicit step, so rows are split by axis before they are logged.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from learner.strategies import STRATEGIES

TRAIN_STEP = "train/step"
ROLLOUT_STEP = "rollout/step"
EVALUATION_STEP = "evaluation/step"
TIME = "time/s"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # thirty times as fast, where PyYAML was built with it
_TABLE = yaml.load((Path(__file__).parent / "metrics.yaml").read_text(encoding="utf-8"), _LOADER)

AXES: dict[str, str] = {axis: section["about"] for axis, section in _TABLE.items()}


class MetricError(ValueError):
    """A row cannot be logged: an unknown name, a missing axis or a value that is not a number."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table. `key` may hold a placeholder: `<k>` (an integer), `<status>` or `<part>` (a word),
    `<actor>` (`sampler-0`), or `<strategy>` (of a plugin, which is loaded after this table). Each is a named group of
    `regex`."""

    key: str
    unit: str
    axis: str
    meaning: str
    watch: str

    @property
    def is_pattern(self) -> bool:
        return "<" in self.key

    @property
    def regex(self) -> re.Pattern[str]:
        escaped = re.escape(self.key)
        words = {
            "k": "[1-9][0-9]*",
            "status": "[a-z][a-z_]*",
            "part": "[A-Za-z_][A-Za-z0-9_]*",
            "actor": "[a-z][a-z0-9-]*",
            "strategy": "|".join(re.escape(strategy.metric) for strategy in STRATEGIES.values()),
        }
        for placeholder, expression in words.items():
            escaped = escaped.replace(f"<{placeholder}>", f"(?P<{placeholder}>{expression})")
        return re.compile(escaped)


def _metrics() -> Iterator[Metric]:
    for axis, section in _TABLE.items():
        for key, row in section["metrics"].items():
            yield Metric(key, row["unit"], axis, row["meaning"], row["watch"])
            if row.get("interval"):
                for end, side in (("low", "lower"), ("high", "upper")):
                    meaning = f"{side} end of its 95% interval over prompts"
                    yield Metric(f"{key}_{end}", row["unit"], axis, meaning, "compare runs by intervals")


METRICS: tuple[Metric, ...] = tuple(_metrics())

_EXACT = {metric.key: metric for metric in METRICS if not metric.is_pattern}
_PATTERNS = [metric for metric in METRICS if metric.is_pattern]


def find_metric(name: str) -> Metric:
    """The table's line for a logged name (`eval/pass@8` finds `eval/pass@<k>`), or raises MetricError."""
    if name in _EXACT:
        return _EXACT[name]
    for metric in _PATTERNS:
        if metric.regex.fullmatch(name):
            return metric
    known = [*AXES, *(metric.key for metric in METRICS)]
    near = difflib.get_close_matches(re.sub(r"\d+", "<k>", name), known, n=1, cutoff=0.4)
    hint = f"; the nearest known name is {near[0]!r}" if near else ""
    raise MetricError(f"unknown metric {name!r}{hint}. cluster/records/metrics.yaml lists the known metrics.")


def split_by_axis(row: Mapping[str, Any]) -> list[dict[str, int | float]]:
    """Splits one flat row into one row per axis, its axis value first; axes without metrics are left out.

    Values become plain Python numbers (NumPy and torch scalars too). Raises MetricError on an unknown name,
    on a metric whose axis value is not in the row, and on a value that is not a number.
    """
    parts: dict[str, dict[str, int | float]] = {}
    for name, value in row.items():
        if name in AXES:
            continue
        axis = find_metric(name).axis
        if axis not in row:
            raise MetricError(f"metric {name!r} has the axis {axis!r}, which is missing in the row: add it")
        part = parts.setdefault(axis, {axis: to_number(axis, row[axis])})
        part[name] = to_number(name, value)
    return [parts[axis] for axis in AXES if axis in parts]


def check_row(row: Mapping[str, Any]) -> None:
    """Raises MetricError unless all names are known, needed axes are there and values are numbers."""
    split_by_axis(row)
    for axis in AXES:
        if axis in row:
            to_number(axis, row[axis])


def to_number(name: str, value: Any) -> int | float:
    """A plain int or float from a Python, NumPy or 0-d torch number; bool becomes 0 or 1."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    raise MetricError(f"metric {name!r} must be one number, not {type(value).__name__} ({value!r:.60})")
