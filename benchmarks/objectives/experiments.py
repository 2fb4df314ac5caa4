"""What is compared: contenders, the grids that train them, and the pages that show them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

KS = (1, 2, 4, 8, 16, 32, 64)
RATES = (3e-5, 7e-5)
SEEDS = (0, 1, 2)
TUNING_SEED = 100

COMMON = (
    "run.steps=100",
    "rollout.prompts_per_step=16",
    "rollout.n=16",
    # One core a run: two runs beside each other use two cores better than one run on both.
    "sampler.threads=1",
    "learner.threads=1",
    "evaluation.every=0",
    "evaluation.at_start=false",
    "checkpoint.every=0",
    "wandb.mode=disabled",
)
TUNING = ("evaluation.split=validation", "evaluation.prompts=256", "evaluation.n=64")
FINAL = ("evaluation.split=test", "evaluation.prompts=256", "evaluation.n=128")


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Args:
        title: as the page calls it.
        overrides: its configuration.
        tuned_for: weight of the value at each k by which its learning rate is chosen.
        strategy: the value by which it is chosen; None: that of the experiment.
        rate: the learning rate, where it is not tuned.
    """

    title: str
    overrides: tuple[str, ...]
    tuned_for: dict[int, float] = field(default_factory=lambda: {1: 1.0})
    strategy: str | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Grid:
    """Contenders that are trained and evaluated under the same conditions; their results lie in one file."""

    contenders: dict[str, Contender]
    overrides: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ("pass_at_k",)  # whose values are kept
    learned: bool = False  # whether a learned verifier scores


@dataclass(frozen=True)
class Experiment:
    """A page: some contenders of a grid, compared in one strategy's value."""

    grid: str
    strategy: str  # `pass_at_k`, or `best_of_k` by the verifier's score
    references: tuple[str, ...]  # the contenders that the others are compared with, beside the base
    names: tuple[str, ...]
    about: str  # what the page compares, in a sentence or two


def _pass_at_k(k: int, estimator: str, rate: float | None = None) -> Contender:
    overrides = ("objective.strategy=pass_at_k", f"objective.k={k}", f"objective.estimator={estimator}")
    return Contender(f"pass@{k} ({estimator})", overrides, {k: 1.0}, "pass_at_k", rate)


MEAN = Contender("mean reward", ("objective.strategy=mean", "objective.k=1"))
BEST_OF_8 = Contender("Best-of-8 with that verifier", ("objective.strategy=best_of_k", "objective.k=8"), {8: 1.0},
                      "best_of_k")  # fmt: skip

OBJECTIVES = {
    "mean": MEAN,
    "pass8-loo": _pass_at_k(8, "loo"),
    "grpo": Contender("GRPO", ("objective.strategy=mean", "objective.k=1", "objective.estimator=grpo")),
    "pass4-loo": _pass_at_k(4, "loo"),
    "pass16-loo1": _pass_at_k(16, "loo1"),
    "rlb-p": Contender("BoN-RLB(P), k = 8", ("objective.k=8", "objective.estimator=bon_rlb_p"), {8: 1.0}, "pass_at_k"),
    "mixture": Contender(
        "0.3 mean + 0.7 pass@8",
        ("objective.k=8", "objective.weight=0.7", "objective.mixture=[{strategy: mean, k: 1, weight: 0.3}]"),
        {1: 0.3, 8: 0.7},
        "pass_at_k",
    ),
    "annealed": Contender("k from 8 to 1", ("objective.k=8", "schedule.k={shape: linear, end: 1, over: 80}")),
    "pass8-loo1": _pass_at_k(8, "loo1"),
    "pass4-loo1": _pass_at_k(4, "loo1"),
    # Is it the objective, or the larger learning rate that suits the mean?
    "mean-slow": replace(MEAN, title="mean reward, pass@8's rate", rate=3e-5),
}
SYNTHETIC = ("task.scorer.kind=synthetic", "task.scorer.false_positive=0.1", "task.scorer.false_negative=0.05")
VERIFIER = {"best8": BEST_OF_8, "pass8": _pass_at_k(8, "loo"), "mean": MEAN}
# Tuning chose 7e-05 for it and 3e-05 for pass@8: is it the objective, or the rate?
SLOW_BEST_OF_8 = replace(BEST_OF_8, title="Best-of-8 with that verifier, pass@8's rate", rate=3e-5)
IMITATION = {
    "sft": Contender("SFT", ("objective.imitation=sft",), {8: 1.0}),
    "bon-sft": Contender("BoN-SFT, N = 8", ("objective.imitation=bon_sft", "objective.k=8"), {8: 1.0}),
}
PASS8 = ("objective.strategy=pass_at_k", "objective.k=8")
STALENESS = {
    "synchronous": Contender("staleness 0", PASS8, rate=7e-5),
    "keep": Contender("staleness 1, in-flight keep", (*PASS8, "queue.staleness=1"), rate=7e-5),
    "finish": Contender(
        "staleness 1, in-flight finish", (*PASS8, "queue.staleness=1", "sampler.in_flight=finish"), rate=7e-5
    ),
}
BOTH = ("pass_at_k", "best_of_k")

