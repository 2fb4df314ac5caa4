"""Where the wall time of a run went, and whether sampling or learning is the bottleneck."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cluster.report.series import column, duration, number, spread
from cluster.report.source import Source

PARTS = ("waiting", "learning", "sync", "other", "evaluation", "around")
NAMES = {
    "waiting": "waiting for groups (sampling and grading)",
    "learning": "learning",
    "sync": "weight sync",
    "other": "between them",
    "evaluation": "evaluation",
    "around": "start, checkpoints and the rest",
}
GROUP_FILES = 8  # training steps whose groups are timed
BALANCED = 0.1  # difference of two shares below which neither side is the bottleneck


def time_shares(source: Source) -> dict[str, Any] | None:
    """Seconds by part of the control loop, which add up to the run's wall time; None without a timed step.

    With staleness above 0 samplers also work while the loop learns, so waiting is less than their own work.
    """
    steps = column(source.rows, "time/step_s")
    if not np.isfinite(steps).any():
        return None
    seconds = {
        "learning": _sum(steps * column(source.rows, "time/learning_share")),
        "sync": _sum(steps * column(source.rows, "time/sync_share")),
        "other": _sum(steps * column(source.rows, "time/other_share")),
        "evaluation": _sum(column(source.evaluations, "eval/seconds")),
    }
    in_steps = _sum(steps)
    seconds["waiting"] = max(0.0, in_steps - seconds["learning"] - seconds["sync"] - seconds["other"])
    seconds["around"] = max(0.0, source.seconds - in_steps - seconds["evaluation"])
    total = sum(seconds.values())
    return {
        "total": number(total),
        "parts": [
            {"id": part, "name": NAMES[part], "seconds": number(seconds[part]), "share": number(seconds[part] / total)}
            for part in PARTS
            if total and seconds[part] / total >= 0.0005
        ],
    }


def bottleneck(source: Source) -> dict[str, Any] | None:
    """Mean busy shares of both sides weighted by time, overlap efficiency, and a sentence on what to do about it."""
    steps = column(source.rows, "time/step_s")
    total = _sum(steps)
    sampling, learning, sync, overlap = (
        _sum(steps * column(source.rows, f"time/{name}")) / total if total else 0.0
        for name in ("sampling_share", "learning_share", "sync_share", "overlap_efficiency")
    )
    if not total or not sampling + learning:
        return None
    return {
        "sampling": number(min(1.0, sampling)),
        "learning": number(learning),
        "sync": number(sync),
        "samplers_idle": number(max(0.0, 1 - sampling)),
        "learner_idle": number(max(0.0, 1 - learning)),
        "overlap": number(overlap),
        "verdict": _verdict(sampling, learning, source.value("queue.staleness", 0)),
    }


def group_time(source: Source) -> dict[str, Any] | None:
    """Mean seconds to sample a group and to grade its samples, over a few steps; None without groups."""
    sampling, grading = [], []
    for step in spread(source.run.group_steps, GROUP_FILES):
        try:
            table = pq.read_table(source.group_file("training", step), columns=["sample_seconds", "verify_seconds"])
        except (OSError, ValueError):  # Arrow's errors are among them
            continue
        sampling += [seconds for seconds in table["sample_seconds"].to_pylist() if seconds is not None]
        grading += [sum(seconds) for seconds in table["verify_seconds"].to_pylist() if seconds]
    if not sampling or not grading:
        return None
    return {"sampling": duration(np.mean(sampling)), "grading": duration(np.mean(grading)), "groups": len(sampling)}


def _verdict(sampling: float, learning: float, staleness: int) -> str:
    busy = f"samplers work {_percent(sampling)} of a step, the learner {_percent(learning)}"
    if abs(sampling - learning) < BALANCED:
        more = "Overlap them with queue.staleness=1." if not staleness else "More of only one side will not help."
        return f"Sampling and learning take about the same time: {busy}. {more}"
    if sampling > learning:
        return f"Sampling is the bottleneck: {busy}. More samplers, or fewer response tokens, would shorten it."
    return f"Learning is the bottleneck: {busy}. More learner ranks or threads would shorten it; samplers would not."


def _sum(values: np.ndarray) -> float:
    return float(np.nansum(values))


def _percent(share: float) -> str:
    return f"{100 * min(share, 1.0):.0f} %"
