"""Writes the page of the experiment: contrasts, values, training, cost and figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.refresh.measures import Measures
from benchmarks.refresh.plan import BASE, CONTENDERS, DEPLOYMENTS
from benchmarks.refresh.tables import cost_table, differences_table, primary_contrasts, training_table, values_table

HOUR = 3600
SMOOTH = 5


def write_page(folder: Path, found: Measures, source: Path) -> None:
    """Write `README.md`, and `refresh.png` once two seeds and the base model are measured."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"# {found.plan.title}", _introduction(folder, found, source)]
    if len(found.seeds) > 1 and found.has(BASE, 0):
        _plot(folder / "refresh.png", found)
        parts += ["## Primary contrasts", primary_contrasts(found)]
        parts += [f"## {found.plan.split.capitalize()} split", values_table(found)]
        parts += ["## Where the differences come from", differences_table(found)]
        parts += ["## During training", training_table(found)]
        parts += ["![Best-of-k and accepted wrong answers](refresh.png)", _figure_text(found)]
        parts += ["## Cost", cost_table(found)]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {folder / 'README.md'}: {len(found.seeds)} of {len(found.plan.seeds)} seeds measured")


def hours_left(found: Measures) -> str:
    """What is missing, and an estimate of the hours for it."""
    plan = found.plan
    missing = [run for run in plan.runs if not found.has(*run)]
    base = not found.has(BASE, 0)
    first = (plan.first_seconds() if base or missing else 0.0) / HOUR
    seconds = sum(plan.run_seconds(name) for name, _ in missing) + base * plan.evaluation_seconds()
    runs = seconds / plan.costs.jobs / HOUR
    each = ", ".join(f"{name} {plan.run_seconds(name) / 60:.0f} minutes" for name in CONTENDERS)
    return (
        f"plan {plan.digest}: {len(missing)} of {len(plan.runs)} runs are missing ({each} each, with verifiers and "
        f"evaluation), {runs:.1f} hours with {plan.costs.jobs} at a time. Samples of the base model and first "
        f"verifier, if they are not in the scratch folder: {first:.1f} hours. At most {first + runs:.1f} hours in all."
    )


def _introduction(folder: Path, found: Measures, source: Path) -> str:
    plan = found.plan
    steps = ", ".join(str(step) for step in plan.refreshes)
    first = {course.first_verifier for name in CONTENDERS for course in found.courses_of(name)}
    same = (
        "the same for all runs"
        if len(first) < 2
        else f"trained again when its files were lost, so that the runs have {len(first)} different ones"
    )
    return (
        f"The plan is `{source}` (digest {plan.digest}). {len(found.seeds)} of {len(plan.seeds)} seeds are measured. "
        f"Settings of all runs: {' '.join(f'`{key}`' for key in plan.common)}. The learning rate was chosen earlier, "
        "for Best-of-8 with a first verifier made in the same way ([learned](../learned/README.md)); nothing is tuned "
        "here.\n\n"
        f"- First verifier: trained on {plan.samples.prompts:,} training prompts x {plan.samples.n} samples of the "
        f"base model, {same}.\n"
        f"- `fixed`: {plan.steps} steps with the first verifier.\n"
        f"- `refreshed`: the same, but after steps {steps} the verifier is trained further (`bonrl train-verifier "
        "--refresh`) on the groups since the last refresh and the first samples, and the run is resumed with it.\n"
        "- `fixed, then refreshed`, `refreshed`: deployed with the first verifier trained further on all groups of the "
        "run and the first samples, in the same way for both.\n\n"
        f"{plan.split.capitalize()} split, {plan.test.prompts} prompts, {plan.test.n} samples each at temperature 1. "
        "Verifiers are trained on training prompts only. Training uses the true reward; deployment selects by the "
        "verifier. Differences have 95 % t intervals over seeds and prompts, paired by both "
        "(`learner.paired_difference_of_runs`).\n\n"
        f"`python -m benchmarks.refresh report --plan {source} --evidence {folder}` recomputes every number of this "
        "page from `evaluations.parquet` (counts and Best-of-k of each prompt) and `courses.parquet` (each step and "
        f"each training of a verifier). `python -m benchmarks.refresh run --plan {source} --evidence again` repeats "
        "everything. Samples, models and verifiers are not in the repository."
    )


def _figure_text(found: Measures) -> str:
    return (
        f"Left: {found.plan.split} split, means over seeds. Right: share of the wrong answers of each step that the "
        f"verifier of that step accepts, means over seeds and {SMOOTH} steps between refreshes; lines: refreshes."
    )


def _plot(path: Path, found: Measures) -> None:
    """Best-of-k of every deployment, and accepted wrong answers along training."""
    from matplotlib.figure import Figure

    plan = found.plan
    figure = Figure(figsize=(12, 5), layout="constrained")
    curves, training = figure.subplots(1, 2)
    for i, (name, one) in enumerate(DEPLOYMENTS.items()):
        means = [found.best_of(name, k).mean() for k in plan.ks]
        curves.plot(plan.ks, means, "k--" if one.model == BASE else f"C{i}-", marker="o", markersize=3, label=one.title)
    curves.set_xscale("log", base=2)
    curves.set_xticks(plan.ks, [str(k) for k in plan.ks])
    curves.set_xlabel("k, answers")
    curves.set_ylabel("Best-of-k with the verifier")
    curves.legend(fontsize=8)
    ends = [0, *plan.refreshes, plan.steps]
    for i, name in enumerate(CONTENDERS):
        courses = found.courses_of(name)
        accepted_T = np.sum([c.accepted_wrong for c in courses], axis=0)
        wrong_T = np.sum([c.answers - c.right for c in courses], axis=0)
        for start, end in zip(ends[:-1], ends[1:], strict=True):
            window = np.ones(min(SMOOTH, end - start))
            share = np.convolve(accepted_T[start:end], window, "valid") / np.convolve(
                wrong_T[start:end], window, "valid"
            )
            steps = np.arange(len(share)) + start + 1 + (len(window) - 1) / 2
            training.plot(steps, 100 * share, f"C{i}-", label=name if start == 0 else None)
    for step in plan.refreshes:
        training.axvline(step + 0.5, color="black", linewidth=0.5, linestyle=":")
    training.set_xlabel("optimizer step")
    training.set_ylabel("wrong answers accepted, %")
    training.legend(fontsize=8)
    figure.savefig(path, dpi=110)
