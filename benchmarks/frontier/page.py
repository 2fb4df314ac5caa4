"""Writes the page of a comparison along training: choices, test results, contrasts, cost and figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.frontier.choice import (
    TRAINING_TEMPERATURE,
    Missing,
    chosen,
    chosen_base,
    curve,
    measured,
)
from benchmarks.frontier.counts import BASE, Counts, Key, Store
from benchmarks.frontier.plan import Contrast, Plan
from benchmarks.objectives.page import interval, markdown
from learner import paired_difference_of_runs
from learner.metrics import paired_p_value

HOUR = 3600


def write_page(folder: Path, store: Store, plan: Plan, source: Path) -> None:
    """Write `README.md`, and `frontier.png` once a contender has all its training runs."""
    folder.mkdir(parents=True, exist_ok=True)
    finished = [name for name in plan.contenders if _is_trained(store, plan, name)]
    parts = [f"# {plan.title}", _introduction(folder, store, plan, source, finished)]
    if finished:
        _plot(folder / "frontier.png", store, plan, finished)
        parts += ["## Along training", "![pass@k against pass@1 along training](frontier.png)", _figure_text(plan)]
        parts += ["## What was chosen on the validation split", _choices_table(store, plan, finished)]
    tested = [name for name in finished if _is_tested(store, plan, name)]
    if tested and _is_tested(store, plan, BASE):
        parts += ["## Test split", _values_table(store, plan, tested)]
        parts += ["## Primary contrasts", primary_table(store, plan, tested)]
        parts += ["## Answers needed for the same success", _answers_table(store, plan, tested)]
        parts += [
            "## All differences to the base model and the first contender",
            _difference_tables(store, plan, tested),
        ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {folder / 'README.md'}: {len(finished)} contenders trained, {len(tested)} tested")


def hours_left(store: Store, plan: Plan) -> str:
    """The training runs that are missing and an upper estimate of the hours for everything that is."""
    missing = [run for run in plan.runs if store.get(_last(plan, *run)) is None]
    models = len(plan.contenders) * len(plan.ks) * len(plan.seeds)
    training = len(missing) * plan.training_seconds() / plan.costs.jobs / HOUR
    tuning, test = (
        models * plan.evaluation_seconds(samples) / plan.costs.jobs / HOUR
        for samples in (plan.validation.samples * len(plan.temperatures), plan.test.samples)
    )
    return (
        f"plan {plan.digest}: {len(missing)} of {len(plan.runs)} training runs are missing, {training:.1f} hours. "
        f"Temperatures on validation: at most {models} models, {tuning:.1f} hours. "
        f"Test: at most {models} models, {test:.1f} hours. At most {training + tuning + test:.1f} hours in all."
    )


def primary_table(store: Store, plan: Plan, tested: Sequence[str]) -> str:
    """The contrasts that the plan names, with p values by Holm's method."""
    named = [c for c in plan.primary if c.contender in tested and c.against in tested]
    pairs = [(_values(store, plan, c.against, c.k), _values(store, plan, c.contender, c.k)) for c in named]
    adjusted = holm([paired_p_value(before, after) for before, after in pairs], tests=len(plan.primary))
    rows = [["contrast", "difference, 95 % interval", "p, Holm", "at the level 0.05"]]
    for contrast, (before, after), p in zip(named, pairs, adjusted, strict=True):
        found = interval(paired_difference_of_runs(before, after))
        rows.append([_name(plan, contrast), found, f"{p:.3f}", "difference" if p < 0.05 else "no difference found"])
    note = (
        f"{len(plan.primary)} contrasts, named in the plan before the test split was used. The intervals are not "
        "adjusted; the p values are."
    )
    return f"{markdown(rows)}\n\n{note}"


