"""Runs the missing parts of a grid: the base model's evaluation, the tuning, then every seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.commands import bonrl, do_all
from benchmarks.objectives.experiments import COMMON, FINAL, KS, TUNING, TUNING_SEED, Grid
from benchmarks.objectives.results import Key, Result, Results, summarise

RUN_LIMIT_S = 3600
BASE = Key("base", 0.0, 0, "test")


@dataclass(frozen=True)
class Runner:
    """Runs of one grid.

    Args:
        strategy: by whose value a contender is tuned if it names none.
        results: where figures are stored; runs that are there are not repeated.
        scratch: for run directories; each is removed when its figures are stored.
    """

    grid: Grid
    strategy: str
    results: Results
    scratch: Path
    keep: bool = False  # the run directories, for benchmarks.coscaling

    def run(self, names: Sequence[str], jobs: int) -> None:
        """Do all missing runs, `jobs` at a time. A run that fails does not stop the others.

        Raises:
            ExceptionGroup: of the failures, after everything else.
        """
        self.scratch.mkdir(parents=True, exist_ok=True)
        scorer = _make_verifier(self.scratch / "verifier") if self.grid.learned else ()
        untuned = [name for name in names if self.grid.contenders[name].rate is None]
        tuning = [partial(self._tune, name, rate, scorer) for name in untuned for rate in self.grid.rates]
        final = [partial(self._final, name, seed, scorer) for name in names for seed in self.grid.seeds]
        failures = do_all([partial(self._evaluate_base, scorer), *tuning], jobs) + do_all(final, jobs)
        if failures:
            raise ExceptionGroup("some runs failed; run the same command again to do the missing ones", failures)

    def _tune(self, name: str, rate: float, scorer: tuple[str, ...]) -> None:
        self._train(name, Key(name, rate, TUNING_SEED, "validation"), (*scorer, *TUNING))

    def _final(self, name: str, seed: int, scorer: tuple[str, ...]) -> None:
        rate = chosen_rate(self.results, name, self.grid, self.strategy)
        result = self._train(name, Key(name, rate, seed, "test"), (*scorer, *FINAL))
        curve = " ".join(f"{result.value(self.strategy, k).mean():.3f}" for k in KS)
        print(f"{name}, learning rate {rate:g}, seed {seed}: {self.strategy}, k = {KS}: {curve}", flush=True)

    def _train(self, name: str, key: Key, extra: tuple[str, ...]) -> Result:
        """One run's result, stored or from training."""
        if (known := self.results.get(key)) is not None:
            return known
        directory = self.scratch / f"{name}-{key.split}-{key.rate:g}-seed{key.seed}"
        shutil.rmtree(directory, ignore_errors=True)  # a run that was interrupted
        _bonrl(
            "train",
            *(*COMMON, *self.grid.overrides, *self.grid.contenders[name].overrides, *extra, self._evaluated()),
            *(f"learner.learning_rate={key.rate}", f"run.seed={key.seed}"),
            *(f"run.directory={directory.parent}", f"run.name={directory.name}"),
        )
        rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        (groups,) = (directory / "groups").glob("evaluation-*.parquet")
        result = summarise(groups, rows, self.grid.strategies)
        self.results.add({key: result})
        if not self.keep:
            shutil.rmtree(directory)
        return result

    def _evaluate_base(self, scorer: tuple[str, ...]) -> None:
        if self.results.get(BASE) is not None:
            return
        directory = self.scratch / "base"
        shutil.rmtree(directory, ignore_errors=True)
        model = ("--checkpoint", "models/countdown-base", "--output", str(directory))
        _bonrl("eval", *model, *FINAL, *self.grid.overrides, *scorer, self._evaluated())
        (groups,) = directory.glob("*.parquet")
        self.results.add({BASE: summarise(groups, [], self.grid.strategies)})
        shutil.rmtree(directory)

    def _evaluated(self) -> str:
        return f"evaluation.strategies=[{', '.join(self.grid.strategies)}]"


def chosen_rate(results: Results, name: str, grid: Grid, strategy: str) -> float:
    """The learning rate with the best validation value of the metric that the contender is trained for."""
    contender = grid.contenders[name]
    if contender.rate is not None:
        return contender.rate
    scores = {}
    for rate in grid.rates:
        result = results.get(Key(name, rate, TUNING_SEED, "validation"))
        if result is None:
            raise LookupError(f"{name} has not been tuned at {rate:g}: run the experiment first")
        parts = (w * result.value(contender.strategy or strategy, k).mean() for k, w in contender.tuned_for.items())
        scores[rate] = float(sum(parts))
    return max(scores, key=scores.__getitem__)


def _make_verifier(directory: Path) -> tuple[str, ...]:
    """The overrides for a verifier that is trained on samples of the base model, unless it exists."""
    if not directory.is_dir():
        samples = directory.with_name("samples")
        shutil.rmtree(samples, ignore_errors=True)
        wanted = ("evaluation.split=train", "evaluation.prompts=2048", "evaluation.n=16")
        _bonrl("eval", "--checkpoint", "models/countdown-base", "--output", str(samples), *wanted)
        _bonrl("train-verifier", "--samples", str(samples), "--output", str(directory))
        shutil.rmtree(samples)
    return (f"task.scorer.path={directory}",)


def _bonrl(verb: str, *arguments: str) -> None:
    bonrl(verb, "--config", "cluster/presets/local.yaml", *arguments, limit_s=RUN_LIMIT_S)
