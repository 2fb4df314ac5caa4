"""Columns of numbers over steps, made small enough to draw: running means with intervals, and thinned points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from learner.metrics import Z_95

MAX_POINTS = 600  # of one line; a screen does not show more
DIGITS = 5


def column(rows: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    """The values of a metric, float64 [rows]; NaN where a row does not hold it or holds no finite number."""
    values = np.array([row.get(name, math.nan) for row in rows], dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def window_of(steps: int) -> int:
    """Steps of a running mean over a run of `steps` steps: about a fifteenth of them, an odd number."""
    return 1 if steps < 10 else min(101, 2 * (steps // 30) + 3)


def running_mean(values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over `window` steps around each step, and the ends of its 95 % interval from their scatter.

    Steps train on different prompts, so their deviations count as independent. The interval is NaN where fewer than
    three steps have a value.
    """
    known = np.isfinite(values)
    centered = np.where(known, values - _mean(values), 0.0)  # smaller rounding errors in the sums of squares
    half = window // 2
    first = np.maximum(np.arange(len(values)) - half, 0)
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    count, total, squares = (
        sums[last] - sums[first]
        for sums in (np.concatenate([[0.0], np.cumsum(part)]) for part in (known, centered, centered**2))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, total / count, np.nan)
        variance = np.maximum(squares - count * mean**2, 0.0) / (count - 1)
        half_width = np.where(count >= 3, Z_95 * np.sqrt(variance / count), np.nan)
    mean = mean + _mean(values)
    return mean, mean - half_width, mean + half_width


def thin(values: np.ndarray) -> np.ndarray:
    """At most MAX_POINTS values: the mean of each stretch of neighbors, NaN where none has a value."""
    if len(values) <= MAX_POINTS:
        return values
    edges = np.linspace(0, len(values), MAX_POINTS + 1).astype(int)
    return np.array([_mean(values[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)])


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, evenly, the first and the last included."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i)] for i in np.linspace(0, len(steps) - 1, most)]


def plain(values: np.ndarray) -> list[float | int | None]:
    """Numbers as JSON holds them: rounded to `DIGITS` significant digits, null in place of NaN."""
    return [number(value) for value in values.tolist()]


def number(value: float | None) -> float | int | None:
    """One such number."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def duration(seconds: float | np.floating) -> str:
    """`9 min 53 s`, `0.29 s`, `4.8 ms`."""
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.2g} ms"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours:,} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.2g} s" if seconds < 10 else f"{rest} s"


def smoothed(values: np.ndarray, window: int) -> dict[str, Any]:
    """A noisy line as the page draws it: its points, the running mean and the mean's interval."""
    line: dict[str, Any] = {"y": plain(thin(values))}
    if window > 1:
        mean, low, high = running_mean(values, window)
        if np.nanmin(values, initial=0.0) >= 0.0:
            low = np.maximum(low, 0.0)  # seconds, tokens and shares are never below 0
        line |= {"mean": plain(thin(mean)), "low": plain(thin(low)), "high": plain(thin(high))}
    return line


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
