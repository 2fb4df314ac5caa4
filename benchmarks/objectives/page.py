"""Writes the page of an experiment from the stored results: values, paired differences, tuning and plots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.markdown import interval, markdown
from benchmarks.objectives.experiments import COMMON, EXPERIMENTS, GRIDS, KS, TUNING_SEED, Experiment, Grid
from benchmarks.objectives.grid import BASE, chosen_rate
from benchmarks.objectives.results import Key, Result, Results
from benchmarks.planned.contrasts import Primary, primary_table
from learner import paired_difference_of_runs

TABLE_KS = (1, 4, 8, 16, 64)
SMOOTH, LAST = 9, 10
VALUE_NAMES = {"pass_at_k": "pass@", "best_of_k": "Best-of-"}  # followed by k
_NONE_NAMED = "No contrast was named before the test split was used, so all of them"
SERIES = {"policy/entropy": "entropy, nat/token", "groups/unique_answer_share": "different answers / samples"}


def write_page(folder: Path, title: str, results: Results, names: list[str]) -> None:
    """Write `README.md` and the plots into `folder`, from the finished runs among `names`.

    Raises:
        LookupError: the base model's evaluation, or every run, is missing.
    """
    experiment = EXPERIMENTS[title]
    grid = GRIDS[experiment.grid]
    base = results.get(BASE)
    if base is None:
        raise LookupError(f"{results.path} has no evaluation of the base model: run the experiment first")
    page = _Page(
        experiment, grid, results, base, {name: runs for name in names if (runs := _runs(results, experiment, name))}
    )
    if not page.finished:
        raise LookupError(f"{results.path} has no finished run of {', '.join(names)}: run the experiment first")
    folder.mkdir(parents=True, exist_ok=True)
    page.plot_curves(folder / "curves.png")
    page.plot_diagnostics(folder / "diagnostics.png")
    parts = [
        f"# {title}: {experiment.strategy} after training",
        page.introduction(title),
        *(["## Primary contrasts", page.primary_contrasts()] if experiment.primary else []),
        "## Values",
        page.values_table(),
    ]
    parts += ["## Difference to the base model", page.difference_table(page.base_value, exclude=None)]
    for reference in experiment.references:
        if reference in page.finished:
            table = page.difference_table(partial(page.by_run, reference), exclude=reference)
            parts += [f"## Difference to {page.title(reference)}", table]
    if experiment.strategy == "best_of_k":
        parts += ["## Answers that fool the verifier", page.fooled_table()]
    parts += [
        "Bold: the interval excludes 0. "
        f"This page has {sum(part.count(' [') for part in parts)} intervals, not corrected for their number. "
        + ("All but the primary contrasts" if experiment.primary else _NONE_NAMED)
        + " are descriptive."
    ]
    parts += ["## Diversity", page.diversity_table()]
    if tuning := page.tuning_table():
        parts += ["## Tuning: validation split, one run each", tuning]
    parts += ["![curves](curves.png)", "![entropy and unique answers](diagnostics.png)"]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    left_out = [name for name in names if name not in page.finished]
    without = f"; left out because not all of their seeds have run: {', '.join(left_out)}" if left_out else ""
    print(f"wrote {folder / 'README.md'}: {len(page.finished)} contenders{without}")


def _runs(results: Results, experiment: Experiment, name: str) -> list[Result]:
    grid = GRIDS[experiment.grid]
    try:
        rate = chosen_rate(results, name, grid, experiment.strategy)
    except LookupError:
        return []
    found = [results.get(Key(name, rate, seed, "test")) for seed in grid.seeds]
    whole = [result for result in found if result is not None]
    return whole if len(whole) == len(grid.seeds) else []


@dataclass(frozen=True)
class _Page:
    """The finished runs of an experiment, and the parts of its page."""

    experiment: Experiment
    grid: Grid
    results: Results
    base: Result
    finished: dict[str, list[Result]]

    def introduction(self, title: str) -> str:
        prompts = len(self.base.values[self.experiment.strategy])
        settings = " ".join(f"`{o}`" for o in (*COMMON[:5], *self.grid.overrides))
        tuned = [name for name in self.finished if self.grid.contenders[name].rate is None]
        fixed = [self.title(name) for name in self.finished if name not in tuned]
        given = f"; it was given for {', '.join(fixed)}" if fixed else ""
        rates = ", ".join(f"{rate:g}" for rate in self.grid.rates)
        how = (
            f"The learning rate of each contender was chosen from {rates} on the validation split, with one run each, "
            f"by the value that the table of the tuning names{given}. The number of steps was not tuned."
            if tuned
            else "The learning rate is the same for all; neither it nor the number of steps was tuned."
        )
        return (
            f"{self.experiment.about}\n\nCountdown, the shipped base model. {settings}. Test split, {prompts} prompts, "
            f"{self.base.samples} samples each at temperature 1, the training temperature. {how} Values are means over "
            "prompts and seeds. Intervals of differences are 95 % t intervals over seeds and prompts, paired by both "
            "(`learner.paired_difference_of_runs`).\n\n"
            f"`python -m benchmarks.objectives report {title}` recomputes every number of this page from "
            f"`{self.experiment.grid}/runs.parquet`, which holds the values of each prompt. `python -m "
            f"benchmarks.objectives run {title} --evidence again` repeats the training. The "
            "samples themselves are not in the repository."
        )

    def title(self, name: str) -> str:
        return self.grid.contenders[name].title

    def base_value(self, k: int) -> np.ndarray:
        """Value of each prompt, float64 [1, P]."""
        return self.base.value(self.experiment.strategy, k)[None]

    def by_run(self, name: str, k: int) -> np.ndarray:
        """Value of each prompt in each seed's run, float64 [S, P]."""
        return np.stack([run.value(self.experiment.strategy, k) for run in self.finished[name]])

    def rate(self, name: str) -> float:
        return chosen_rate(self.results, name, self.grid, self.experiment.strategy)

    def primary_contrasts(self) -> str:
        """The contrasts that the experiment names, with p values."""
        what = VALUE_NAMES[self.experiment.strategy]
        return primary_table(
            [
                Primary(
                    f"{self.title(one.contender)} minus {self.title(one.against)}, {what}{one.k}",
                    (self.by_run(one.against, one.k), self.by_run(one.contender, one.k))
                    if {one.contender, one.against} <= self.finished.keys()
                    else None,
                )
                for one in self.experiment.primary
            ]
        )

    def values_table(self) -> str:
        means = {k: {name: float(self.by_run(name, k).mean()) for name in self.finished} for k in TABLE_KS}
        best = {k: max(of, key=of.__getitem__) for k, of in means.items()}
        rows = [["contender", "learning rate", "seeds", *(f"k = {k}" for k in TABLE_KS)]]
        rows.append(["base", "", "", *(f"{self.base_value(k).mean():.3f}" for k in TABLE_KS)])
        for name, runs in self.finished.items():
            cells = []
            for k in TABLE_KS:
                seeds = [run.value(self.experiment.strategy, k).mean() for run in runs]
                spread = f" ± {np.std(seeds, ddof=1):.3f}" if len(seeds) > 1 else ""
                bold = "**" if name == best[k] else ""
                cells.append(f"{bold}{means[k][name]:.3f}{bold}{spread}")
            rows.append([self.title(name), f"{self.rate(name):g}", str(len(runs)), *cells])
        return markdown(rows) + "\n\n± is the standard deviation over seeds. Bold: the best trained model of a column."

    def difference_table(self, reference: Callable[[int], np.ndarray], exclude: str | None) -> str:
        rows = [["contender", *(f"k = {k}" for k in TABLE_KS)]]
        for name in self.finished:
            if name == exclude:
                continue
            cells = []
            for k in TABLE_KS:
                cells.append(interval(paired_difference_of_runs(reference(k), self.by_run(name, k))))
            rows.append([self.title(name), *cells])
        return markdown(rows)

    def fooled_table(self) -> str:
        """How often the verifier accepts a wrong answer, and how often it then selects one."""
        ks = (4, 16, 64)
        accepts = ["wrong answers it accepts", "the same, mean over prompts"]
        rows = [["contender", *accepts, *(f"misled, k = {k}" for k in ks)]]
        for name, runs in {"base": [self.base], **self.finished}.items():
            by_prompt = np.mean([np.nanmean(run.fooled) for run in runs])
            shares = [_accepted(runs).mean(), by_prompt, *(_misled(runs, k).mean() for k in ks)]
            title = "base" if name == "base" else self.title(name)
            rows.append([title, *(f"{100 * share:.1f} %" for share in shares)])
        (reference,) = self.experiment.references
        for name, runs in self.finished.items():
            if name != reference and reference in self.finished:
                before, after = (np.stack([run.fooled for run in self.finished[n]]) for n in (reference, name))
                both = ~np.isnan(before).any(axis=0) & ~np.isnan(after).any(axis=0)
                pairs = [(_accepted(self.finished[reference]), _accepted(runs)), (before[:, both], after[:, both])]
                pairs += [(_misled(self.finished[reference], k), _misled(runs, k)) for k in ks]
                title = f"{self.title(name)} - {self.title(reference)}, points"
                rows.append(
                    [title, *(interval(paired_difference_of_runs(*pair), scale=100, digits=1) for pair in pairs)]
                )
        explanation = (
            "Accepted: score above 1/2. First column: accepted wrong answers of all prompts, divided by their wrong "
            "answers. Second: the share of each prompt, averaged; prompts with few wrong answers count as much as "
            "others, and those with none in a run are left out (of a difference, if in any run). "
            "Misled: how often the verifier picks a wrong answer if a right one is among the k, "
            "1 - Best-of-k / pass@k."
        )
        return f"{markdown(rows)}\n\n{explanation}"

    def diversity_table(self) -> str:
        """Entropy and unique answers at the first step and at the end, means over seeds."""
        rows = [["contender", *(f"{label}: first step, last {LAST}" for label in SERIES.values())]]
        for name, runs in self.finished.items():
            ends = ((_mean(runs, m, slice(0, 1)), _mean(runs, m, slice(-LAST, None))) for m in SERIES)
            rows.append([self.title(name), *(f"{first:.2f}, {last:.2f}" for first, last in ends)])
        return markdown(rows)

    def tuning_table(self) -> str:
        """Every run of the tuning."""
        rows = [["contender", "chosen by", "learning rate", *(f"k = {k}" for k in TABLE_KS)]]
        for name in self.finished:
            for rate in self.grid.rates:
                result = self.results.get(Key(name, rate, TUNING_SEED, "validation"))
                if result is not None:
                    values = (f"{result.value(self.experiment.strategy, k).mean():.3f}" for k in TABLE_KS)
                    rows.append([self.title(name), self.chosen_by(name), f"{rate:g}", *values])
        return markdown(rows) if len(rows) > 1 else ""

    def chosen_by(self, name: str) -> str:
        """The validation value by which the contender's learning rate was chosen."""
        contender = self.grid.contenders[name]
        what = VALUE_NAMES[contender.strategy or self.experiment.strategy]
        weights = contender.tuned_for.items()
        return " + ".join(f"{what}{k}" if weight == 1 else f"{weight:g} {what}{k}" for k, weight in weights)

    def plot_curves(self, path: Path) -> None:
        """Values, and differences to the base with bands."""
        from matplotlib.figure import Figure

        value = {"pass_at_k": "pass@k", "best_of_k": "Best-of-k with the verifier"}[self.experiment.strategy]
        figure = Figure(figsize=(12, 5.5), layout="constrained")
        curves, differences = figure.subplots(1, 2)
        curves.plot(KS, [self.base_value(k).mean() for k in KS], "k--", label="base")
        for name, style in self.styles().items():
            curves.plot(KS, [self.by_run(name, k).mean() for k in KS], label=self.title(name), **style)
            points = [paired_difference_of_runs(self.base_value(k), self.by_run(name, k)) for k in KS]
            differences.plot(KS, [p.value for p in points], **style)
            lows, highs = [p.low for p in points], [p.high for p in points]
            differences.fill_between(KS, lows, highs, color=style["color"], alpha=0.08)
        differences.axhline(0, color="k", linestyle="--", linewidth=0.8)
        for axes, label in ((curves, value), (differences, f"{value}, minus the base model's (95 % bands)")):
            axes.set_xscale("log", base=2)
            axes.set_xticks(KS, [str(k) for k in KS])
            axes.set_xlabel("k, answers")
            axes.set_ylabel(label)
        figure.legend(loc="outside lower center", ncols=4, fontsize=8)
        figure.savefig(path, dpi=110)

    def plot_diagnostics(self, path: Path) -> None:
        """Entropy and unique answers over training, means over seeds."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 5), layout="constrained")
        for axes, (metric, label) in zip(figure.subplots(1, 2), SERIES.items(), strict=True):
            for name, style in self.styles().items():
                runs = self.finished[name]
                shortest = min(len(run.series[metric]) for run in runs)
                mean = np.mean([run.series[metric][:shortest] for run in runs], axis=0)
                shown = self.title(name) if axes is figure.axes[0] else None
                axes.plot(np.convolve(mean, np.ones(SMOOTH) / SMOOTH, mode="valid"), label=shown, **style)
            axes.set_xlabel(f"optimizer step (mean of {SMOOTH})")
            axes.set_ylabel(label)
        figure.legend(loc="outside lower center", ncols=4, fontsize=8)
        figure.savefig(path, dpi=110)

    def styles(self) -> dict[str, dict[str, Any]]:
        """A different color and line for each contender."""
        lines = ("-", "--", ":")
        return {
            name: {"color": f"C{i % 10}", "linestyle": lines[i // 10 % len(lines)]}
            for i, name in enumerate(self.finished)
        }


def _mean(runs: list[Result], metric: str, steps: slice) -> float:
    """The mean of a metric of the training over these steps and all seeds."""
    return float(np.mean([run.series[metric][steps].mean() for run in runs]))


def _accepted(runs: list[Result]) -> np.ndarray:
    """Share of all wrong answers that the verifier accepts, by seed and prompt, [S, P]; see `_ratio`."""
    wrong_SP = 1 - np.stack([run.value("pass_at_k", 1) for run in runs])
    return _ratio(wrong_SP * np.nan_to_num([run.fooled for run in runs]), wrong_SP)


def _misled(runs: list[Result], k: int) -> np.ndarray:
    """Share of the groups of k with a right answer in which the verifier picks a wrong one, by seed and prompt, [S, P].

    See `_ratio`.
    """
    reached_SP, picked_SP = (np.stack([run.value(s, k) for run in runs]) for s in ("pass_at_k", "best_of_k"))
    return 1 - _ratio(picked_SP, reached_SP)


def _ratio(parts_SP: np.ndarray, wholes_SP: np.ndarray) -> np.ndarray:
    """A ratio of means, linearized by the delta method, [S, P]: the mean is the ratio, the spread is its spread."""
    whole, ratio = wholes_SP.mean(), parts_SP.mean() / wholes_SP.mean()
    return ratio + (parts_SP - ratio * wholes_SP) / whole
