"""Validation values at equal cost of training: sampled answers, sampled tokens, and seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.frontier.choice import curve
from benchmarks.frontier.counts import Store
from benchmarks.frontier.plan import Plan
from benchmarks.markdown import interval, markdown
from learner import paired_difference_of_runs

_LEADS = (
    "Differences to the first column have 95 % intervals over seeds and prompts. They are descriptive, because the "
    "same samples chose the rates."
)


class Point(NamedTuple):
    """A contender at one rate and step. values_SP: pass@k by seed and prompt. tokens, seconds: of training up to the
    step, means over seeds."""

    rate: float
    step: int
    values_SP: np.ndarray
    tokens: float
    seconds: float


def equal_answers_tables(store: Store, plan: Plan, finished: Sequence[str]) -> str:
    """Every evaluated step: equal steps are equal numbers of sampled answers."""
    prompts, n = plan.answers_per_step
    parts = []
    for k in plan.ks:
        points = {name: _points(store, plan, name, k) for name in finished}
        rows = [_head(plan, finished, f"pass@{k} after")]
        for step in _steps(plan):
            best = [_best(points[name], lambda point, step=step: point.step == step) for name in finished]
            cells = [f"{p.values_SP.mean():.3f} ({p.rate:g}; {p.tokens / 1e6:.2f} M; {p.seconds:.0f} s)" for p in best]
            rows.append([f"{step * prompts * n / 1000:.1f} thousand answers (step {step})", *cells, *_leads(best)])
        parts.append(markdown(rows))
    note = (
        f"A step samples {prompts} prompts x {n} answers. Validation split at temperature 1, means over seeds. In "
        "parentheses: the rate that is best in this cell, tokens sampled, and seconds of training (without start and "
        f"evaluations; {plan.costs.jobs} at a time). {_LEADS}"
    )
    return "\n\n".join([*parts, note])


def equal_cost_tables(store: Store, plan: Plan, finished: Sequence[str]) -> str:
    """The best value that each contender reaches within a number of tokens or seconds, at any rate and step."""
    parts = []
    for k in plan.ks:
        points = {name: _points(store, plan, name, k) for name in finished}
        rows = [_head(plan, finished, f"best pass@{k} within")]
        for step in _steps(plan):
            at_step = [point for found in points.values() for point in found if point.step == step]
            tokens, seconds = max(point.tokens for point in at_step), max(point.seconds for point in at_step)
            by_tokens = [_best(points[name], lambda point, most=tokens: point.tokens <= most) for name in finished]
            by_seconds = [_best(points[name], lambda point, most=seconds: point.seconds <= most) for name in finished]
            budgets = {f"{tokens / 1e6:.2f} M tokens": by_tokens, f"{seconds:.0f} s": by_seconds}
            if _chosen(by_tokens) == _chosen(by_seconds):
                budgets = {" or ".join(budgets): by_tokens}
            for budget, best in budgets.items():
                cells = [f"{p.values_SP.mean():.3f} ({p.rate:g}; step {p.step})" for p in best]
                rows.append([budget, *cells, *_leads(best)])
        parts.append(markdown(rows))
    note = (
        "Within a budget every contender stops where it is best. The budgets are what the most expensive contender and "
        "rate need for each step in the table above. In parentheses: the rate and the step, one for all seeds, that "
        "are best. The machine may have done other work, so the seconds are rough. Otherwise as above."
    )
    return "\n\n".join([*parts, note])


def _head(plan: Plan, finished: Sequence[str], first: str) -> list[str]:
    titles = [plan.contenders[name].title for name in finished]
    return [first, *titles, *(f"{title} minus {titles[0]}" for title in titles[1:])]


def _steps(plan: Plan) -> range:
    return range(plan.every, plan.steps + 1, plan.every)


def _points(store: Store, plan: Plan, name: str, k: int) -> list[Point]:
    points = []
    for rate in plan.rates_of(name):
        runs = [curve(store, plan, name, rate, seed) for seed in plan.seeds]
        for step in _steps(plan):
            found = [run[step] for run in runs]
            values_SP = np.stack([c.pass_at(k) for c in found])
            tokens, seconds = (float(np.mean([getattr(c, what) for c in found])) for what in ("tokens", "seconds"))
            points.append(Point(rate, step, values_SP, tokens, seconds))
    return points


def _best(points: Sequence[Point], within: Callable[[Point], bool]) -> Point:
    return max(filter(within, points), key=lambda point: float(point.values_SP.mean()))


def _chosen(best: Sequence[Point]) -> list[tuple[float, int]]:
    return [(point.rate, point.step) for point in best]


def _leads(best: Sequence[Point]) -> list[str]:
    """Every contender minus the first."""
    first, *others = best
    return [interval(paired_difference_of_runs(first.values_SP, one.values_SP)) for one in others]
