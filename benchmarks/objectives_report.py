"""The page of `python -m benchmarks.objectives report`: paired differences, curves with bands, diagnostics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.objectives import COMMON, CONTENDERS, KS, RATES, SEEDS, value
from learner import paired_difference

TABLE_KS = (1, 4, 8, 16, 64)


def write_report(root: Path, folder: Path, names: list[str]) -> None:
    """Write `README.md` and the plots into `folder`, from the finished runs among `names`."""
    folder.mkdir(parents=True, exist_ok=True)
    base = _load(root / "base")
    finished = {name: runs for name in names if (runs := _seeds(root, name))}
    _plot_curves(folder / "curves.png", base, finished)
    _plot_diagnostics(folder / "diagnostics.png", root, finished)
    prompts, samples = base.shape
    parts = [
        "# What each objective buys, and what it costs",
        f"Countdown, the shipped base model. {' '.join(f'`{o}`' for o in COMMON[:3])}; test split, {prompts} prompts, "
        f"{samples} samples each. Learning rate of each objective chosen on the validation split from "
        f"{', '.join(f'{r:g}' for r in RATES)} by the pass@k that it is for, one run each. Values: mean over seeds "
        "of the mean over prompts; differences: paired bootstrap over prompts of the seeds' mean, 95 % interval.",
        "Made by `python -m benchmarks.objectives run DIRECTORY` and `report`.",
        "## Values",
        _values_table(root, base, finished),
        "## Difference to the base model",
        _difference_table(lambda k: value(base, k), finished),
    ]
    if "mean" in finished:
        others = {name: runs for name, runs in finished.items() if name != "mean"}
        table = _difference_table(lambda k: _seed_mean(finished["mean"], k), others)
        parts += ["## Difference to the mean reward (k = 1)", table]
    parts += ["![pass@k](curves.png)", "![entropy and unique answers](diagnostics.png)"]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    print(f"wrote {folder / 'README.md'}: {len(finished)} objectives")


def _load(directory: Path) -> np.ndarray:
    return np.load(directory / "result.npz")["correct"]


def _seeds(root: Path, name: str) -> list[np.ndarray]:
    directories = [root / f"{name}-seed{seed}" for seed in SEEDS]
    return [_load(d) for d in directories if (d / "result.npz").is_file()]


def _seed_mean(runs: list[np.ndarray], k: int) -> np.ndarray:
    """pass@k of each prompt, averaged over the seeds, float64 [P]."""
    return np.mean([value(run, k) for run in runs], axis=0)


def _values_table(root: Path, base: np.ndarray, finished: dict[str, list[np.ndarray]]) -> str:
    rows = ["| objective | learning rate | seeds | " + " | ".join(f"pass@{k}" for k in TABLE_KS) + " |"]
    rows.append("|---|---|---|" + "---|" * len(TABLE_KS))
    rows.append("| base | | | " + " | ".join(f"{value(base, k).mean():.3f}" for k in TABLE_KS) + " |")
    for name, runs in finished.items():
        cells = []
        for k in TABLE_KS:
            seeds = [value(run, k).mean() for run in runs]
            spread = f" ± {np.std(seeds, ddof=1):.3f}" if len(seeds) > 1 else ""
            cells.append(f"{np.mean(seeds):.3f}{spread}")
        title = CONTENDERS[name].title
        rows.append(f"| {title} | {_rate(root, name)} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", "± is the standard deviation over seeds."])


def _difference_table(reference: Callable[[int], np.ndarray], finished: dict[str, list[np.ndarray]]) -> str:
    rows = ["| objective | " + " | ".join(f"pass@{k}" for k in TABLE_KS) + " |", "|---|" + "---|" * len(TABLE_KS)]
    for name, runs in finished.items():
        cells = []
        for k in TABLE_KS:
            found = paired_difference(reference(k), _seed_mean(runs, k))
            apart = "**" if found.low > 0 or found.high < 0 else ""
            cells.append(f"{apart}{found.value:+.3f}{apart} [{found.low:+.3f}, {found.high:+.3f}]")
        rows.append(f"| {CONTENDERS[name].title} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "", "Bold: the interval does not hold 0."])


def _rate(root: Path, name: str) -> str:
    scores = json.loads((root / f"tuning-{name}.json").read_text())
    return max(scores, key=scores.__getitem__)


def _plot_curves(path: Path, base: np.ndarray, finished: dict[str, list[np.ndarray]]) -> None:
    """Difference to the base over k, with bands: the curves themselves lie too close to tell apart."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    curves, differences = figure.subplots(1, 2)
    curves.plot(KS, [value(base, k).mean() for k in KS], "k--", label="base")
    for name, runs in finished.items():
        (line,) = curves.plot(KS, [_seed_mean(runs, k).mean() for k in KS], label=CONTENDERS[name].title)
        points = [paired_difference(value(base, k), _seed_mean(runs, k)) for k in KS]
        differences.plot(KS, [p.value for p in points], color=line.get_color())
        lows, highs = [p.low for p in points], [p.high for p in points]
        differences.fill_between(KS, lows, highs, color=line.get_color(), alpha=0.12)
    differences.axhline(0, color="k", linestyle="--", linewidth=0.8)
    for axes, title in ((curves, "pass@k"), (differences, "pass@k minus base, 95 % bands")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(KS, [str(k) for k in KS])
        axes.set_xlabel("k")
        axes.set_title(title)
    curves.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _plot_diagnostics(path: Path, root: Path, finished: dict[str, list[np.ndarray]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    metrics = {"policy/entropy": "entropy, nat/token", "groups/unique_answer_share": "different answers / samples"}
    for axes, (metric, title) in zip(figure.subplots(1, 2), metrics.items(), strict=True):
        for name in finished:
            series = _series(root, name, metric)
            axes.plot(_smooth(series.mean(axis=0)), label=CONTENDERS[name].title)
        axes.set_xlabel("optimiser step (mean of 9)")
        axes.set_title(title)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _series(root: Path, name: str, metric: str) -> np.ndarray:
    """The metric of each finished seed over the steps, float64 [seeds, steps]."""
    rows = []
    for seed in SEEDS:
        path = root / f"{name}-seed{seed}" / "metrics.jsonl"
        if path.is_file():
            lines = map(json.loads, path.read_text().splitlines())
            rows.append([line[metric] for line in lines if metric in line])
    return np.array([row[: min(map(len, rows))] for row in rows])


def _smooth(series: np.ndarray, width: int = 9) -> np.ndarray:
    return np.convolve(series, np.ones(width) / width, mode="valid")
