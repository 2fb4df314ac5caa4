"""Evaluations as plain JSON, for scripts: what `bonrl eval --json` prints and evaluation.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from cluster.evaluation.summary import Evaluation
from learner.metrics import CurvePoint, Difference


def evaluation_json(evaluation: Evaluation, changes: Mapping[str, Difference] | None = None) -> dict[str, Any]:
    """One evaluation: the names of ``cluster/records/metrics.yaml``, and every curve with intervals, also by level.

    Args:
        changes: differences from a baseline by name, where there is one.
    """
    flat = {"temperature": evaluation.temperature, **evaluation.row(), **evaluation.standard_errors()}
    levels = {
        level: {"prompts": evaluation.levels.count(level), "curves": _curves(curves)}
        for level, curves in evaluation.by_level().items()
    }
    auc = evaluation.scorer_auc
    return {name: _number(value) for name, value in flat.items()} | {
        "sampling": asdict(evaluation.sampling),
        "n": evaluation.n,
        "prompts": len(evaluation.prompt_ids),
        "curves": _curves(evaluation.curves),
        "levels": levels,
        "scorer_auc": _point(auc) if auc is not None else None,
        **({"differences": {name: asdict(change) for name, change in changes.items()}} if changes is not None else {}),
    }


def _curves(curves: Mapping[str, Sequence[CurvePoint]]) -> dict[str, list[dict[str, Any]]]:
    return {strategy: [{"k": point.k} | _point(point) for point in curve] for strategy, curve in curves.items()}


def _point(point: CurvePoint) -> dict[str, float | None]:
    names = ("value", "low", "high", "standard_error")
    return {name: _number(getattr(point, name)) for name in names}


def _number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: the interval or the error of a single prompt is null."""
    return value if value is not None and isfinite(value) else None
