"""Does the missing training runs and evaluations of a plan."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet

from benchmarks.commands import bonrl, do_all
from benchmarks.frontier.choice import TRAINING_TEMPERATURE, Choice, best_step, chosen
from benchmarks.frontier.counts import BASE, Counts, Key, Store
from benchmarks.frontier.plan import Plan
from benchmarks.planned.plan import check_overrides


@dataclass(frozen=True)
class Evaluation:
    """One model on one split at some temperatures. rate, seed and step are 0 for the base model."""

    contender: str
    rate: float
    seed: int
    step: int
    split: str
    temperatures: tuple[float, ...]


@dataclass(frozen=True)
class Stages:
    """Runs a plan.

    Args:
        scratch: for run directories, which are removed when they are measured, and for the chosen models.
        command: runs `bonrl`; a parameter for tests.
        extra: overrides of every run for this machine, such as `sampler.gpus`.
    """

    plan: Plan
    store: Store
    scratch: Path
    command: Callable[..., None] = bonrl
    extra: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what would fail after hours, or would measure another plan.

        Raises:
            ValueError: the plan has an impossible configuration, or `extra` sets a key of the plan.
        """
        plan = self.plan
        sets = [plan.training_keys(*run) for run in plan.runs if run[2] == plan.seeds[0]]
        sets += [plan.evaluation_keys(split, 0) for split in ("validation", "test")]
        check_overrides(plan.config, sets, self.extra)

    def train(self, runs: Iterable[tuple[str, float, int]] | None = None) -> None:
        """Stage 1: every training run that is not measured yet, and the base model on validation.

        Raises:
            ExceptionGroup: of the failures, after all other runs.
        """
        base = Evaluation(BASE, 0.0, 0, 0, "validation", self.plan.temperatures)
        jobs = [partial(self._train, *run) for run in (self.plan.runs if runs is None else runs)]
        self._all([*(partial(self._evaluate, one) for one in self._missing([base])), *jobs])

    def tune(self) -> None:
        """Stage 2: the chosen models on the validation split at every temperature, if there are several."""
        if self.plan.tunes_temperature:
            self._evaluate_all(self._missing(self._chosen_on_validation(self.plan.temperatures)))

    def test(self) -> None:
        """Stage 3: the tuned models, and the base model, on the test split."""
        self._evaluate_all(self._missing(self._test_evaluations()))

    def _test_evaluations(self) -> list[Evaluation]:
        wanted: dict[tuple[str, float, int, int], set[float]] = {}
        tuned = [(BASE, chosen(self.store, self.plan, BASE, k), (0,)) for k in self.plan.ks]
        for name, choice, seeds in [*tuned, *self._choices()]:
            assert choice.temperature is not None, "stage 2 has measured every temperature"
            for seed, step in zip(seeds, choice.steps, strict=True):
                wanted.setdefault((name, choice.rate, seed, step), set()).add(choice.temperature)
        return [Evaluation(*model, "test", tuple(sorted(temps))) for model, temps in wanted.items()]

    def other_temperatures(self, temperatures: tuple[float, ...]) -> None:
        """The chosen models and the base model on the validation split at temperatures that the plan does not have.

        They decide nothing: the page shows them as a description of what lies beyond the plan's temperatures.
        """
        base = Evaluation(BASE, 0.0, 0, 0, "validation", temperatures)
        self._evaluate_all(self._missing({base} | self._chosen_on_validation(temperatures)))

    def base_on_test(self, temperatures: tuple[float, ...]) -> None:
        """The base model on the test split at other temperatures; they decide nothing.

        Raises:
            RuntimeError: the plan's own measurements on the test split are not complete yet.
        """
        if any(self._missing(self._test_evaluations())):
            raise RuntimeError("the plan's models come first on the test split: `run` measures them")
        self._evaluate_all(self._missing([Evaluation(BASE, 0.0, 0, 0, "test", temperatures)]))

    def _chosen_on_validation(self, temperatures: tuple[float, ...]) -> set[Evaluation]:
        return {
            Evaluation(name, choice.rate, seed, step, "validation", temperatures)
            for name, choice, _ in self._choices()
            for seed, step in zip(self.plan.seeds, choice.steps, strict=True)
        }

    def _choices(self) -> list[tuple[str, Choice, tuple[int, ...]]]:
        plan = self.plan
        return [(name, chosen(self.store, plan, name, k), plan.seeds) for name in plan.contenders for k in plan.ks]

    def _evaluate_all(self, evaluations: list[Evaluation]) -> None:
        """Evaluate models; first train the runs again whose models are not in `scratch`, such as on another machine."""
        trained = [one for one in evaluations if one.contender != BASE]
        lost = {
            (one.contender, one.rate, one.seed)
            for one in trained
            if not self._model(one.contender, one.rate, one.seed, one.step).is_dir()
        }
        self._all([partial(self._train_again, *run) for run in sorted(lost)])
        self._all([partial(self._evaluate, one) for one in evaluations])

    def _missing(self, evaluations: Iterable[Evaluation]) -> list[Evaluation]:
        """The evaluations with the temperatures that are not measured yet."""
        found = []
        for one in evaluations:
            model = (one.contender, one.rate, one.seed, one.step)
            left = tuple(t for t in one.temperatures if self.store.get(Key(*model, one.split, t)) is None)
            if left:
                found.append(Evaluation(*model, one.split, left))
        return found

    def _train(self, name: str, rate: float, seed: int) -> None:
        plan, last = self.plan, self.plan.steps
        if self.store.get(Key(name, rate, seed, last, "curve", TRAINING_TEMPERATURE)) is None:
            self._train_again(name, rate, seed)
            print(f"{name}, rate {rate:g}, seed {seed}: trained {plan.steps} steps", flush=True)

    def _train_again(self, name: str, rate: float, seed: int) -> None:
        """One training run; keep the model of the best step for each k, and the counts of every evaluation."""
        plan = self.plan
        directory = self.scratch / "runs" / f"{name}-{rate:g}-seed{seed}"
        shutil.rmtree(directory, ignore_errors=True)  # a run that was interrupted
        place = (f"run.directory={directory.parent}", f"run.name={directory.name}")
        self.command("train", "--config", plan.config, *plan.training_keys(name, rate, seed), *place, *self.extra)
        found = _measured_run(directory, plan)
        best = json.loads((directory / "best.json").read_text(encoding="utf-8"))["step"]
        values = {step: counts.pass_at(plan.selected_k).mean() for step, counts in found.items()}
        if values[best] < max(values.values()) - 1e-9:
            raise RuntimeError(
                f"{directory}: evaluation.keep_best chose step {best}, the counts say otherwise: {values}"
            )
        for step in {best_step(found, k) for k in plan.ks}:
            model = self._model(name, rate, seed, step)
            shutil.rmtree(model, ignore_errors=True)
            shutil.copytree(directory / "checkpoints" / f"step-{step:06d}" / "huggingface", model)
        keys = {step: Key(name, rate, seed, step, "curve", TRAINING_TEMPERATURE) for step in found}
        self.store.add({keys[step]: self._with_first_seconds(keys[step], counts) for step, counts in found.items()})
        shutil.rmtree(directory)

    def _with_first_seconds(self, key: Key, again: Counts) -> Counts:
        """The counts of a run that was trained again, perhaps on another machine, with comparable seconds."""
        before = self.store.get(key)
        return again if before is None else replace(again, seconds=before.seconds)

    def _model(self, name: str, rate: float, seed: int, step: int) -> Path:
        if name == BASE:
            return Path(self.plan.model)
        return self.scratch / "models" / f"{name}-{rate:g}-seed{seed}" / f"step-{step:06d}"

    def _evaluate(self, one: Evaluation) -> None:
        model = self._model(one.contender, one.rate, one.seed, one.step)
        if one.contender != BASE and not model.is_dir():
            raise RuntimeError(
                f"{model} is missing, although its run was trained again: the new run chose another step. Run the same "
                "command again; it chooses from the new measurements"
            )
        output = self.scratch / "evaluations" / f"{one.contender}-{one.rate:g}-{one.seed}-{one.step}-{one.split}"
        shutil.rmtree(output, ignore_errors=True)
        self.command(
            "eval",
            *("--config", self.plan.config, "--checkpoint", str(model), "--output", str(output)),
            *(flag for t in one.temperatures for flag in ("-t", f"{t:g}")),
            *self.plan.evaluation_keys(one.split, one.seed),
            *self.extra,
        )
        found = dict(_read_counts(file) for file in output.glob("groups-temperature-*.parquet"))
        if sorted(found) != sorted(one.temperatures):
            raise RuntimeError(f"{output} has the temperatures {sorted(found)}, wanted {sorted(one.temperatures)}")
        model_key = (one.contender, one.rate, one.seed, one.step)
        self.store.add({Key(*model_key, one.split, t): counts for t, counts in found.items()})
        shutil.rmtree(output)

    def _all(self, jobs: list[Callable[[], None]]) -> None:
        """Do everything, `costs.jobs` at a time."""
        if failures := do_all(jobs, self.plan.costs.jobs):
            raise ExceptionGroup("some runs failed; the same command does the missing ones", failures)


