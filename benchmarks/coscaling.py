"""Measures pass@N over the number of answers and the sampling temperature.

    python -m benchmarks.coscaling run base=models/countdown-base mean=runs/MEAN pass8=runs/PASS8,runs/PASS8-AGAIN
    python -m benchmarks.coscaling report

`run` samples 128 answers to each of 256 test prompts at every temperature and stores the number of right ones by prompt
in docs/evidence/coscaling/counts.parquet; it does not repeat what is there. Several directories of a model, for example
of runs with different seeds, are averaged, and intervals cover seeds too: give equally many for each trained model, in
the same order of seeds. `report` writes the page: the surface pass@N(T), the best temperature for each N, and the
fit pass@N(T) = exp(a(T) N^b(T)) of arXiv 2412.15287 with its residuals (a < 0, b < 0; least squares of
log(-log pass@N) over log N).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from benchmarks.commands import bonrl
from benchmarks.markdown import interval, markdown
from benchmarks.planned.store import Measurements
from learner import paired_difference_of_runs
from learner.metrics import pass_at_k

EVIDENCE = Path("docs/evidence/coscaling")
TEMPERATURES = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
NS = (1, 2, 4, 8, 16, 32, 64, 128)
PROMPTS, SAMPLES = 256, 128
EVAL_LIMIT_S = 7200
_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string()),
        pa.field("seed", pa.int32()),  # which of the model's directories
        pa.field("temperature", pa.float64()),
        pa.field("samples", pa.int32()),  # of each prompt
        pa.field("right", pa.list_(pa.int16())),  # right answers by prompt
    ]
)


@dataclass(frozen=True)
class Cell:
    """One model at one temperature: right answers by seed and prompt, int [S, P], of `samples` each."""

    samples: int
    right: np.ndarray

    def pass_at(self, n: int) -> np.ndarray:
        """pass@n by seed and prompt, float64 [S, P]."""
        return np.array([pass_at_k(self.samples, c, n) for c in range(self.samples + 1)])[self.right]


@dataclass(frozen=True)
class Fit:
    """pass@N = exp(a N^b) over the Ns at which pass@N is below 1."""

    a: float
    b: float
    worst: float  # largest |pass@N - fit|
    rms: float


def fit(ns: np.ndarray, passes: np.ndarray) -> Fit:
    """Least squares of log(-log pass@N) = log(-a) + b log N."""
    inside = (passes > 0) & (passes < 1)
    b, intercept = np.polyfit(np.log(ns[inside]), np.log(-np.log(passes[inside])), 1)
    a = -np.exp(intercept)
    residuals = passes[inside] - np.exp(a * ns[inside] ** b)
    return Fit(float(a), float(b), float(np.abs(residuals).max()), float(np.sqrt(np.mean(residuals**2))))


class Key(NamedTuple):
    """A model, which of its directories, and the temperature."""

    model: str
    seed: int
    temperature: float


class Store(Measurements[Key, np.ndarray]):
    """Right answers by prompt, int [P], in `path`; see :class:`Measurements`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, None, _SCHEMA, _read, _write)

    def items(self) -> Iterator[tuple[Key, np.ndarray]]:
        """In the order in which they were stored, which is the order of the models on the page."""
        with self._lock:
            return iter(list(self._found.items()))


def _read(row: Mapping[str, Any]) -> tuple[Key, np.ndarray]:
    return Key(row["model"], row["seed"], row["temperature"]), np.array(row["right"])


def _write(key: Key, right: np.ndarray) -> dict[str, Any]:
    return key._asdict() | {"samples": SAMPLES, "right": right.tolist()}


def by_cell(found: Iterable[tuple[Key, np.ndarray]]) -> dict[tuple[str, float], Cell]:
    """The counts of each model and temperature, for the seeds that all models with several seeds have."""
    counts = dict(found)
    seeds: dict[tuple[str, float], list[int]] = {}
    for model, seed, t in counts:
        seeds.setdefault((model, t), []).append(seed)
    several = [set(found) for found in seeds.values() if len(found) > 1]
    common = sorted(set.intersection(*several)) if several else []
    return {
        (model, t): Cell(SAMPLES, np.stack([counts[Key(model, s, t)] for s in (common if len(found) > 1 else found)]))
        for (model, t), found in seeds.items()
    }


