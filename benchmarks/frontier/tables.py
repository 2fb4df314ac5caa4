"""The tables of the page of a comparison along training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.frontier.choice import Missing, chosen, curve, measured
from benchmarks.frontier.counts import BASE, Counts, Store
from benchmarks.frontier.plan import Plan
from benchmarks.markdown import interval, markdown
from benchmarks.planned.contrasts import Primary, primary_table
from benchmarks.planned.plan import Contrast
from learner import paired_difference_of_runs


def choices_table(store: Store, plan: Plan, finished: Sequence[str]) -> str:
    """Rate, steps and temperature of every contender for every k, and what they cost."""
    rows = [
        ["contender", "tuned for", "learning rate", "steps by seed", "temperature", "validation", "tokens", "seconds"]
    ]
    for k in plan.ks:
        choice = chosen(store, plan, BASE, k)
        value = ""
        if choice.temperature is not None:
            [found] = measured(store, plan, BASE, choice, "validation", choice.temperature)
            value = f"{found.pass_at(k).mean():.3f}"
        rows.append(
            [title(plan, BASE), f"pass@{k}", "", "", _marked(choice.temperature, plan.temperatures), value, "", ""]
        )
    for name in finished:
        for k in plan.ks:
            choice = chosen(store, plan, name, k)
            steps = zip(plan.seeds, choice.steps, strict=True)
            points = [curve(store, plan, name, choice.rate, seed)[step] for seed, step in steps]
            evaluated = range(plan.every, plan.steps + 1, plan.every)
            rows.append(
                [
                    *(plan.contenders[name].title, f"pass@{k}", _marked(choice.rate, plan.rates_of(name))),
                    ", ".join(_marked(step, evaluated) for step in choice.steps),
                    _marked(choice.temperature, plan.temperatures),
                    f"{np.mean([p.pass_at(k).mean() for p in points]):.3f}",
                    f"{np.mean([p.tokens for p in points]) / 1e6:.2f} M",
                    f"{np.mean([p.seconds for p in points]):.0f}",
                ]
            )
    note = (
        "Validation: pass@k at the chosen steps at temperature 1 (the base model: at its temperature); it is "
        "optimistic, because the same samples chose the steps. Tokens sampled and seconds of training up to the chosen "
        "step are means over seeds. \\*: at the end of the grid, so a value beyond it may be better. The base model "
        "itself (step 0) is not among the steps."
    )
    return f"{markdown(rows)}\n\n{note}"


def temperatures_table(store: Store, plan: Plan, finished: Sequence[str]) -> str:
    """Validation values of the chosen models at all measured temperatures; empty if there is nothing to compare.

    With temperatures that are not of the plan, also the differences to the base model at each one's best temperature.
    """
    others = {key.temperature for key, _ in store.items() if key.split == "validation"} - set(plan.temperatures)
    if not others and not plan.tunes_temperature:
        return ""
    temperatures = sorted(others | set(plan.temperatures))
    rows = [["contender", "tuned for", *(f"{temperature:g}" for temperature in temperatures)]]
    gains = [["minus the base model", *(f"pass@{k}" for k in plan.ks)]]
    base = {k: _validated(store, plan, BASE, k, temperatures) for k in plan.ks}
    for name in (BASE, *finished):
        found = base if name == BASE else {k: _validated(store, plan, name, k, temperatures) for k in plan.ks}
        for k, by_temperature in found.items():
            cells = ["" if values_SP is None else f"{values_SP.mean():.3f}" for values_SP in by_temperature]
            if any(cells):
                rows.append([title(plan, name), f"pass@{k}", *cells])
        if others and name != BASE:
            gains.append([title(plan, name), *(_gain(found[k], base[k]) for k in plan.ks)])
    if len(rows) == 1:
        return ""
    note = (
        "pass@k of the chosen models on the validation split by temperature, means over seeds; new samples, which "
        "chose nothing but the temperature."
    )
    if not others:
        return f"{markdown(rows)}\n\n{note}"
    note += (
        f" The plan does not have {', '.join(f'{t:g}' for t in sorted(others))}: measured later (`temperatures "
        "--also`), used for no choice and no contrast. The second table compares each with the base model, both at the "
        "temperature that is best in the first. It is descriptive, and optimistic on both sides, because the same "
        "samples chose the temperatures."
    )
    return f"{markdown(rows)}\n\n{markdown(gains)}\n\n{note}"


def _validated(store: Store, plan: Plan, name: str, k: int, temperatures: Sequence[float]) -> list[np.ndarray | None]:
    """pass@k of the chosen models on the validation split, float64[S, P] by temperature; None: not measured."""
    choice = chosen(store, plan, name, k)
    found: list[np.ndarray | None] = []
    for temperature in temperatures:
        try:
            counts = measured(store, plan, name, choice, "validation", temperature)
            found.append(np.stack([one.pass_at(k) for one in counts]))
        except Missing:
            found.append(None)
    return found


def _gain(found: Sequence[np.ndarray | None], base: Sequence[np.ndarray | None]) -> str:
    """The difference at the best temperature of each side, if all temperatures are measured."""
    after = [values_SP for values_SP in found if values_SP is not None]
    before = [values_SP for values_SP in base if values_SP is not None]
    if len(after) < len(found) or len(before) < len(base):
        return "not measured"
    return interval(paired_difference_of_runs(max(before, key=np.mean), max(after, key=np.mean)))


def _marked(value: float | None, grid: Sequence[float]) -> str:
    if value is None:
        return ""
    return f"{value:g}\\*" if value in (min(grid), max(grid)) else f"{value:g}"


def values_table(store: Store, plan: Plan, tested: Sequence[str]) -> str:
    """Test values, each tuned for its own k."""
    rows = [["contender", *(f"pass@{k}" for k in plan.ks)]]
    for name in (BASE, *tested):
        found = {k: values(store, plan, name, k).mean(axis=1) for k in plan.ks}
        rows.append([title(plan, name), *(_with_spread(by_seed) for by_seed in found.values())])
    return (
        f"{markdown(rows)}\n\nEach cell is tuned for its own k, the base model's temperature included. ±: standard "
        "deviation over seeds."
    )


def joint_table(store: Store, plan: Plan, tested: Sequence[str]) -> str:
    """Test values of each tuned model at every k, and at k = 1: the points that it reaches."""
    ks = sorted({1, *plan.ks})
    rows = [["contender", "tuned for", *(f"pass@{k}" for k in ks)]]
    for name in (BASE, *tested):
        for tuned in plan.ks:
            found = tested_counts(store, plan, name, tuned)
            cells = [_with_spread(np.array([c.pass_at(k).mean() for c in found])) for k in ks]
            rows.append([title(plan, name), f"pass@{tuned}", *cells])
    return f"{markdown(rows)}\n\nEach row is one model for each seed, at the temperature that was chosen for its k."


def _with_spread(by_seed_S: np.ndarray) -> str:
    spread = f" ± {by_seed_S.std(ddof=1):.3f}" if len(by_seed_S) > 1 else ""
    return f"{by_seed_S.mean():.3f}{spread}"


def primary_contrasts(store: Store, plan: Plan, tested: Sequence[str]) -> str:
    """The table of the contrasts that the plan names."""
    found = []
    for one in plan.primary:
        pair = None
        if {one.contender, one.against} <= {BASE, *tested}:
            pair = (values(store, plan, one.against, one.k), values(store, plan, one.contender, one.k))
        found.append(Primary(_name(plan, one), pair))
    return primary_table(found)


def answers_table(store: Store, plan: Plan, tested: Sequence[str]) -> str:
    """How many answers each model needs to reach the pass@k of the first contender."""
    rows = [["contender", *(f"pass@{k} of {title(plan, tested[0])}" for k in plan.ks)]]
    targets = {k: float(values(store, plan, tested[0], k).mean()) for k in plan.ks}
    for temperature, counts in _base_by_temperature(store).items():
        name = f"{title(plan, BASE)} at temperature {temperature:g}"
        rows.append([name, *(_answers_needed([counts], targets[k]) for k in plan.ks)])
    for name in tested:
        needed = (_answers_needed(tested_counts(store, plan, name, k), targets[k]) for k in plan.ks)
        rows.append([title(plan, name), *needed])
    note = (
        "Each answer costs its tokens and one call of the verifier, which is always right here: pass@k is Best-of-k "
        "with such a verifier. Every trained model is the one that is tuned for this k, so other stopping steps or "
        "temperatures may need fewer answers. The numbers have no intervals."
    )
    return f"{markdown(rows)}\n\n{note}"


def _answers_needed(found: Sequence[Counts], target: float) -> str:
    """How many answers reach `target` as the mean over runs and prompts."""
    enough = (n for n in range(1, found[0].samples + 1) if np.mean([c.pass_at(n) for c in found]) >= target)
    return str(next(enough, f"more than {found[0].samples}"))


def _base_by_temperature(store: Store) -> dict[float, Counts]:
    """The base model's test counts at all measured temperatures, the lowest first."""
    found = {key.temperature: counts for key, counts in store.items() if (key.contender, key.split) == (BASE, "test")}
    return dict(sorted(found.items()))