# The verifier of the experiment `synthetic` scores in the runs of `objectives` too: scores do not touch the training of
# who does not use them, and so one run serves both pages.
GRIDS = {
    "objectives": Grid({**OBJECTIVES, "best8": BEST_OF_8}, SYNTHETIC, BOTH),
    "learned": Grid(VERIFIER, ("task.scorer.kind=learned",), BOTH, learned=True),
    "lenient": Grid({**VERIFIER, "best8-slow": SLOW_BEST_OF_8}, ("task.scorer.kind=lenient",), BOTH),
    "imitation": Grid(IMITATION),
    "staleness": Grid(STALENESS),
}
EXPERIMENTS = {
    "objectives": Experiment(
        "objectives",
        "pass_at_k",
        ("mean", "mean-slow", "pass8-loo"),
        tuple(OBJECTIVES),
        "What each objective buys at k answers, and what it costs. The synthetic verifier among the settings touches "
        "none of these trainings: its scores are kept for the page `synthetic`, which shares the runs. `mean reward, "
        "pass@8's rate` is a control, added after tuning had chosen the larger rate for the mean.",
    ),
    "synthetic": Experiment(
        "objectives",
        "best_of_k",
        ("pass8-loo",),
        ("best8", "pass8-loo", "mean"),
        "The verifier errs at random: it accepts 10 % of the wrong answers and refuses 5 % of the right ones, drawn "
        "once for each different answer. Training knows the truth (the reward); deployment selects by the verifier.",
    ),
    "learned": Experiment(
        "learned",
        "best_of_k",
        ("pass8",),
        tuple(VERIFIER),
        "The verifier is a classifier that `bonrl train-verifier` learned from 32,768 labelled answers of the base "
        "model to training prompts. Training knows the truth (the reward); deployment selects by the verifier.",
    ),
    "lenient": Experiment(
        "lenient",
        "best_of_k",
        ("pass8",),
        (*VERIFIER, "best8-slow"),
        "The verifier is taken in by a kind of wrong answer: it accepts every value within 1 of the target. Training "
        "knows the truth (the reward); deployment selects by the verifier. `Best-of-8 with that verifier, pass@8's "
        "rate` is a control that was added after tuning had chosen the larger rate for Best-of-8.",
    ),
    "imitation": Experiment(
        "imitation",
        "pass_at_k",
        ("sft",),
        tuple(IMITATION),
        "Imitation of the same expert solutions, plain and through the Best-of-8 policy.",
    ),
    "staleness": Experiment(
        "staleness",
        "pass_at_k",
        ("synchronous",),
        tuple(STALENESS),
        "Sampling in step with learning, and one step ahead of it; with weights that arrive in the middle of a sample "
        "(`keep`) or after it (`finish`).",
    ),
}