def run(path: Path, models: dict[str, list[Path]], overrides: list[str]) -> None:
    """Sample every model at every temperature that is not in `path` yet."""
    store = Store(path)
    for name, directories in models.items():
        for seed, directory in enumerate(directories):
            missing = [t for t in TEMPERATURES if store.get(Key(name, seed, t)) is None]
            if missing:
                store.add({Key(name, seed, t): right for t, right in evaluated(directory, missing, overrides)})
            print(f"{name}, {directory}: {len(missing)} temperatures sampled", flush=True)


def evaluated(model: Path, temperatures: list[float], overrides: list[str]) -> Iterator[tuple[float, np.ndarray]]:
    """Right answers by prompt at each temperature: `bonrl eval` of a model, with one start of the actors."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "groups"
        bonrl(
            "eval",
            *("--config", "cluster/presets/local.yaml", "--checkpoint", str(model), "--output", str(output)),
            *("--n", str(SAMPLES), "evaluation.split=test", f"evaluation.prompts={PROMPTS}"),
            *(flag for t in temperatures for flag in ("-t", f"{t:g}")),
            *overrides,
            limit_s=EVAL_LIMIT_S,
        )
        for file in sorted(output.glob("*.parquet")):
            table = parquet.read_table(file, columns=["sequence", "temperature", "verdict"]).sort_by("sequence")
            right = np.array([verdicts.count("correct") for verdicts in table["verdict"].to_pylist()])
            yield round(table["temperature"][0].as_py(), 3), right


def write_page(folder: Path, cells: dict[tuple[str, float], Cell]) -> None:
    """README.md and surface.png."""
    models = list(dict.fromkeys(model for model, _ in cells))
    seeds = ", ".join(f"{model} {len(cells[model, 1.0].right)}" for model in models)
    parts = [
        "# Co-scaling: answers and temperature",
        f"Countdown, {PROMPTS} test prompts, {SAMPLES} answers each at every temperature; pass@N is the unbiased "
        f"estimate from that pool. Seeds averaged: {seeds}. The temperature of training is 1. The trained models were "
        "not stopped early.",
        "`python -m benchmarks.coscaling report` recomputes every number of this page from `counts.parquet`, which "
        "holds the number of right answers of each prompt. `python -m benchmarks.coscaling run` samples again; it "
        "needs the run directories, which are not in the repository.",
    ]
    for model in models:
        grid = {t: cell for (name, t), cell in cells.items() if name == model}
        parts += [f"## {model}", _surface(grid), _fits(grid)]
    parts += ["## Best temperature for each N", _best(cells, models)]
    parts += ["## Each model at its best temperature for each N", _tuned(cells, models)]
    parts += ["![pass@N over N and temperature](surface.png)"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    _plot(folder / "surface.png", cells, models)
    print(f"wrote {folder / 'README.md'}: {', '.join(models)}")


def _surface(grid: dict[float, Cell]) -> str:
    rows = [["temperature", *(f"N = {n}" for n in NS)]]
    best = {n: max(grid, key=lambda t: grid[t].pass_at(n).mean()) for n in NS}
    for t, cell in sorted(grid.items()):
        cells = ((f"{cell.pass_at(n).mean():.3f}", best[n] == t) for n in NS)
        rows.append([f"{t:g}", *(f"**{text}**" if bold else text for text, bold in cells)])
    return markdown(rows)


def _fits(grid: dict[float, Cell]) -> str:
    rows = [["temperature", "a", "b", "largest residual", "root mean square"]]
    for t, cell in sorted(grid.items()):
        found = fit(np.array(NS, float), np.array([cell.pass_at(n).mean() for n in NS]))
        rows.append([f"{t:g}", f"{found.a:.3f}", f"{found.b:.3f}", f"{found.worst:.3f}", f"{found.rms:.3f}"])
    return markdown(rows)


def _best(cells: dict[tuple[str, float], Cell], models: list[str]) -> str:
    """Best temperature, and by how much it beats temperature 1."""
    rows = [["model", *(f"N = {n}" for n in NS)]]
    for model in models:
        row = [model]
        for n in NS:
            values = {t: cell.pass_at(n) for (name, t), cell in cells.items() if name == model}
            best = max(values, key=lambda t: values[t].mean())
            row.append(f"{best:g} ({interval(paired_difference_of_runs(values[1.0], values[best]))})")
        rows.append(row)
    explanation = (
        "In brackets: the difference to temperature 1 with its 95 % interval. The temperature is chosen and measured "
        f"on the same prompts, so the differences are biased upward. {min(TEMPERATURES):g} and {max(TEMPERATURES):g} "
        "are the ends of the grid."
    )
    return f"{markdown(rows)}\n\n{explanation}"


def _tuned(cells: dict[tuple[str, float], Cell], models: list[str]) -> str:
    """Values and paired differences of all models at cross-fitted temperatures."""
    values = {
        model: [at_the_others_best([c.pass_at(n) for (name, _), c in cells.items() if name == model]) for n in NS]
        for model in models
    }
    rows = [["model", *(f"N = {n}" for n in NS)]]
    rows += [[model, *(f"{found.mean():.3f}" for found in values[model])] for model in models]
    for one, other in combinations(models, 2):
        differences = [paired_difference_of_runs(a, b) for a, b in zip(values[one], values[other], strict=True)]
        rows.append([f"{other} - {one}", *map(interval, differences)])
    explanation = (
        "Each half of the prompts is answered at the temperature that is best for the other half. 95 % t intervals "
        "over seeds and prompts, which treat the chosen temperatures as fixed. Bold: the interval excludes 0. No "
        "contrast was named before the test split was used, so all of them are descriptive."
    )
    return f"{markdown(rows)}\n\n{explanation}"


def at_the_others_best(values: list[np.ndarray]) -> np.ndarray:
    """Values by seed and prompt, float64 [S, P]; the temperature is never chosen on the prompts that it is used for."""
    of_TSP = np.stack(values)
    result, odd = np.empty(of_TSP.shape[1:]), np.arange(of_TSP.shape[2]) % 2 == 1
    for half in (odd, ~odd):
        result[:, half] = of_TSP[of_TSP[:, :, ~half].mean(axis=(1, 2)).argmax()][:, half]
    return result


def _plot(path: Path, cells: dict[tuple[str, float], Cell], models: list[str]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(models), 4), layout="constrained")
    for axes, model in zip(np.atleast_1d(figure.subplots(1, len(models), sharey=True)), models, strict=True):
        for (name, t), cell in sorted(cells.items()):
            if name == model:
                passes = [cell.pass_at(n).mean() for n in NS]
                found = fit(np.array(NS, float), np.array(passes))
                (line,) = axes.plot(NS, passes, "o", markersize=4, label=f"T = {t:g}")
                axes.plot(NS, np.exp(found.a * np.array(NS, float) ** found.b), color=line.get_color(), linewidth=0.9)
        axes.set_xscale("log", base=2)
        axes.set_xticks(NS, [str(n) for n in NS])
        axes.set_xlabel("N, answers")
        axes.set_title(model)
    figure.axes[0].set_ylabel("pass@N (points) and fit (lines)")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("models", nargs="*", help="run: NAME=DIRECTORY[,DIRECTORY ..] of a model, checkpoint or run")
    parser.add_argument("--evidence", type=Path, default=EVIDENCE, help="folder of counts and page")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="run: of the configuration")
    options = parser.parse_args()
    counts = options.evidence / "counts.parquet"
    if options.command == "run":
        pairs = [model.partition("=") for model in options.models]
        if not pairs or any(not path for _, _, path in pairs):
            parser.error("run needs models as NAME=DIRECTORY")
        models = {name: [Path(part) for part in path.split(",")] for name, _, path in pairs}
        if len({len(directories) for directories in models.values()} - {1}) > 1:
            parser.error("models with several directories need equally many, of the same seeds")
        run(counts, models, options.set)
    elif found := list(Store(counts).items()):
        write_page(options.evidence, by_cell(found))
    else:
        parser.error(f"{counts} has no counts: run first")


if __name__ == "__main__":
    main()
