"""What each objective buys and costs: a grid of real training runs, unattended, which goes on where it stopped.

    python -m benchmarks.objectives run DIRECTORY        # tune, then train every objective with every seed
    python -m benchmarks.objectives report DIRECTORY docs/evidence    # tables and plots of what is there

Countdown and the shipped base model on the main job's stack. All contenders of an experiment get the same numbers of
prompts, samples and steps; the learning rate of each is chosen on the validation split, by the metric that it is for,
from the same candidates with the same budget. Results are on the test split, which nothing here was tuned on.

    objectives  ordinary RL, pass@k, the paper's and other methods, in pass@k
    learned     a learned verifier selects (trained here on samples of the base model, then frozen): Best-of-k trained
                with it, pass@k, mean; in Best-of-k with that verifier
    synthetic   the same with a verifier that accepts 10 % of the wrong answers and rejects 5 % of the right ones
    lenient     the same with a verifier that accepts values next to the target
    imitation   BoN-SFT and SFT from the same demonstrations, in pass@k
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
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
    """One side of a comparison: its configuration, and the ks by whose value its learning rate is chosen."""

    title: str
    overrides: tuple[str, ...]
    tuned_for: dict[int, float] = field(default_factory=lambda: {1: 1.0})  # weight by k


@dataclass(frozen=True)
class Experiment:
    """Contenders that are compared with each other, in one strategy's value."""

    strategy: str  # `pass_at_k`, or `best_of_k` by the verifier's score
    contenders: dict[str, Contender]
    reference: str  # the contender that the others are compared with, beside the base
    overrides: tuple[str, ...] = ()
    learned: bool = False  # whether a learned verifier scores


@dataclass(frozen=True)
class Result:
    """Graded samples of the evaluation prompts: bool and float64, [P, n]."""

    correct: np.ndarray
    score: np.ndarray

    def value(self, strategy: str, k: int) -> np.ndarray:
        """The strategy's unbiased value of each prompt, float64 [P]."""
        from learner import strategy_value

        return np.asarray(strategy_value(self.correct.astype(float), scores=self.score, strategy=strategy, k=k))


def _pass_at_k(k: int, estimator: str) -> Contender:
    overrides = ("objective.strategy=pass_at_k", f"objective.k={k}", f"objective.estimator={estimator}")
    return Contender(f"pass@{k} ({estimator})", overrides, {k: 1.0})


MEAN = Contender("mean reward", ("objective.strategy=mean", "objective.k=1"))