def _measured_run(directory: Path, plan: Plan) -> dict[int, Counts]:
    """The evaluations of a finished training run by step, with the tokens and seconds of training up to there."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    prompts, n = plan.answers_per_step
    lengths, seconds = (np.array([r[m] for r in rows if m in r]) for m in ("response/length_mean", "time/step_s"))
    found = {}
    for step in range(plan.every, plan.steps + 1, plan.every):
        temperature, counts = _read_counts(directory / "groups" / f"evaluation-{step:06d}.parquet")
        assert temperature == TRAINING_TEMPERATURE, "the curve is measured at the training temperature"
        tokens = prompts * n * float(lengths[:step].sum())
        found[step] = Counts(counts.samples, counts.right_P, tokens, float(seconds[:step].sum()))
    return found


def _read_counts(file: Path) -> tuple[float, Counts]:
    """Temperature and right answers of graded groups, in the order of the prompts."""
    table = parquet.read_table(file, columns=["sequence", "temperature", "verdict"]).sort_by("sequence")
    verdicts = table["verdict"].to_pylist()
    sizes = {len(row) for row in verdicts}
    if len(sizes) != 1:
        raise RuntimeError(f"{file}: groups of {sorted(sizes)} samples; all must have the same number")
    right_P = np.array([row.count("correct") for row in verdicts])
    return round(float(table["temperature"][0].as_py()), 3), Counts(sizes.pop(), right_P)
