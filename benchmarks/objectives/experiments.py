"""The contenders, the grids that train them, and the pages that show them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from benchmarks.planned.plan import Contrast

KS = (1, 2, 4, 8, 16, 32, 64)
RATES = (3e-5, 7e-5)
SEEDS = (0, 1, 2)
TUNING_SEED = 100

COMMON = (
    "run.steps=100",
    "rollout.prompts_per_step=16",
    "rollout.n=16",
    # One core for each run: two runs at a time use two cores better than one run on both.
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
        title: its name on the page.
        overrides: its configuration.
        tuned_for: weights of the values at each k by which its learning rate is chosen.
        strategy: whose values these are; None: the strategy of the experiment.
        rate: the learning rate, if it is not tuned.
    """

    title: str
    overrides: tuple[str, ...]
    tuned_for: dict[int, float] = field(default_factory=lambda: {1: 1.0})
    strategy: str | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Grid:
    """Contenders that are trained and evaluated under the same conditions; their results are in one file."""

    contenders: dict[str, Contender]
    overrides: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ("pass_at_k",)  # whose values are stored
    learned: bool = False  # a learned verifier gives the scores
    rates: tuple[float, ...] = RATES
    seeds: tuple[int, ...] = SEEDS


@dataclass(frozen=True)
class Experiment:
    """A page: some contenders of a grid, compared in one strategy's value."""

    grid: str
    strategy: str  # `pass_at_k`, or `best_of_k` by the verifier's score
    references: tuple[str, ...]  # contenders that the others are compared with, besides the base model
    names: tuple[str, ...]
    about: str  # what the page compares
    primary: tuple[Contrast, ...] = ()  # of its value, named before the test split is used


