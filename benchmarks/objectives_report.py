"""The page of `python -m benchmarks.objectives report`: paired differences, curves with bands, diagnostics."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.objectives import COMMON, KS, RATES, SEEDS, Experiment, Result, load
from learner import paired_difference

TABLE_KS = (1, 4, 8, 16, 64)
SMOOTH = 9


def write_report(root: Path, folder: Path, experiment: Experiment, names: list[str]) -> None:
    """Write `README.md` and the plots into `folder`, from the finished runs among `names`."""
    folder.mkdir(parents=True, exist_ok=True)
    page = _Page(root, experiment, load(root / "base"), {n: runs for n in names if (runs := _seeds(root, n))})
    page.plot_curves(folder / "curves.png")
    page.plot_diagnostics(folder / "diagnostics.png")
    prompts, samples = page.base.correct.shape
    settings = " ".join(f"`{o}`" for o in (*COMMON[:3], *experiment.overrides))
    parts = [
        f"# {experiment.strategy} after training: {root.name}",
        f"Countdown, the shipped base model. {settings}; test split, {prompts} prompts, {samples} samples each. "
        f"Learning rate of each contender chosen on the validation split from {', '.join(f'{r:g}' for r in RATES)} by "
        "the k that it is for, one run each. Values: mean over seeds of the mean over prompts; differences: paired "
        "bootstrap over prompts of the seeds' mean, 95 % interval.",
        f"Made by `python -m benchmarks.objectives run DIRECTORY --experiment {root.name}`, then `report`.",
        "## Values",
        page.values_table(),
        "## Difference to the base model",
        page.difference_table(lambda k: page.base.value(experiment.strategy, k), exclude=None),
    ]
    if experiment.reference in page.finished:
        title = experiment.contenders[experiment.reference].title
        table = page.difference_table(lambda k: page.seed_mean(experiment.reference, k), exclude=experiment.reference)
        parts += [f"## Difference to {title}", table]
    parts += ["## Tuning: validation split, one run each", page.tuning_table()]
    parts += ["![curves](curves.png)", "![entropy and unique answers](diagnostics.png)"]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    print(f"wrote {folder / 'README.md'}: {len(page.finished)} contenders")


def _seeds(root: Path, name: str) -> list[Result]:
    directories = [root / f"{name}-seed{seed}" for seed in SEEDS]
    return [load(d) for d in directories if (d / "result.npz").is_file()]


@dataclass(frozen=True)
class _Page:
    """The finished runs of an experiment, and what the page says of them."""

    root: Path
    experiment: Experiment
    base: Result
    finished: dict[str, list[Result]]

    def title(self, name: str) -> str:
        return self.experiment.contenders[name].title

    def base_value(self, k: int) -> np.ndarray:
        """Value of each prompt, float64 [P]."""
        return self.base.value(self.experiment.strategy, k)

    def seed_mean(self, name: str, k: int) -> np.ndarray:
        """Value of each prompt, averaged over the seeds, float64 [P]."""
        return np.mean([run.value(self.experiment.strategy, k) for run in self.finished[name]], axis=0)

    def values_table(self) -> str:
        header = " | ".join(f"k = {k}" for k in TABLE_KS)
        rows = [f"| contender | learning rate | seeds | {header} |", "|---|---|---|" + "---|" * len(TABLE_KS)]
        rows.append("| base | | | " + " | ".join(f"{self.base_value(k).mean():.3f}" for k in TABLE_KS) + " |")
        for name, runs in self.finished.items():
            cells = []
            for k in TABLE_KS:
                seeds = [run.value(self.experiment.strategy, k).mean() for run in runs]
                spread = f" ± {np.std(seeds, ddof=1):.3f}" if len(seeds) > 1 else ""
                cells.append(f"{np.mean(seeds):.3f}{spread}")
            rows.append(f"| {self.title(name)} | {self.rate(name)} | {len(runs)} | " + " | ".join(cells) + " |")
        return "\n".join([*rows, "", "± is the standard deviation over seeds."])

    def difference_table(self, reference: Callable[[int], np.ndarray], exclude: str | None) -> str:
        header = " | ".join(f"k = {k}" for k in TABLE_KS)
        rows = [f"| contender | {header} |", "|---|" + "---|" * len(TABLE_KS)]
        for name in self.finished:
            if name == exclude:
                continue
            cells = []
            for k in TABLE_KS:
                found = paired_difference(reference(k), self.seed_mean(name, k))
                apart = "**" if found.low > 0 or found.high < 0 else ""
                cells.append(f"{apart}{found.value:+.3f}{apart} [{found.low:+.3f}, {found.high:+.3f}]")
            rows.append(f"| {self.title(name)} | " + " | ".join(cells) + " |")
        return "\n".join([*rows, "", "Bold: the interval does not hold 0."])

    def tuning_table(self) -> str:
        """Every run of the tuning: what another learning rate, or an equal one, would have given."""
        header = " | ".join(f"k = {k}" for k in TABLE_KS)
        rows = [f"| contender | learning rate | {header} |", "|---|---|" + "---|" * len(TABLE_KS)]
        for name in self.finished:
            for rate in RATES:
                result = load(self.root / f"tune-{name}-{rate:g}")
                values = " | ".join(f"{result.value(self.experiment.strategy, k).mean():.3f}" for k in TABLE_KS)
                rows.append(f"| {self.title(name)} | {rate:g} | {values} |")
        return "\n".join(rows)

    def rate(self, name: str) -> str:
        """The learning rate that tuning chose."""
        scores = json.loads((self.root / f"tuning-{name}.json").read_text())
        return max(scores, key=scores.__getitem__)

    def plot_curves(self, path: Path) -> None:
        """Values, and differences to the base with bands: the curves themselves lie too close to tell apart."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.5), layout="constrained")
        curves, differences = figure.subplots(1, 2)
        curves.plot(KS, [self.base_value(k).mean() for k in KS], "k--", label="base")
        for name in self.finished:
            (line,) = curves.plot(KS, [self.seed_mean(name, k).mean() for k in KS], label=self.title(name))
            points = [paired_difference(self.base_value(k), self.seed_mean(name, k)) for k in KS]
            differences.plot(KS, [p.value for p in points], color=line.get_color())
            lows, highs = [p.low for p in points], [p.high for p in points]
            differences.fill_between(KS, lows, highs, color=line.get_color(), alpha=0.12)
        differences.axhline(0, color="k", linestyle="--", linewidth=0.8)
        for axes, title in ((curves, self.experiment.strategy), (differences, "minus base, 95 % bands")):
            axes.set_xscale("log", base=2)
            axes.set_xticks(KS, [str(k) for k in KS])
            axes.set_xlabel("k")
            axes.set_title(title)
        curves.legend(fontsize=8)
        figure.savefig(path, dpi=110)

    def plot_diagnostics(self, path: Path) -> None:
        """Entropy and unique answers over training, means over seeds."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4), layout="constrained")
        metrics = {"policy/entropy": "entropy, nat/token", "groups/unique_answer_share": "different answers / samples"}
        for axes, (metric, title) in zip(figure.subplots(1, 2), metrics.items(), strict=True):
            for name in self.finished:
                axes.plot(_smooth(self.series(name, metric)), label=self.title(name))
            axes.set_xlabel(f"optimiser step (mean of {SMOOTH})")
            axes.set_title(title)
        figure.axes[0].legend(fontsize=8)
        figure.savefig(path, dpi=110)

    def series(self, name: str, metric: str) -> np.ndarray:
        """The metric over the steps, mean over seeds."""
        rows = []
        for seed in SEEDS:
            path = self.root / f"{name}-seed{seed}" / "metrics.jsonl"
            if path.is_file():
                lines = map(json.loads, path.read_text().splitlines())
                rows.append([line[metric] for line in lines if metric in line])
        return np.mean([row[: min(map(len, rows))] for row in rows], axis=0)


def _smooth(series: np.ndarray) -> np.ndarray:
    return np.convolve(series, np.ones(SMOOTH) / SMOOTH, mode="valid")
