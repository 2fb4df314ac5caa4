"""Writes the page of a comparison along training: choices, test results, contrasts, cost and figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.frontier.budgets import equal_answers_tables, equal_cost_tables
from benchmarks.frontier.choice import TRAINING_TEMPERATURE, Missing, curve
from benchmarks.frontier.counts import BASE, Key, Store
from benchmarks.frontier.plan import Plan
from benchmarks.frontier.regimes import by_pair, plot_regimes, regimes, regimes_table
from benchmarks.frontier.tables import (
    answers_table,
    base_temperatures_table,
    choices_table,
    difference_tables,
    joint_table,
    primary_contrasts,
    temperatures_table,
    values,
    values_table,
)
from benchmarks.markdown import counted

HOUR = 3600


def write_page(folder: Path, store: Store, plan: Plan, source: Path) -> None:
    """Write `README.md`, and `frontier.png` once a contender has all its training runs."""
    folder.mkdir(parents=True, exist_ok=True)
    finished = [name for name in plan.contenders if _is_trained(store, plan, name)]
    parts = [f"# {plan.title}", _introduction(folder, store, plan, source, finished)]
    if finished:
        _plot(folder / "frontier.png", store, plan, finished)
        parts += ["## Along training", "![pass@k against pass@1 along training](frontier.png)", _figure_text(plan)]
        parts += ["## At equal numbers of sampled answers", equal_answers_tables(store, plan, finished)]
        parts += ["## Within equal tokens or seconds", equal_cost_tables(store, plan, finished)]
        parts += ["## What was chosen on the validation split", choices_table(store, plan, finished)]
        if by_temperature := temperatures_table(store, plan, finished):
            parts += ["## By temperature", by_temperature]
    tested = [name for name in finished if _is_tested(store, plan, name)]
    if tested and _is_tested(store, plan, BASE):
        parts += ["## Primary contrasts", primary_contrasts(store, plan, tested), *([plan.note] if plan.note else [])]
        parts += ["## Test split", values_table(store, plan, tested), joint_table(store, plan, tested)]
        if classes := regimes(store, plan, tested):  # none while only one side of each contrast is tested
            plot_regimes(folder / "regimes.png", by_pair(classes))
            parts += ["## By difficulty", "![difference by the base model's success rate](regimes.png)"]
            parts += [regimes_table(store, plan, classes)]
        parts += ["## Answers needed for the same success", answers_table(store, plan, tested)]
        parts += ["## All differences to the base model and the first contender"]
        parts += [difference_tables(store, plan, tested)]
        if of_base := base_temperatures_table(store, plan, tested):
            parts += ["## Other temperatures of the base model", of_base]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {folder / 'README.md'}: {len(finished)} contenders trained, {len(tested)} tested")


def hours_left(store: Store, plan: Plan) -> str:
    """The training runs that are missing and an upper estimate of the hours for everything that is."""
    missing = [run for run in plan.runs if store.get(_last(plan, *run)) is None]
    models = len(plan.contenders) * len(plan.ks) * len(plan.seeds)
    training = len(missing) * plan.training_seconds() / plan.costs.jobs / HOUR
    samples = plan.validation.samples * len(plan.temperatures)
    tuning = models * plan.evaluation_seconds(samples) / plan.costs.jobs / HOUR if plan.tunes_temperature else 0.0
    test = models * plan.evaluation_seconds(plan.test.samples) / plan.costs.jobs / HOUR
    return (
        f"plan {plan.digest}: {len(missing)} of {len(plan.runs)} training runs are missing, {training:.1f} hours. "
        f"Temperatures on validation: at most {models} models, {tuning:.1f} hours. "
        f"Test: at most {models} models, {test:.1f} hours. At most {training + tuning + test:.1f} hours in all."
    )


def _introduction(folder: Path, store: Store, plan: Plan, source: Path, finished: Sequence[str]) -> str:
    done = sum(store.get(_last(plan, *run)) is not None for run in plan.runs)
    rates = _rates(plan)
    one_rate = rates.replace("1 ", "one ", 1)
    tuned = "the learning rate and then the temperature by the mean over seeds"
    if not plan.tunes_rate and plan.tunes_temperature:
        tuned = f"the temperature by the mean over seeds; the plan has {one_rate}"
    elif not plan.tunes_rate:
        tuned = f"and nothing else, because the plan has {one_rate} and one temperature"
    return (
        f"The plan is `{source}` (digest {plan.digest}): {len(plan.contenders)} contenders, "
        f"{rates}, {len(plan.seeds)} seeds, {plan.steps} steps, an evaluation "
        f"every {plan.every} steps. {done} of {len(plan.runs)} training runs are done; {len(finished)} contenders have "
        "all their runs.\n\n"
        f"Validation: {plan.validation.prompts} prompts, {plan.validation.n} samples each. Test: {plan.test.prompts} "
        f"prompts, {plan.test.n} samples each. Each contender is tuned for each k separately, always on the validation "
        f"split: the step of each run by `evaluation.keep_best`, {tuned}. Differences have 95 % t intervals over seeds "
        "and prompts, paired by both; they treat the chosen rate and temperature as fixed.\n\n"
        f"`python -m benchmarks.frontier report --plan {source} --evidence {folder}` recomputes every number of this "
        "page from `counts.parquet`, which holds the number of right answers of each prompt. `python -m "
        f"benchmarks.frontier run --plan {source} --evidence again` repeats everything. The samples and models are not "
        "in the repository."
    )


def _rates(plan: Plan) -> str:
    """How many learning rates the plan has, and for whom."""
    if all(contender.rates is None for contender in plan.contenders.values()):
        return counted(len(plan.rates), "learning rate")
    most = max(len(plan.rates_of(name)) for name in plan.contenders)
    return f"{'up to ' if plan.tunes_rate else ''}{counted(most, 'learning rate')} for each contender"


def _figure_text(plan: Plan) -> str:
    return (
        f"Validation split at temperature {TRAINING_TEMPERATURE:g}, means over {len(plan.seeds)} seeds; one line per "
        f"contender and learning rate, one marker every {plan.every} steps. Star: the base model. The "
        "steps are chosen from these samples, so the best of them are optimistic."
    )


def _last(plan: Plan, name: str, rate: float, seed: int) -> Key:
    return Key(name, rate, seed, plan.steps, "curve", TRAINING_TEMPERATURE)


def _is_trained(store: Store, plan: Plan, name: str) -> bool:
    return all(store.get(_last(plan, *run)) is not None for run in plan.runs if run[0] == name)


def _is_tested(store: Store, plan: Plan, name: str) -> bool:
    try:
        for k in plan.ks:
            values(store, plan, name, k)
    except Missing:
        return False
    return True


def _plot(path: Path, store: Store, plan: Plan, finished: Sequence[str]) -> None:
    """pass@k against pass@1 along training, one panel for each k above 1."""
    from matplotlib.figure import Figure

    ks = [k for k in plan.ks if k > 1]
    figure = Figure(figsize=(4.6 * len(ks), 4.6), layout="constrained")
    base = store.get(Key(BASE, 0.0, 0, 0, "validation", TRAINING_TEMPERATURE))
    lines = ("-", "--", ":", "-.")
    for axes, k in zip(np.atleast_1d(figure.subplots(1, len(ks))), ks, strict=True):
        start = None if base is None else (base.pass_at(1).mean(), base.pass_at(k).mean())
        for i, name in enumerate(finished):
            for r, rate in enumerate(plan.rates_of(name)):
                runs = [curve(store, plan, name, rate, seed) for seed in plan.seeds]
                x, y = ([np.mean([run[s].pass_at(at).mean() for run in runs]) for s in runs[0]] for at in (1, k))
                if start is not None:
                    x, y = [start[0], *x], [start[1], *y]
                label = f"{plan.contenders[name].title}, {rate:g}" if k == ks[0] else None
                axes.plot(x, y, lines[r % 4], color=f"C{i % 10}", marker="o", markersize=3, linewidth=1, label=label)
        if start is not None:
            axes.plot(*start, "k*", markersize=10)
        axes.set_xlabel("pass@1")
        axes.set_ylabel(f"pass@{k}")
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=110)
