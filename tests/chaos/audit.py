"""The audit of a run that has ended."""

from __future__ import annotations

import statistics
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from cluster.records.checkpoints import Checkpoint, Checkpoints
from cluster.records.run_directory import read_metrics
from tests.chaos.report import Report


def audit(run: Path, prompts: int, report: Report) -> Checkpoint | None:
    """Every position exactly once, nothing staler than the bound, and a readable checkpoint, or a problem in `report`.

    Args:
        prompts: ``rollout.prompts_per_step``.
        report: names the steps; gets staleness, reward, the steps with a gradient, and the problems.

    Returns:
        The checkpoint of the last step; None if there is none, which is a problem.
    """
    _audit_groups(run, report.steps * prompts, report)
    rows = [row for row in read_metrics(run) if "train/step" in row]
    if [row["train/step"] for row in rows] != list(range(1, report.steps + 1)):
        report.problems.append("metrics.jsonl does not hold every step once")
    if rows:
        observed = int(max(row["queue/staleness_max"] for row in rows))
        report.staleness = observed, int(rows[0]["queue/staleness_bound"])
        if observed > rows[0]["queue/staleness_bound"]:
            report.problems.append(f"staleness {report.staleness} above its bound")
        fifth = max(1, len(rows) // 5)
        first, last = (statistics.mean(r["reward/mean"] for r in some) for some in (rows[:fifth], rows[-fifth:]))
        report.reward = first, last
        report.with_gradient = sum(not row["optimizer/skipped"] for row in rows)
        if not report.with_gradient:
            report.problems.append("no step had a gradient, so equal weights prove nothing")
    final = Checkpoints(run / "checkpoints").latest().checkpoint
    if final is None or final.step != report.steps:
        report.problems.append("there is no usable checkpoint of the last step")
        return None
    return final


def _audit_groups(run: Path, positions: int, report: Report) -> None:
    found: Counter[int] = Counter()
    trained: Counter[tuple[int, str]] = Counter()
    for path in sorted((run / "groups").glob("step-*.parquet")):
        for group in pq.read_table(path, columns=["sequence", "epoch", "prompt_id", "verdict"]).to_pylist():
            found[group["sequence"]] += 1
            trained[group["epoch"], group["prompt_id"]] += 1
            if not group["verdict"]:
                report.problems.append(f"position {group['sequence']} was quarantined")
    expected = Counter(range(positions))
    if found != expected:
        report.problems.append(
            f"lost: {sorted((expected - found).elements())}, twice: {sorted((found - expected).elements())}"
        )
    if max(trained.values(), default=0) > 1:
        report.problems.append("a prompt was trained twice in an epoch")