def _pass_at_k(k: int, estimator: str) -> Contender:
    overrides = ("objective.strategy=pass_at_k", f"objective.k={k}", f"objective.estimator={estimator}")
    return Contender(f"pass@{k} ({estimator})", overrides, {k: 1.0}, "pass_at_k")


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
    # Control: the mean at the learning rate of pass@8.
    "mean-slow": replace(MEAN, title="mean reward, pass@8's rate", rate=3e-5),
}
SYNTHETIC = ("task.scorer.kind=synthetic", "task.scorer.false_positive=0.1", "task.scorer.false_negative=0.05")
VERIFIER = {"best8": BEST_OF_8, "pass8": _pass_at_k(8, "loo"), "mean": MEAN}
# Control: tuning chose 7e-05 for it and 3e-05 for pass@8.
SLOW_BEST_OF_8 = replace(BEST_OF_8, title="Best-of-8 with that verifier, pass@8's rate", rate=3e-5)
IMITATION = {
    "sft": Contender("SFT", ("objective.imitation=sft",), {8: 1.0}),
    "bon-sft": Contender("BoN-SFT, N = 8", ("objective.imitation=bon_sft", "objective.k=8"), {8: 1.0}),
}
IMITATED = ("objective.strategy=best_of_k", "objective.k=8")  # strategy and k: of the reported value only
BON_SFT = (*IMITATED, "objective.imitation=bon_sft")
IMITATION_BY_VERIFIER = {
    "sft": Contender("SFT", (*IMITATED, "objective.imitation=sft"), {8: 1.0}),
    "exact": Contender("BoN-SFT, exact", (*BON_SFT, "objective.bon_sft_form=exact"), {8: 1.0}),
    "variational": Contender("BoN-SFT, variational", (*BON_SFT, "objective.bon_sft_form=variational"), {8: 1.0}),
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

# The runs of `objectives` also record the scores of the synthetic verifier. Objectives that do not use scores are not
# affected by them, so the same runs serve the page `synthetic`.
GRIDS = {
    "objectives": Grid({**OBJECTIVES, "best8": BEST_OF_8}, SYNTHETIC, BOTH),
    "learned": Grid(VERIFIER, ("task.scorer.kind=learned",), BOTH, learned=True),
    "lenient": Grid({**VERIFIER, "best8-slow": SLOW_BEST_OF_8}, ("task.scorer.kind=lenient",), BOTH),
    "imitation": Grid(IMITATION),
    "imitation-learned": Grid(
        IMITATION_BY_VERIFIER,
        ("task.scorer.kind=learned",),
        BOTH,
        learned=True,
        rates=(1.5e-5, 3e-5, 7e-5, 1.5e-4),
        seeds=(0, 1, 2, 3, 4, 5),
    ),
    "staleness": Grid(STALENESS),
}
EXPERIMENTS = {
    "objectives": Experiment(
        "objectives",
        "pass_at_k",
        ("mean", "mean-slow", "pass8-loo"),
        tuple(OBJECTIVES),
        "What each objective gains and costs at k answers. The synthetic verifier in the settings affects none of "
        "these runs: its scores are recorded for the page `synthetic`, which uses the same runs. `mean reward, "
        "pass@8's rate` is a control that was added after the test results of the others were known. No run was "
        "stopped early ([measurements](../README.md)).",
    ),
    "synthetic": Experiment(
        "objectives",
        "best_of_k",
        ("pass8-loo",),
        ("best8", "pass8-loo", "mean"),
        "The verifier errs at random: it accepts 10 % of the wrong answers and rejects 5 % of the right ones, drawn "
        "once for each different answer. Training uses the true reward; deployment selects by the verifier.",
    ),
    "learned": Experiment(
        "learned",
        "best_of_k",
        ("pass8",),
        tuple(VERIFIER),
        "The verifier is a classifier that `bonrl train-verifier` trained on 32,768 labeled answers of the base model "
        "to training prompts. Training uses the true reward; deployment selects by the verifier. The runs of pass@8 "
        "and of the mean, and the samples of the base model, are those of the page `objectives`, with other scores. "
        "The learning rate of pass@8 was first chosen by Best-of-8 with the verifier, 7e-05; this was changed after "
        "the test results were known ([measurements](../README.md)).",
    ),
    "lenient": Experiment(
        "lenient",
        "best_of_k",
        ("pass8",),
        (*VERIFIER, "best8-slow"),
        "The verifier has a systematic error: it accepts every value within 1 of the target. Training uses the true "
        "reward; deployment selects by the verifier. `Best-of-8 with that verifier, pass@8's rate` is a control that "
        "was added after the test results of the others were known. The runs of pass@8 and of the mean, and the "
        "samples of the base model, are those of the page `objectives`, with other scores.",
    ),
    "imitation": Experiment(
        "imitation",
        "pass_at_k",
        ("sft",),
        tuple(IMITATION),
        "Imitation of the same expert solutions by SFT and by BoN-SFT. BoN-SFT is the closed form for scores of 0 and "
        "1 here, not the variational form of arXiv 2412.15287 with a verifier of continuous scores.",
    ),
    "imitation-learned": Experiment(
        "imitation-learned",
        "best_of_k",
        ("sft",),
        tuple(IMITATION_BY_VERIFIER),
        "Imitation of the same expert solutions by SFT and by BoN-SFT with N = 8. The verifier of BoN-SFT gives "
        "continuous scores: it is a classifier that `bonrl train-verifier` trained on 32,768 labeled answers of the "
        "base model to training prompts. `exact` imitates through Best-of-N itself, `variational` through the tilted "
        "policy of arXiv 2412.15287. Deployment selects by the same verifier.",
        primary=(
            Contrast(contender="variational", against="sft", k=8),
            Contrast(contender="exact", against="sft", k=8),
            Contrast(contender="variational", against="exact", k=8),
        ),
    ),
    "staleness": Experiment(
        "staleness",
        "pass_at_k",
        ("synchronous",),
        tuple(STALENESS),
        "Sampling in step with learning, and one step ahead of it, with weight updates in the middle of a sample "
        "(`keep`) or after it (`finish`). With the same seed the last two are the same run for the first 6, 75 and all "
        "100 steps of the three seeds, so this page says little about `keep` against `finish`.",
    ),
}
