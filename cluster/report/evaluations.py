"""Base, best and last evaluation: their curves over k, and paired differences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from math import inf, isfinite
from typing import Any

import pyarrow.parquet as pq

from actors.group import Group
from actors.queue.group_log import read_groups
from cluster.config.keep_best import metric_key, parse_metric
from cluster.errors import UsageError
from cluster.evaluation.curves import difference, objective_name, value_name
from cluster.evaluation.summary import Evaluation, curve_of, objective_terms
from cluster.records.best import read_best
from cluster.records.metric_names import EVALUATION_STEP
from cluster.report.series import number
from cluster.report.source import Row, Source
from learner.metrics import CurvePoint
from learner.strategies import STRATEGIES

OBJECTIVE = "eval/objective"
CURVES = {"pass_at_k": "pass@k", "best_of_k": "Best-of-k", "majority_at_k": "majority@k", "max_at_k": "max@k"}
MAX_MAJORITY_SAMPLES = 8192  # samples of an evaluation whose majority curve is computed for the page: about a second


def deployed_metric(source: Source) -> tuple[str, str]:
    """Key and name of the value by which evaluations are ranked.

    It is evaluation.keep_best where that is set, else the objective, else the largest pass@k.
    """
    rows = source.evaluations
    kept = source.config.evaluation.keep_best if source.config is not None else None
    if kept is not None and kept != "objective" and any(metric_key(kept) in row for row in rows):
        return metric_key(kept), value_name(*(parse_metric(kept) or ("mean", 1)))
    if source.config is not None and any(OBJECTIVE in row for row in rows) or not rows:
        return OBJECTIVE, trained_for(source) or "objective"
    ks = sorted({k for row in rows for k in _ks(row, "pass")})
    return (f"eval/pass@{ks[-1]}", f"pass@{ks[-1]}") if ks else (OBJECTIVE, "objective")


def trained_for(source: Source) -> str | None:
    """What the objective is called; None where another release wrote the configuration."""
    return None if source.config is None else objective_name(objective_terms(source.config))


def chosen(source: Source) -> dict[str, Row]:
    """The evaluations that a page compares: `base` (before the first step), `best` and `last`, where they differ."""
    rows, (key, _) = source.evaluations, deployed_metric(source)
    trained = [row for row in rows if row[EVALUATION_STEP] > 0]
    found = {"base": rows[0]} if rows and rows[0][EVALUATION_STEP] == 0 else {}
    if trained:
        best = _kept(source, trained) or max(trained, key=lambda row: _rank(row, key))
        if best is not trained[-1]:
            found["best"] = best
        found["last"] = trained[-1]
    return found


def _kept(source: Source, rows: Iterable[Row]) -> Row | None:
    """The evaluation that best.json names."""
    try:
        best = read_best(source.path)
    except UsageError:
        return None
    return next((row for row in rows if best is not None and row[EVALUATION_STEP] == best.step), None)


def _rank(row: Row, key: str) -> float:
    value = row.get(key, -inf)
    return value if isfinite(value) else -inf


def point(row: Row, key: str) -> dict[str, Any]:
    """Step, value and interval of a metric of an evaluation."""
    ends = {end: number(row.get(f"{key}_{end}")) for end in ("low", "high")}
    return {"step": int(row[EVALUATION_STEP]), "value": number(row.get(key))} | ends


def deployed_change(source: Source) -> dict[str, Any] | None:
    """The paired difference of the deployed metric, last evaluation minus base model; None without both."""
    key, name = deployed_metric(source)
    return _change(source, name, lambda evaluation: evaluation.points().get(key))


def curves(source: Source) -> list[dict[str, Any]]:
    """Curves over k of the chosen evaluations: those that the run logged, and others that its groups allow."""
    rows, found = chosen(source), []
    for metric, strategy in _curve_names(rows.values()).items():
        lines: list[dict[str, Any]] = []
        for name, row in rows.items():
            points = _logged(row, metric) or _computed(source, row, strategy)
            if points:
                columns = {key: [p[key] for p in points] for key in ("k", "value", "low", "high")}
                lines.append({"which": name, "step": int(row[EVALUATION_STEP])} | columns)
        if lines:
            changes: dict[int, Any] = {}
            if strategy in STRATEGIES:
                changes = {k: _change(source, value_name(strategy, k), _at(strategy, k)) for k in lines[-1]["k"]}
            title = CURVES.get(strategy, f"{metric}@k")
            found.append({"title": title, "strategy": metric, "lines": lines, "changes": changes})
    return found


def _curve_names(rows: Iterable[Row]) -> dict[str, str]:
    """Strategies by the name of their metric: the usual ones first, then what else was logged (a user's own)."""
    names = {STRATEGIES[strategy].metric: strategy for strategy in CURVES}
    known = {found.metric: name for name, found in STRATEGIES.items()}
    logged = sorted({m[1] for row in rows for key in row if (m := re.fullmatch(r"eval/(\w+)@\d+", key))})
    return names | {metric: known.get(metric, metric) for metric in logged if metric not in names}


def _ks(row: Row, metric: str) -> list[int]:
    return sorted(int(key.rpartition("@")[2]) for key in row if re.fullmatch(rf"eval/{re.escape(metric)}@\d+", key))


def _logged(row: Row, metric: str) -> list[dict[str, Any]]:
    return [{"k": k} | point(row, f"eval/{metric}@{k}") for k in _ks(row, metric)]


def _computed(source: Source, row: Row, strategy: str) -> list[dict[str, Any]]:
    """A curve that the run did not log; empty where it says nothing new or takes long."""
    step = int(row[EVALUATION_STEP])
    if step not in source.run.evaluation_steps:
        return []
    file = source.group_file("evaluation", step)
    if strategy == "best_of_k":
        table = pq.read_table(file, columns=["reward", "score"])
        if table["reward"].equals(table["score"]):
            return []  # the scorer is the verdict: Best-of-k is pass@k
    elif strategy == "majority_at_k":
        answers = pq.read_table(file, columns=["answer"])["answer"].combine_chunks().flatten()
        if len(answers) > MAX_MAJORITY_SAMPLES or answers.null_count == len(answers):
            return []
    else:
        return []
    groups = [group for group in map(Group.from_record_batch, read_groups(file)) if group.usable]
    if len(groups) < 2 or len({group.n for group in groups}) > 1:
        return []
    points = curve_of(groups, strategy)
    return [{"k": p.k} | {key: number(getattr(p, key)) for key in ("value", "low", "high")} for p in points]


def _change(source: Source, name: str, of: Callable[[Evaluation], CurvePoint | None]) -> dict[str, Any] | None:
    """A paired difference, last evaluation minus base model: as the run recorded it at its end, or computed."""
    rows = chosen(source)
    if not {"base", "last"} <= rows.keys():
        return None
    steps = [int(rows[which][EVALUATION_STEP]) for which in ("base", "last")]
    summarized = [row.get(EVALUATION_STEP) for row in source.summary.get("evaluations", [])]
    # Of a resumed run the summary may compare other steps.
    recorded = source.summary.get("differences", {}).get(name) if summarized[:1] + summarized[-1:] == steps else None
    if recorded is None:
        before, after = map(source.evaluation, steps)
        old, new = (None if evaluation is None else of(evaluation) for evaluation in (before, after))
        if before is None or after is None or old is None or new is None:
            return None
        found = difference(before, after, old, new)
        recorded = None if found is None else asdict(found)
    return None if recorded is None else {key: number(float(value)) for key, value in recorded.items()}


def _at(strategy: str, k: int) -> Callable[[Evaluation], CurvePoint | None]:
    """Reads one point of a curve of an evaluation."""
    return lambda evaluation: next((p for p in evaluation.curves.get(strategy, ()) if p.k == k), None)
