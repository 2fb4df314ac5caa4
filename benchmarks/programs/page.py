"""Writes the page: contrasts, pass@k, Best-of-k with the shown test, and costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.markdown import interval, markdown
from benchmarks.planned.contrasts import Primary, primary_table
from benchmarks.programs.counts import Counts, Key, Store
from benchmarks.programs.plan import AFTER, BEFORE, Plan
from learner import paired_difference_of_runs
from learner.metrics import probability_interval

TITLES = {"mbpp": "MBPP", "humaneval": "HumanEval"}


def write_page(folder: Path, store: Store, plan: Plan) -> None:
    """Write `README.md`, with the tasks of which both models are measured."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = {}
    for task in plan.tests:
        before, after = (store.get(Key(model, task)) for model in (BEFORE, AFTER))
        if before is not None and after is not None:
            pairs[task] = (before, after)
    parts = [f"# {plan.title}", _introduction(plan), "## Primary contrasts", _contrasts(plan, pairs)]
    if pairs:
        parts += ["## Right among k answers", _values(plan, pairs), "## What was sampled", _costs(pairs)]
    if "mbpp" in pairs:
        parts += ["## Best-of-k with the shown test (MBPP)", _shown(plan, *pairs["mbpp"])]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {folder / 'README.md'}: {len(pairs)} of {len(plan.tests)} tasks")


def _introduction(plan: Plan) -> str:
    tuning = plan.fine_tuning
    sizes = "; ".join(f"{TITLES[task]}: {pool.prompts} problems, {pool.n} samples" for task, pool in plan.tests.items())
    return (
        f"The plan is `benchmarks/programs/plan.yaml` (digest {plan.digest}). The model was fine-tuned for "
        f" {tuning.steps} steps of {tuning.batch_size} solutions of MBPP's training split (learning rate "
        f"{tuning.learning_rate:g}), once, so the intervals cover other problems and samples, not repeated training. "
        f"{sizes}, at temperature {plan.temperature:g}. Every program ran in the sandbox.\n\n"
        "`python -m benchmarks.programs report` recomputes every number of this page from `counts.parquet`, which "
        "holds the number of right answers of each problem. `python -m benchmarks.programs run --data DIR --evidence "
        "again` repeats everything."
    )


Pairs = dict[str, tuple[Counts, Counts]]


def _contrasts(plan: Plan, pairs: Pairs) -> str:
    found = []
    for one in plan.primary:
        before_after = pairs.get(one.task)
        values = None if before_after is None else tuple(c.pass_at(one.k)[None] for c in before_after)
        found.append(Primary(f"{TITLES[one.task]}, pass@{one.k}, after minus before", values))
    return primary_table(found)


def _values(plan: Plan, pairs: Pairs) -> str:
    rows = [["task", "k", "before", "after", "after minus before"]]
    for task, (before, after) in pairs.items():
        for k in plan.ks:
            values = before.pass_at(k), after.pass_at(k)
            rows.append([TITLES[task], str(k), *map(_value, values), _difference(*values)])
    return (
        f"{markdown(rows)}\n\nMeans over problems with 95 % intervals. All but the primary contrasts are descriptive."
    )


def _shown(plan: Plan, before: Counts, after: Counts) -> str:
    rows = [["k", "before: pass@k", "before: Best-of-k", "after: pass@k", "after: Best-of-k", "after: what is lost"]]
    for k in plan.ks:
        cells = [_value(values) for c in (before, after) for values in (c.pass_at(k), c.best_of(k))]
        rows.append([str(k), *cells, _difference(after.pass_at(k), after.best_of(k))])
    shares = [f"{_share(c)} {name}" for name, c in ((BEFORE, before), (AFTER, after))]
    return (
        f"{markdown(rows)}\n\nThe prompt shows one test of each problem, so a user can run it: Best-of-k returns a "
        "random one of the answers that pass it. pass@k is what a perfect verifier would reach. Of the answers that "
        f"pass the shown test, {' and '.join(shares)} fine-tuning fail another one. Descriptive."
    )


def _share(c: Counts) -> str:
    assert c.shown_P is not None
    shown = int(c.shown_P.sum())
    return f"{shown - int(c.right_P.sum())} of {shown}"


def _costs(pairs: Pairs) -> str:
    rows = [["task", "model", "answers", "right", "with a program", "cut", "tokens per answer", "seconds", "verifier"]]
    for task, both in pairs.items():
        for name, c in zip((BEFORE, AFTER), both, strict=True):
            cells = [c.answers, int(c.right_P.sum()), c.programs, c.truncated]
            times = [
                f"{c.tokens / c.answers:.0f}",
                f"{c.sample_seconds:.0f}",
                f"{1000 * c.verify_seconds / c.answers:.0f} ms",
            ]
            rows.append([TITLES[task], name, *map(str, cells), *times])
    return (
        f"{markdown(rows)}\n\ncut: at the limit of tokens per answer. seconds: of the evaluation on two cores, start "
        "included. verifier: the sandbox's time per answer, which runs while others are sampled."
    )


def _value(values_P: np.ndarray) -> str:
    low, high = probability_interval(values_P)
    return f"{values_P.mean():.3f} [{low:.3f}, {high:.3f}]"


def _difference(before_P: np.ndarray, after_P: np.ndarray) -> str:
    return interval(paired_difference_of_runs(before_P[None], after_P[None]))
