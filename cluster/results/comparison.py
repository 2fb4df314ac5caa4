"""Compares groups of runs prompt by prompt: at the last evaluation, at every common step, and at the best one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from cluster.evaluation.curves import objective_name, value_name
from cluster.evaluation.summary import curve_of, strategies_of, trained_ks_of
from cluster.results.change import METHODS, Change, Seeded, change, t_interval
from cluster.results.comparability import common_prompts
from cluster.results.run_groups import RunGroup, group_runs
from cluster.results.subjects import LAST, Subject, load_subject, read_judged, read_prompts
from learner.metrics import CurvePoint, weighted_sum, with_values
from learner.objective_settings import TermSettings, only_term
from learner.strategies import STRATEGIES

FORMAT = 1  # of the JSON
REWARD_MEAN = "eval/reward_mean"

Points = Mapping[str, CurvePoint]  # by metric


@dataclass(frozen=True, slots=True)
class Value:
    """A metric of a group of runs: of a single run with its interval over prompts, else the mean with a t interval."""

    value: float
    low: float
    high: float
    runs: dict[str, float]


@dataclass(frozen=True)
class Moment:
    """All groups compared at one moment of training.

    Attributes:
        at: `last`, `step` or `best`.
        step: for `step`.
        steps: the evaluated steps of each run; for `best` one for each half of the prompts; empty for `bonrl eval`.
        prompts: how many prompts are compared.
        values: by metric and the label of the group.
        changes: the difference from the first group, by metric and the label of the other.
    """

    at: str
    step: int | None
    steps: dict[str, list[int]]
    prompts: int
    values: dict[tuple[str, str], Value]
    changes: dict[tuple[str, str], Change]


@dataclass(frozen=True)
class Comparison:
    """The result of `bonrl compare`.

    Attributes:
        groups: the first is the baseline of every difference.
        labels: what each metric is called, by its name.
        objectives: the metric that each group deploys, by its label; absent where it cannot be measured.
    """

    groups: Sequence[RunGroup]
    labels: dict[str, str]
    objectives: dict[str, str]
    moments: list[Moment]
    warnings: list[str] = field(default_factory=list)

    @property
    def deployed(self) -> list[str]:
        """The metrics that any group deploys; the mean reward where there is none."""
        return list(dict.fromkeys(self.objectives.values())) or [REWARD_MEAN]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as docs/compare.md describes it."""
        return {
            "format": FORMAT,
            "baseline": self.groups[0].label,
            "groups": [
                {
                    "label": group.label,
                    "keys": dict(group.keys),
                    "objective": self.objectives.get(group.label),
                    "runs": [{"name": run.name, "path": str(run.path), "seed": run.seed} for run in group.runs],
                }
                for group in self.groups
            ],
            "moments": [
                {
                    "at": moment.at,
                    "step": moment.step,
                    "steps": moment.steps,
                    "prompts": moment.prompts,
                    "values": [
                        {"metric": metric, "group": label, **_finite(asdict(value))}
                        for (metric, label), value in moment.values.items()
                    ],
                    "differences": [
                        {"metric": metric, "group": label, **_finite(asdict(found))}
                        for (metric, label), found in moment.changes.items()
                    ],
                }
                for moment in self.moments
            ],
            "methods": METHODS,
            "warnings": self.warnings,
        }


