"""The top of a page: what was trained, the progress, and the result."""

from __future__ import annotations

import datetime as dt
from pathlib import PurePath
from typing import Any

import numpy as np

from cluster.report.evaluations import chosen, deployed_change, deployed_metric, point, trained_for
from cluster.report.series import column, duration
from cluster.report.source import Source

_TASKS = {
    "countdown": "Countdown",
    "gsm8k": "GSM8K",
    "math": "MATH",
    "math500": "MATH-500",
    "humaneval": "HumanEval",
    "mbpp": "MBPP",
}
TITLES = {"base": "base model", "best": "best", "last": "last"}


def headline(source: Source) -> dict[str, Any]:
    """Title, status, the compared evaluations of the deployed metric, and the key facts."""
    key, name = deployed_metric(source)
    points = [
        {"which": which, "title": _title(which, int(row["evaluation/step"]))} | point(row, key)
        for which, row in chosen(source).items()
    ]
    points = [p for p in points if p["value"] is not None]
    return {
        "model": PurePath(str(source.value("model.path", "model"))).name,
        "task": _task(source),
        "objective": trained_for(source) or "its objective",
        "deployed": name,
        "status": status(source),
        "duration": duration(source.seconds),
        "points": points,
        "scale": _scale(points),
        "difference": deployed_change(source),
        "training": _training(source),
        "facts": _facts(source),
        "warnings": _warnings(source),
        "incidents": _incidents(source),
        "imitation": source.value("objective.imitation", "none"),
    }


def status(source: Source) -> dict[str, str]:
    """The state of the run in a word, a CSS class for its color, and what it means."""
    planned, done = int(source.value("run.steps", 0)), source.run.last_step
    if source.summary.get("recorded_only"):
        return {"name": "recorded", "kind": "done", "text": f"{done:,} steps of groups recorded; nothing was trained"}
    if source.running:
        return {"name": "running", "kind": "running", "text": f"step {done:,} of {planned:,}"}
    if stopped := source.summary.get("stopped_early"):
        return {"name": "finished", "kind": "done", "text": f"{done:,} of {planned:,} steps; {stopped}"}
    if source.summary or (planned and done >= planned):
        return {"name": "finished", "kind": "done", "text": f"{done:,} of {planned:,} steps"}
    more = "; it can be resumed" if source.resumable else ""
    return {"name": "stopped", "kind": "stopped", "text": f"{done:,} of {planned:,} steps{more}"}


def _task(source: Source) -> str:
    name = str(source.value("task.name", "the task"))
    if name == "jsonl":
        file = source.value("task.jsonl.train") or source.value("task.path")
        more = f" and {len(file) - 1} more" if isinstance(file, list) and len(file) > 1 else ""
        file = file[0] if isinstance(file, list) else file
        return f"{PurePath(str(file)).name}{more}" if file else "JSONL rows"
    return _TASKS.get(name, name)


def _title(which: str, step: int) -> str:
    return TITLES[which] if which == "base" else f"{TITLES[which]}, step {step:,}"


def _scale(points: list[dict[str, Any]]) -> dict[str, float] | None:
    """Round ends of an axis that holds all intervals, for the picture of the compared evaluations."""
    ends = [p[end] for p in points for end in ("value", "low", "high") if p[end] is not None]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    margin = max((high - low) * 0.15, 1e-3)
    step = 10 ** np.floor(np.log10(high - low + 2 * margin)) / 2
    first, last = float(np.floor((low - margin) / step) * step), float(np.ceil((high + margin) / step) * step)
    if 0.0 <= low and high <= 1.0:  # shares
        first, last = max(first, 0.0), min(last, 1.0)
    return {"low": first, "high": last}


def _training(source: Source) -> dict[str, Any] | None:
    """Mean of the objective over the first and the last tenth of the steps; shown if there is no evaluation."""
    values = column(source.rows, "objective/value")
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    part = max(1, len(values) // 10)
    return {"first": float(values[:part].mean()), "last": float(values[-part:].mean()), "steps": part}


def _facts(source: Source) -> list[tuple[str, str]]:
    value = source.value
    moving = [
        name for name in ("k", "k_by_entropy", "n", "temperature", "kl", "learning_rate") if value(f"schedule.{name}")
    ]
    facts = [
        ("steps", f"{source.run.last_step:,} of {int(value('run.steps', 0)):,}"),
        ("wall time", duration(source.seconds)),
        ("answers at deployment", f"k = {value('objective.k', '?')}"),
        ("samples per prompt", f"n = {value('rollout.n', '?')}"),
        ("prompts per step", f"{value('rollout.prompts_per_step', '?')}"),
        ("strategy, estimator", f"{value('objective.strategy', '?')}, {value('objective.estimator', '?')}"),
        ("learning rate", f"{value('learner.learning_rate', '?')}"),
        ("temperature", f"{value('rollout.temperature', '?')}"),
        ("staleness", f"{value('queue.staleness', 0)}"),
        ("seed", f"{value('run.seed', '?')}"),
    ]
    if source.evaluations:
        prompts, samples = int(value("evaluation.prompts") or 0), value("evaluation.n", "?")
        facts.append(("evaluation", f"{prompts:,} × {samples} ({value('evaluation.split', '?')})"))
    if moving:
        facts.append(("scheduled", ", ".join(moving)))
    return facts


def _warnings(source: Source) -> list[str]:
    """The warnings at the run's end; before it, the latest of each rule."""
    if source.summary:
        return [str(text) for text in source.summary.get("warnings", [])]
    latest = {str(item.get("name")): item for item in source.run.incidents if item.get("kind") == "warning"}
    return [str(item.get("text", "")) for item in latest.values()]


def _incidents(source: Source) -> list[dict[str, str]]:
    """Lost actors and what else went wrong, with its time."""
    found = []
    for item in source.run.incidents:
        if item.get("kind") == "warning":
            continue
        when = item.get("time")
        recovered = item.get("recovered_s")
        found.append(
            {
                "when": _clock(when),
                "unit": str(item.get("unit", "")),
                "reason": str(item.get("reason", "")),
                "recovered": f"served again after {duration(recovered)}" if isinstance(recovered, int | float) else "",
            }
        )
    return found


def _clock(when: Any) -> str:
    if not isinstance(when, int | float):
        return ""
    return dt.datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M:%S")
