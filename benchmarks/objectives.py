"""What each objective buys and costs: a grid of real training runs, unattended, which goes on where it stopped.

    python -m benchmarks.objectives run DIRECTORY        # tune, then train every objective with every seed
    python -m benchmarks.objectives report DIRECTORY docs/evidence    # tables and plots of what is there

Countdown and the shipped base model on the main job's stack. All objectives get the same numbers of prompts, samples
and steps; the learning rate of each is chosen on the validation split, by the metric that the objective is for, from
the same candidates with the same budget. Results are on the test split, which nothing here was tuned on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

RATES = (3e-5, 7e-5, 1.5e-4)
SEEDS = (0, 1, 2)
TUNING_SEED = 100
RUN_LIMIT_S = 3600
KS = (1, 2, 4, 8, 16, 32, 64)

COMMON = (
    "run.steps=100",
    "rollout.prompts_per_step=16",
    "rollout.n=16",
    "evaluation.every=0",
    "evaluation.at_start=false",
    "checkpoint.every=0",
    "wandb.mode=disabled",
)
TUNING = ("evaluation.split=validation", "evaluation.prompts=256", "evaluation.n=64")
FINAL = ("evaluation.split=test", "evaluation.prompts=256", "evaluation.n=128")


@dataclass(frozen=True)
class Contender:
    """One objective of the comparison: its configuration, and the pass@k by which its learning rate is chosen."""

    title: str
    overrides: tuple[str, ...]
    tuned_for: dict[int, float] = field(default_factory=lambda: {1: 1.0})  # weight by k


def _pass_at_k(k: int, estimator: str) -> Contender:
    overrides = ("objective.strategy=pass_at_k", f"objective.k={k}", f"objective.estimator={estimator}")
    return Contender(f"pass@{k} ({estimator})", overrides, {k: 1.0})


CONTENDERS = {
    "mean": Contender("mean reward", ("objective.strategy=mean", "objective.k=1")),
    "grpo": Contender("GRPO", ("objective.strategy=mean", "objective.k=1", "objective.estimator=grpo")),
    "pass8-loo": _pass_at_k(8, "loo"),
    "pass4-loo": _pass_at_k(4, "loo"),
    "pass4-loo1": _pass_at_k(4, "loo1"),
    "pass8-loo1": _pass_at_k(8, "loo1"),
    "pass16-loo1": _pass_at_k(16, "loo1"),
    "rlb-p": Contender("BoN-RLB(P), k = 8", ("objective.k=8", "objective.estimator=bon_rlb_p"), {8: 1.0}),
    "mixture": Contender(
        "0.3 mean + 0.7 pass@8",
        ("objective.k=8", "objective.weight=0.7", "objective.mixture=[{strategy: mean, k: 1, weight: 0.3}]"),
        {1: 0.3, 8: 0.7},
    ),
    "annealed": Contender("k from 8 to 1", ("objective.k=8", "schedule.k={shape: linear, end: 1, over: 80}")),
}


def train(directory: Path, contender: Contender, rate: float, seed: int, evaluation: tuple[str, ...]) -> np.ndarray:
    """One run, unless its result is there already; which samples of each evaluation prompt were right, bool [P, n]."""
    result = directory / "result.npz"
    if not result.is_file():
        shutil.rmtree(directory, ignore_errors=True)  # what is there was cut off
        command = [sys.executable, "-m", "cluster.cli", "train", "--config", "cluster/local.yaml", *COMMON]
        command += [*contender.overrides, *evaluation, f"learner.learning_rate={rate}", f"run.seed={seed}"]
        command += [f"run.directory={directory.parent}", f"run.name={directory.name}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=RUN_LIMIT_S)
        (groups,) = (directory / "groups").glob("evaluation-*.parquet")
        _keep(result, groups)
        for part in ("groups", "checkpoints"):  # gigabytes over the grid; metrics.jsonl and the result stay
            shutil.rmtree(directory / part)
    return np.load(result)["correct"]


def evaluate_base(directory: Path) -> np.ndarray:
    """The base model on the final evaluation, with the same random numbers as every run."""
    result = directory / "result.npz"
    if not result.is_file():
        shutil.rmtree(directory, ignore_errors=True)
        command = [sys.executable, "-m", "cluster.cli", "eval", "--config", "cluster/local.yaml"]
        command += ["--checkpoint", "models/countdown-base", "--output", str(directory), *FINAL]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=RUN_LIMIT_S)
        (groups,) = directory.glob("*.parquet")
        _keep(result, groups)
        groups.unlink()
    return np.load(result)["correct"]


def _keep(result: Path, groups: Path) -> None:
    """Right answers of each prompt, in the order of the prompts."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(groups, columns=["sequence", "verdict"]).sort_by("sequence")
    verdicts = table["verdict"].to_pylist()
    np.savez(result, correct=np.array([[v == "correct" for v in group] for group in verdicts]))


def value(correct_PN: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of each prompt, float64 [P]."""
    from learner import strategy_value

    return np.asarray(strategy_value(correct_PN.astype(float), strategy="pass_at_k", k=k))


def tuned_rate(root: Path, name: str) -> float:
    """The learning rate with the best validation value of what the contender is for."""
    contender, scores = CONTENDERS[name], {}
    for rate in RATES:
        correct = train(root / f"tune-{name}-{rate:g}", contender, rate, TUNING_SEED, TUNING)
        scores[rate] = sum(weight * value(correct, k).mean() for k, weight in contender.tuned_for.items())
        print(f"tuning {name}: learning rate {rate:g} gives {scores[rate]:.4f}", flush=True)
    (root / f"tuning-{name}.json").write_text(json.dumps({f"{r:g}": s for r, s in scores.items()}))
    return max(scores, key=scores.__getitem__)


def run(root: Path, names: list[str]) -> None:
    """Everything that is not there yet: the base, then each objective's tuning and seeds."""
    root.mkdir(parents=True, exist_ok=True)
    evaluate_base(root / "base")
    for name in names:
        rate = tuned_rate(root, name)
        for seed in SEEDS:
            correct = train(root / f"{name}-seed{seed}", CONTENDERS[name], rate, seed, FINAL)
            curve = " ".join(f"{value(correct, k).mean():.3f}" for k in KS)
            print(f"{name}, learning rate {rate:g}, seed {seed}: pass@{KS} = {curve}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("directory", type=Path, help="where runs and results lie")
    parser.add_argument("page", type=Path, nargs="?", default=Path("docs/evidence"), help="report: the folder to write")
    parser.add_argument("--only", nargs="*", choices=list(CONTENDERS), help="these objectives")
    options = parser.parse_args()
    names = options.only or list(CONTENDERS)
    if options.command == "run":
        run(options.directory.resolve(), names)
    else:
        from benchmarks.objectives_report import write_report

        write_report(options.directory, options.page, names)


if __name__ == "__main__":
    main()
