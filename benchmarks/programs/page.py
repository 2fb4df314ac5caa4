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


Measured = dict[str, dict[str, Counts]]  # by task and model


def write_page(folder: Path, store: Store, plan: Plan) -> None:
    """Write `README.md` with what is measured."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = [(task, model) for task in plan.tests for model in (BEFORE, AFTER)]
    found: Measured = {task: {} for task in plan.tests}
    for task, model in keys:
        if (counts := store.get(Key(model, task))) is not None:
            found[task][model] = counts
    parts = [f"# {plan.title}", _introduction(plan), "## Primary contrasts", _contrasts(plan, found)]
    if any(found.values()):
        parts += ["## Right among k answers", _values(plan, found)]
        parts += ["## What was sampled", _costs(found)]
    if found.get("mbpp"):
        parts += ["## Best-of-k with the shown test (MBPP)", _shown(plan, found["mbpp"])]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    done = sum(len(models) for models in found.values())
    print(f"wrote {folder / 'README.md'}: {done} of {len(keys)} evaluations")


def _introduction(plan: Plan) -> str:
    tuning = plan.fine_tuning
    sizes = "; ".join(f"{TITLES[task]}: {pool.prompts} problems, {pool.n} samples" for task, pool in plan.tests.items())
    return (
        f"The plan is `benchmarks/programs/plan.yaml` (digest {plan.digest}). The model is fine-tuned for "
        f"{tuning.steps} steps of {tuning.batch_size} solutions of MBPP's training split (learning rate "
        f"{tuning.learning_rate:g}), once, so the intervals cover other problems and samples, not repeated training. "
        f"{sizes}, at temperature {plan.temperature:g}. Every program runs in the sandbox.\n\n"
        "`python -m benchmarks.programs report` recomputes every number of this page from `counts.parquet`, which "
        "holds the number of right answers of each problem. `python -m benchmarks.programs run --data DIR --evidence "
        "again` repeats everything."
    )


def _contrasts(plan: Plan, found: Measured) -> str:
    contrasts = []
    for one in plan.primary:
        models, pair = found[one.task], None
        if len(models) == 2:
            pair = (models[BEFORE].pass_at(one.k)[None], models[AFTER].pass_at(one.k)[None])
        contrasts.append(Primary(f"{TITLES[one.task]}, pass@{one.k}, after minus before", pair))
    return primary_table(contrasts)


def _values(plan: Plan, found: Measured) -> str:
    rows = [["task", "model", *(f"pass@{k}" for k in plan.ks)]]
    for task, models in found.items():
        rows += [[TITLES[task], name, *(_value(c.pass_at(k)) for k in plan.ks)] for name, c in models.items()]
        if len(models) == 2:
            pairs = ((models[BEFORE].pass_at(k), models[AFTER].pass_at(k)) for k in plan.ks)
            rows.append([TITLES[task], "after minus before", *(_difference(*pair) for pair in pairs)])
    return (
        f"{markdown(rows)}\n\n{BEFORE}, {AFTER}: fine-tuning. Means over problems with 95 % intervals. All but the "
        "primary contrasts are descriptive."
    )


def _shown(plan: Plan, models: dict[str, Counts]) -> str:
    rows = [["model", "returned answer is right", *(f"k = {k}" for k in plan.ks)]]
    for name, c in models.items():
        rows.append([name, "with a perfect verifier (pass@k)", *(_value(c.pass_at(k)) for k in plan.ks)])
        rows.append([name, "Best-of-k with the shown test", *(_value(c.best_of(k)) for k in plan.ks)])
        lost = (_difference(c.pass_at(k), c.best_of(k)) for k in plan.ks)
        rows.append([name, "difference", *lost])
    shares = [f"{_share(c)} {name}" for name, c in models.items()]
    return (
        f"{markdown(rows)}\n\nThe prompt shows one test of each problem, so a user can run it: Best-of-k returns a "
        f"random one of the answers that pass it. Of these answers, {' and '.join(shares)} fine-tuning fail another "
        "test. Descriptive."
    )


def _share(c: Counts) -> str:
    assert c.shown_P is not None
    shown = int(c.shown_P.sum())
    return f"{shown - int(c.right_P.sum())} of {shown}"


def _costs(found: Measured) -> str:
    rows = [["task", "model", "answers", "right", "with a program", "cut", "tokens per answer", "seconds", "verifier"]]
    for task, models in found.items():
        for name, c in models.items():
            numbers = map(str, (c.answers, int(c.right_P.sum()), c.programs, c.truncated))
            verifier = f"{1000 * c.verify_seconds / c.answers:.0f} ms"
            rows.append(
                [TITLES[task], name, *numbers, f"{c.tokens / c.answers:.0f}", f"{c.sample_seconds:.0f}", verifier]
            )
    return (
        f"{markdown(rows)}\n\ncut: at the limit of tokens per answer. seconds: of the evaluation on two cores, start "
        "included. verifier: the sandbox's time per answer, which runs while others are sampled."
    )


def _value(values_P: np.ndarray) -> str:
    low, high = probability_interval(values_P)
    return f"{values_P.mean():.3f} [{low:.3f}, {high:.3f}]"


def _difference(before_P: np.ndarray, after_P: np.ndarray) -> str:
    return interval(paired_difference_of_runs(before_P[None], after_P[None]))