def holm(p_values: Sequence[float], tests: int) -> list[float]:
    """P values adjusted for `tests` tests by S. Holm's step-down method (Scand. J. Statistics 6, 1979).

    Tests without a result yet count with the largest p value.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (tests - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _name(plan: Plan, contrast: Contrast) -> str:
    titles = plan.contenders[contrast.contender].title, plan.contenders[contrast.against].title
    return f"{titles[0]} minus {titles[1]}, pass@{contrast.k}"


def _introduction(folder: Path, store: Store, plan: Plan, source: Path, finished: Sequence[str]) -> str:
    done = sum(store.get(_last(plan, *run)) is not None for run in plan.runs)
    return (
        f"The plan is `{source}` (digest {plan.digest}): {len(plan.contenders)} contenders, "
        f"{len(plan.rates)} learning rates, {len(plan.seeds)} seeds, {plan.steps} steps, an evaluation every "
        f"{plan.every} steps. {done} of {len(plan.runs)} training runs are done; {len(finished)} contenders have all "
        "their runs.\n\n"
        f"Validation: {plan.validation.prompts} prompts, {plan.validation.n} samples each. Test: {plan.test.prompts} "
        f"prompts, {plan.test.n} samples each. Each contender is tuned for each k separately, always on the validation "
        "split: the step of each run by `evaluation.keep_best`, the learning rate and then the temperature by the mean "
        "over seeds. Differences have 95 % t intervals over seeds and prompts, paired by both; they treat the chosen "
        "rate and temperature as fixed.\n\n"
        f"`python -m benchmarks.frontier report --plan {source} --evidence {folder}` recomputes every number of this "
        "page from `counts.parquet`, which holds the number of right answers of each prompt. `python -m "
        f"benchmarks.frontier run --plan {source} --evidence again` repeats everything. The samples and models are not "
        "in the repository."
    )


def _figure_text(plan: Plan) -> str:
    return (
        f"Validation split at temperature {TRAINING_TEMPERATURE:g}, means over {len(plan.seeds)} seeds; one line per "
        f"contender and learning rate, one marker every {plan.every} steps. Black: the base model."
    )


def _choices_table(store: Store, plan: Plan, finished: Sequence[str]) -> str:
    rows = [
        ["contender", "tuned for", "learning rate", "steps by seed", "temperature", "validation", "tokens", "seconds"]
    ]
    for name in finished:
        for k in plan.ks:
            choice = chosen(store, plan, name, k)
            steps = zip(plan.seeds, choice.steps, strict=True)
            points = [curve(store, plan, name, choice.rate, seed)[step] for seed, step in steps]
            edge = " (edge)" if choice.rate in (min(plan.rates), max(plan.rates)) else ""
            rows.append(
                [
                    *(plan.contenders[name].title, f"pass@{k}", f"{choice.rate:g}{edge}"),
                    ", ".join(map(str, choice.steps)),
                    "" if choice.temperature is None else f"{choice.temperature:g}",
                    f"{np.mean([p.pass_at(k).mean() for p in points]):.3f}",
                    f"{np.mean([p.tokens for p in points]) / 1e6:.2f} M",
                    f"{np.mean([p.seconds for p in points]):.0f}",
                ]
            )
    note = (
        "Validation: pass@k at the chosen steps at temperature 1; it is optimistic, because the same samples chose "
        "the steps. Tokens sampled and seconds of training up to the chosen step are means over seeds. Edge: the "
        "rate is at the end of the grid, so a rate beyond it may be better."
    )
    return f"{markdown(rows)}\n\n{note}"


def _values_table(store: Store, plan: Plan, tested: Sequence[str]) -> str:
    values = {name: {k: float(_values(store, plan, name, k).mean()) for k in plan.ks} for name in (BASE, *tested)}
    rows = [["contender", *(f"pass@{k}" for k in plan.ks)]]
    rows += [[_title(plan, name), *(f"{by_k[k]:.3f}" for k in plan.ks)] for name, by_k in values.items()]
    return f"{markdown(rows)}\n\nEach cell is tuned for its own k, the base model's temperature included."


def _answers_table(store: Store, plan: Plan, tested: Sequence[str]) -> str:
    """How many answers each model needs to reach the pass@k of the first contender."""
    rows = [["contender", *(f"pass@{k} of {_title(plan, tested[0])}" for k in plan.ks)]]
    for name in (BASE, *tested):
        cells = []
        for k in plan.ks:
            target, found = _values(store, plan, tested[0], k).mean(), _tested(store, plan, name, k)
            enough = (n for n in range(1, found[0].samples + 1) if np.mean([c.pass_at(n) for c in found]) >= target)
            needed = next(enough, None)
            cells.append(f"more than {found[0].samples}" if needed is None else str(needed))
        rows.append([_title(plan, name), *cells])
    note = (
        "Each answer costs its tokens and one call of the verifier. Every model is the one that is tuned for this k, "
        "so other stopping steps or temperatures may need fewer answers."
    )
    return f"{markdown(rows)}\n\n{note}"


def _difference_tables(store: Store, plan: Plan, tested: Sequence[str]) -> str:
    parts = []
    for reference in (BASE, tested[0]):
        rows = [[f"minus {_title(plan, reference)}", *(f"pass@{k}" for k in plan.ks)]]
        for name in tested:
            if name != reference:
                pairs = ((_values(store, plan, reference, k), _values(store, plan, name, k)) for k in plan.ks)
                rows.append([_title(plan, name), *(interval(paired_difference_of_runs(*pair)) for pair in pairs)])
        parts.append(markdown(rows))
    return "\n\n".join([*parts, "Bold: the interval excludes 0. Descriptive, except for the primary contrasts above."])


def _title(plan: Plan, name: str) -> str:
    return "the base model" if name == BASE else plan.contenders[name].title


def _values(store: Store, plan: Plan, name: str, k: int) -> np.ndarray:
    """pass@k of the tuned models on the test split, float64[S, P]; S = 1 for the base model."""
    return np.stack([found.pass_at(k) for found in _tested(store, plan, name, k)])


def _tested(store: Store, plan: Plan, name: str, k: int) -> list[Counts]:
    choice = chosen_base(store, plan, k) if name == BASE else chosen(store, plan, name, k)
    if choice.temperature is None:
        raise Missing(f"{name}: the temperatures have not been measured")
    return measured(store, plan, name, choice, "test", choice.temperature)


def _last(plan: Plan, name: str, rate: float, seed: int) -> Key:
    return Key(name, rate, seed, plan.steps, "curve", TRAINING_TEMPERATURE)


def _is_trained(store: Store, plan: Plan, name: str) -> bool:
    return all(store.get(_last(plan, *run)) is not None for run in plan.runs if run[0] == name)


def _is_tested(store: Store, plan: Plan, name: str) -> bool:
    try:
        for k in plan.ks:
            _values(store, plan, name, k)
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
        for i, name in enumerate(finished):
            for r, rate in enumerate(plan.rates):
                runs = [curve(store, plan, name, rate, seed) for seed in plan.seeds]
                x, y = ([np.mean([run[s].pass_at(at).mean() for run in runs]) for s in runs[0]] for at in (1, k))
                label = f"{plan.contenders[name].title}, {rate:g}" if k == ks[0] else None
                axes.plot(x, y, lines[r % 4], color=f"C{i % 10}", marker="o", markersize=3, linewidth=1, label=label)
        if base is not None:
            axes.plot(base.pass_at(1).mean(), base.pass_at(k).mean(), "k*", markersize=10)
        axes.set_xlabel("pass@1")
        axes.set_ylabel(f"pass@{k}")
    figure.legend(loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=110)