def difference_tables(store: Store, plan: Plan, tested: Sequence[str]) -> str:
    """Every contender minus the base model, and minus the first contender."""
    parts = []
    for reference in (BASE, tested[0]):
        rows = [[f"minus {title(plan, reference)}", *(f"pass@{k}" for k in plan.ks)]]
        for name in tested:
            if name != reference:
                pairs = ((values(store, plan, reference, k), values(store, plan, name, k)) for k in plan.ks)
                rows.append([title(plan, name), *(interval(paired_difference_of_runs(*pair)) for pair in pairs)])
        parts.append(markdown(rows))
    note = (
        "Bold: the interval excludes 0. The intervals are not adjusted for their number. Descriptive, except for the "
        "primary contrasts above."
    )
    return "\n\n".join([*parts, note])


def base_temperatures_table(store: Store, plan: Plan, tested: Sequence[str]) -> str:
    """The base model at all its test temperatures, and what the tuned contenders gain; empty if the plan's are all."""
    found = _base_by_temperature(store)
    others = set(found) - {chosen(store, plan, BASE, k).temperature for k in plan.ks}
    if not others:
        return ""
    parts = []
    for k in plan.ks:
        rows = [["temperature", f"pass@{k} of the base model", *(f"{title(plan, name)} minus it" for name in tested)]]
        for temperature, counts in found.items():
            base_SP = counts.pass_at(k)[None]
            gains = (interval(paired_difference_of_runs(base_SP, values(store, plan, name, k))) for name in tested)
            rows.append([f"{temperature:g}", f"{base_SP.mean():.3f}", *gains])
        parts.append(markdown(rows))
    note = (
        f"Test split. The base model at {', '.join(f'{t:g}' for t in sorted(others))} was measured after the results "
        "above were known (`temperatures --base-on-test`), to show what its chosen temperature decides. The contenders "
        "keep theirs. Descriptive."
    )
    return "\n\n".join([*parts, note])


def title(plan: Plan, name: str) -> str:
    """How tables name a contender or the base model."""
    return "the base model" if name == BASE else plan.contenders[name].title


def values(store: Store, plan: Plan, name: str, k: int) -> np.ndarray:
    """pass@k of the models tuned for k on the test split, float64[S, P]; S = 1 for the base model.

    Raises:
        Missing: a measurement is missing.
    """
    return np.stack([found.pass_at(k) for found in tested_counts(store, plan, name, k)])


def tested_counts(store: Store, plan: Plan, name: str, k: int) -> list[Counts]:
    """Test counts of the models tuned for k, one for each seed; one of the base model.

    Raises:
        Missing: a measurement is missing.
    """
    choice = chosen(store, plan, name, k)
    if choice.temperature is None:
        raise Missing(f"{name}: the temperatures have not been measured")
    return measured(store, plan, name, choice, "test", choice.temperature)


def _name(plan: Plan, contrast: Contrast) -> str:
    return f"{title(plan, contrast.contender)} minus {title(plan, contrast.against)}, pass@{contrast.k}"