def compare(
    runs: Sequence[str | Path],
    *,
    best: bool = False,
    temperature: float | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Compare runs, or outputs of `bonrl eval`, with the group of the first one.

    Args:
        best: also compare each run at its best evaluation. Half of the prompts choose the step at which the other
            half is compared, so no prompt takes part in choosing its own step.
        temperature: which evaluation is meant, where an output of `bonrl eval` has several.
        progress: is given a line for each evaluation that is read.

    Raises:
        UsageError: fewer than two runs, a path without evaluations, or evaluations that cannot be compared.
    """
    groups = group_runs([load_subject(run, temperature) for run in runs])
    subjects = [run for group in groups for run in group.runs]
    common = _common_steps(subjects)
    prompts, warnings = common_prompts(
        [(run, read_prompts(run.files[run.last])) for run in subjects],
        [
            read_prompts(file)
            for run in subjects
            for step, file in run.files.items()
            if step != run.last and (best or step in common)
        ],
    )
    measured = _Measured(subjects, prompts, progress)
    last = {run.name: [run.last] for run in subjects}
    if len({tuple(steps) for steps in last.values()}) > 1 and all(run.is_run for run in subjects):
        named = ", ".join(f"{name} {steps[0]}" for name, steps in last.items())
        warnings.append(f"the last evaluations are of different steps: {named}")
    moments = [_moment("last", None, groups, {run.name: measured.at(run, run.last) for run in subjects}, last)]
    for step in common:
        if set(map(tuple, last.values())) == {(step,)}:
            moments.append(replace(moments[0], at="step", step=step))
            continue
        points = {run.name: measured.at(run, step) for run in subjects}
        moments.append(_moment("step", step, groups, points, {run.name: [step] for run in subjects}))
    objectives = measured.objectives(groups, moments[0])
    if best:
        chosen = {
            run.name: _cross_fitted(measured, run, objectives.get(group.label, REWARD_MEAN))
            for group in groups
            for run in group.runs
        }
        points, steps = {n: found for n, (found, _) in chosen.items()}, {n: found for n, (_, found) in chosen.items()}
        moments.append(_moment("best", None, groups, points, steps))
    return Comparison(groups, measured.labels, objectives, moments, warnings)


class _Measured:
    """The same metrics of every run: the strategies and k of all of them, and their objectives."""

    def __init__(self, runs: Sequence[Subject], prompts: Sequence[str], progress: Callable[[str], None]) -> None:
        known = [run.settings for run in runs if run.settings is not None]
        self.prompts = prompts
        self._progress = progress
        self._strategies = list(dict.fromkeys(["pass_at_k", *(s for one in known for s in strategies_of(one))]))
        self._ks = sorted({k for one in known for k in trained_ks_of(one)})
        self._mixtures = {
            objective_name(run.terms): run.terms for run in runs if run.terms and metric_of(run.terms) is None
        }
        self._found: dict[tuple[str, int], Points] = {}
        self.labels: dict[str, str] = {}

    def at(self, run: Subject, step: int) -> Points:
        """Every metric of a run at a step, over the common prompts."""
        if (run.name, step) not in self._found:
            self._progress(f"reading {run.name}" + (f", step {step}" if step != LAST else ""))
            self._found[run.name, step] = self._measure(run, step)
        return self._found[run.name, step]

    def objectives(self, groups: Sequence[RunGroup], moment: Moment) -> dict[str, str]:
        """The metric that each group deploys, where all runs have it."""
        measured = {metric for metric, _ in moment.values}
        named = {group.label: self._objective(group.runs[0].terms) for group in groups if group.runs[0].terms}
        return {label: metric for label, metric in named.items() if metric in measured}

    def _objective(self, terms: Sequence[TermSettings]) -> str:
        return metric_of(terms) or self._mixture(objective_name(terms))

    def _mixture(self, name: str) -> str:
        return "eval/objective" if len(self._mixtures) == 1 else f"eval/objective[{name}]"

    def _measure(self, run: Subject, step: int) -> Points:
        groups = read_judged(run.files[step], self.prompts)
        points: dict[str, CurvePoint] = {}
        by_term: dict[tuple[str, int], CurvePoint] = {}
        for strategy in [*self._strategies, "mean"]:
            for point in curve_of(groups, strategy, self._ks):
                by_term[strategy, point.k] = point
                metric = metric_name(strategy, point.k)
                points[metric] = point
                self.labels[metric] = value_name(strategy, point.k)
        for name, terms in self._mixtures.items():
            if all((term.strategy, term.k) in by_term for term in terms):
                points[self._mixture(name)] = weighted_sum((t.weight, by_term[t.strategy, t.k]) for t in terms)
                self.labels[self._mixture(name)] = name
        return points


def metric_name(strategy: str, k: int) -> str:
    """The metric under which a run logs a strategy's value."""
    return REWARD_MEAN if STRATEGIES[strategy].only_k is not None else f"eval/{STRATEGIES[strategy].metric}@{k}"


def metric_of(terms: Sequence[TermSettings]) -> str | None:
    """The metric of an objective; None for a mixture, which has no curve."""
    term = only_term(terms)
    return None if term is None else metric_name(term.strategy, term.k)


def _common_steps(runs: Sequence[Subject]) -> list[int]:
    return sorted(set.intersection(*(set(run.files) for run in runs)) - {LAST})


def _cross_fitted(measured: _Measured, run: Subject, metric: str) -> tuple[Points, list[int]]:
    """Every metric; each half of the prompts is taken at the step that is best, by `metric`, on the other half."""
    steps = sorted(run.files)
    halves_P = _halves(measured.prompts)
    objective_SP = np.stack([measured.at(run, step)[metric].values_P for step in steps])
    # Of equal values the earliest step.
    chosen = [steps[int(objective_SP[:, halves_P != half].mean(axis=1).argmax())] for half in (0, 1)]
    points = {}
    for name, point in measured.at(run, chosen[0]).items():
        values_P = np.where(halves_P == 0, point.values_P, measured.at(run, chosen[1])[name].values_P)
        points[name] = with_values(point, values_P)
    return points, [] if chosen == [LAST, LAST] else chosen


def _halves(prompts: Sequence[str]) -> np.ndarray:
    """0 or 1 for each prompt, as many of each, by a hash of the ids: the same for every comparison of these prompts."""
    order = sorted(range(len(prompts)), key=lambda i: hashlib.sha256(prompts[i].encode(errors="replace")).digest())
    halves_P = np.empty(len(prompts), np.int64)
    halves_P[order] = np.arange(len(prompts)) % 2
    return halves_P


def _moment(
    at: str, step: int | None, groups: Sequence[RunGroup], points: Mapping[str, Points], steps: dict[str, list[int]]
) -> Moment:
    """Every metric that all runs have; the differences are from the first group."""
    metrics = [metric for metric in next(iter(points.values())) if all(metric in found for found in points.values())]
    values, changes = {}, {}
    for metric in metrics:
        seeded = {
            group.label: [Seeded(run.seed, points[run.name][metric].values_P) for run in group.runs] for group in groups
        }
        for group in groups:
            values[metric, group.label] = _value({run.name: points[run.name][metric] for run in group.runs})
        for group in groups[1:]:
            changes[metric, group.label] = change(seeded[groups[0].label], seeded[group.label])
    steps = {name: found for name, found in steps.items() if found and LAST not in found}
    count = len(next(iter(points.values()))[metrics[0]].values_P)
    return Moment(at, step, steps, count, values, changes)


def _value(points: Mapping[str, CurvePoint]) -> Value:
    runs = {name: point.value for name, point in points.items()}
    if len(points) == 1:
        [point] = points.values()
        return Value(point.value, point.low, point.high, runs)
    return Value(*t_interval(list(runs.values())), runs)


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """None in place of the infinite ends of an interval that does not exist."""
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in fields.items()}