OBJECTIVES = {
    "mean": MEAN,
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


BEST_OF_K = ("evaluation.strategies=[best_of_k]",)
LEARNED = (*BEST_OF_K, "task.scorer.kind=learned")
SYNTHETIC = (
    *BEST_OF_K,
    "task.scorer.kind=synthetic",
    "task.scorer.false_positive=0.1",
    "task.scorer.false_negative=0.05",
)
LENIENT = (*BEST_OF_K, "task.scorer.kind=lenient")

VERIFIER = {
    "best8": Contender("Best-of-8 with that verifier", ("objective.strategy=best_of_k", "objective.k=8"), {8: 1.0}),
    "pass8": Contender("pass@8", ("objective.strategy=pass_at_k", "objective.k=8"), {8: 1.0}),
    "mean": MEAN,
}

IMITATION = {
    "sft": Contender("SFT", ("objective.imitation=sft",), {8: 1.0}),
    "bon-sft": Contender("BoN-SFT, N = 8", ("objective.imitation=bon_sft", "objective.k=8"), {8: 1.0}),
}

EXPERIMENTS = {
    "objectives": Experiment("pass_at_k", OBJECTIVES, "mean"),
    "learned": Experiment("best_of_k", VERIFIER, "pass8", LEARNED, learned=True),
    "synthetic": Experiment("best_of_k", VERIFIER, "pass8", SYNTHETIC),
    "lenient": Experiment("best_of_k", VERIFIER, "pass8", LENIENT),
    "imitation": Experiment("pass_at_k", IMITATION, "sft"),
}


def train(
    directory: Path, experiment: Experiment, contender: Contender, rate: float, seed: int, evaluation: tuple[str, ...]
) -> Result:
    """One run and its result, unless that is there already."""
    if not (directory / "result.npz").is_file():
        shutil.rmtree(directory, ignore_errors=True)  # what is there was cut off
        command = [sys.executable, "-m", "cluster.cli", "train", "--config", "cluster/local.yaml", *COMMON]
        command += [*experiment.overrides, *contender.overrides, *evaluation]
        command += [f"learner.learning_rate={rate}", f"run.seed={seed}"]
        command += [f"run.directory={directory.parent}", f"run.name={directory.name}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=RUN_LIMIT_S)
        (groups,) = (directory / "groups").glob("evaluation-*.parquet")
        _keep(directory, groups)
        for part in ("groups", "checkpoints"):  # gigabytes over the grid; metrics.jsonl and the result stay
            shutil.rmtree(directory / part)
    return load(directory)


def evaluate_base(directory: Path, experiment: Experiment) -> Result:
    """The base model on the final evaluation."""
    if not (directory / "result.npz").is_file():
        shutil.rmtree(directory, ignore_errors=True)
        command = [sys.executable, "-m", "cluster.cli", "eval", "--config", "cluster/local.yaml"]
        command += ["--checkpoint", "models/countdown-base", "--output", str(directory), *FINAL, *experiment.overrides]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=RUN_LIMIT_S)
        (groups,) = directory.glob("*.parquet")
        _keep(directory, groups)
        groups.unlink()
    return load(directory)


def _keep(directory: Path, groups: Path) -> None:
    """What the report needs of each prompt's samples, in the order of the prompts."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(groups, columns=["sequence", "verdict", "score"]).sort_by("sequence")
    correct = np.array([[v == "correct" for v in verdicts] for verdicts in table["verdict"].to_pylist()])
    np.savez(directory / "result.npz", correct=correct, score=np.array(table["score"].to_pylist()))


def load(directory: Path) -> Result:
    """The result of a finished run."""
    arrays = np.load(directory / "result.npz")
    return Result(arrays["correct"], arrays["score"])


def tuned_rate(root: Path, experiment: Experiment, name: str) -> float:
    """The learning rate with the best validation value of what the contender is for."""
    contender, scores = experiment.contenders[name], {}
    for rate in RATES:
        result = train(root / f"tune-{name}-{rate:g}", experiment, contender, rate, TUNING_SEED, TUNING)
        parts = [weight * result.value(experiment.strategy, k).mean() for k, weight in contender.tuned_for.items()]
        scores[rate] = float(sum(parts))
        print(f"tuning {name}: learning rate {rate:g} gives {scores[rate]:.4f}", flush=True)
    (root / f"tuning-{name}.json").write_text(json.dumps({f"{r:g}": s for r, s in scores.items()}))
    return max(scores, key=scores.__getitem__)


def make_verifier(directory: Path) -> None:
    """A verifier from samples of the base model on training prompts, unless it is there already."""
    if directory.is_dir():
        return
    samples = directory.with_name("samples")
    shutil.rmtree(samples, ignore_errors=True)
    wanted = ("evaluation.split=train", "evaluation.prompts=2048", "evaluation.n=16")
    for command in (
        ["eval", "--checkpoint", "models/countdown-base", "--output", str(samples), *wanted],
        ["train-verifier", "--samples", str(samples), "--output", str(directory)],
    ):
        subprocess.run([sys.executable, "-m", "cluster.cli", *command], check=True, timeout=RUN_LIMIT_S)
    shutil.rmtree(samples)


def run(root: Path, experiment: Experiment, names: list[str]) -> None:
    """Everything that is not there yet: the base, then each contender's tuning and seeds."""
    root.mkdir(parents=True, exist_ok=True)
    if experiment.learned:
        make_verifier(root / "verifier")
        experiment = replace(experiment, overrides=(*experiment.overrides, f"task.scorer.path={root / 'verifier'}"))
    evaluate_base(root / "base", experiment)
    for name in names:
        rate = tuned_rate(root, experiment, name)
        for seed in SEEDS:
            result = train(root / f"{name}-seed{seed}", experiment, experiment.contenders[name], rate, seed, FINAL)
            curve = " ".join(f"{result.value(experiment.strategy, k).mean():.3f}" for k in KS)
            print(f"{name}, learning rate {rate:g}, seed {seed}: {experiment.strategy}, k = {KS}: {curve}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("directory", type=Path, help="where runs and results lie")
    parser.add_argument("page", type=Path, nargs="?", default=Path("docs/evidence"), help="report: the folder to write")
    parser.add_argument("--experiment", choices=list(EXPERIMENTS), default="objectives")
    parser.add_argument("--only", nargs="*", help="these contenders")
    options = parser.parse_args()
    experiment = EXPERIMENTS[options.experiment]
    names = options.only or list(experiment.contenders)
    if unknown := set(names) - set(experiment.contenders):
        parser.error(f"--only {' '.join(unknown)}: choose from {', '.join(experiment.contenders)}")
    root = options.directory.resolve() / options.experiment
    if options.command == "run":
        run(root, experiment, names)
    else:
        from benchmarks.objectives_report import write_report

        write_report(root, options.page / options.experiment, experiment, names)


if __name__ == "__main__":
    main()
