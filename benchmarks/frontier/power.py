"""What a plan can detect: coverage of its intervals and power of its tests, by simulation from the measured spread."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.frontier.choice import TRAINING_TEMPERATURE, chosen, measured
from benchmarks.frontier.counts import BASE, Store
from benchmarks.frontier.plan import Plan
from benchmarks.planned.contrasts import LEVEL
from benchmarks.planned.plan import Contrast
from learner.metrics import paired_difference_of_runs, paired_p_value

EFFECTS = (0.01, 0.02, 0.03, 0.04, 0.06)
EXPERIMENTS = 2000


class Spread(NamedTuple):
    """Standard deviations of a paired difference: between runs, between prompts, and the rest of one cell."""

    run: float
    prompt: float
    rest: float


def power_table(store: Store, plan: Plan) -> str:
    """Coverage and power of each primary contrast with the seeds and test prompts of the plan.

    The spread is that of the chosen models on validation at the training temperature. The rest of a cell contains the
    noise of `validation.n` samples, so a test with more samples per prompt has a little more power.

    Raises:
        Missing: a training run has not finished.
    """
    lines = [
        f"{len(plan.seeds)} seeds, {plan.test.prompts} test prompts, {EXPERIMENTS} simulated experiments of each "
        "difference.",
        f"Power at the level {LEVEL:g}, and at {_strictest(plan):.3g}, the strictest level of Holm's method:",
    ]
    return "\n".join([*lines, *(power_of(store, plan, contrast) for contrast in plan.primary)])


def power_of(store: Store, plan: Plan, contrast: Contrast) -> str:
    """The lines of one contrast."""
    size = len(plan.seeds), plan.test.prompts
    spread = components(_difference(store, plan, contrast))
    no_effect = simulate(spread, 0.0, *size)
    lines = [
        f"{contrast.contender} minus {contrast.against}, pass@{contrast.k}: standard deviation between runs "
        f"{spread.run:.3f}, between prompts {spread.prompt:.3f}, rest {spread.rest:.3f}; standard error "
        f"{no_effect.error:.4f}; 95 % intervals cover the truth in {100 * no_effect.covered:.1f} %"
    ]
    for effect in EFFECTS:
        p_values = simulate(spread, effect, *size).p_values
        loose, strict = (np.mean(p_values < level) for level in (LEVEL, _strictest(plan)))
        lines.append(f"  difference {effect:.2f}: power {loose:.2f}, {strict:.2f}")
    return "\n".join(lines)


def _strictest(plan: Plan) -> float:
    return LEVEL / len(plan.primary)


def components(difference_SP: np.ndarray) -> Spread:
    """Spread of paired differences [runs, prompts] by the analysis of variance of a crossed design; negatives are 0."""
    S, P = difference_SP.shape
    runs_S1, prompts_P = difference_SP.mean(axis=1, keepdims=True), difference_SP.mean(axis=0)
    rest_SP = difference_SP - runs_S1 - prompts_P + difference_SP.mean()
    rest = float((rest_SP**2).sum()) / ((S - 1) * (P - 1))
    run = float(runs_S1.var(ddof=1)) - rest / P
    prompt = float(prompts_P.var(ddof=1)) - rest / S
    return Spread(*(max(0.0, variance) ** 0.5 for variance in (run, prompt, rest)))


class Simulated(NamedTuple):
    """covered: share of the intervals that contain the true difference. error: standard deviation of the estimates."""

    covered: float
    error: float
    p_values: np.ndarray


def simulate(
    spread: Spread, effect: float, seeds: int, prompts: int, *, experiments: int = EXPERIMENTS, seed: int = 0
) -> Simulated:
    """Experiments with normal effects of run, prompt and cell around the true difference `effect`."""
    random = np.random.default_rng(seed)
    inside, estimates, p_values = [], [], []
    for _ in range(experiments):
        shifts = (random.normal(0.0, spread.run, (seeds, 1)), random.normal(0.0, spread.prompt, prompts))
        after_SP = effect + shifts[0] + shifts[1] + random.normal(0.0, spread.rest, (seeds, prompts))
        before_SP = np.zeros_like(after_SP)
        found = paired_difference_of_runs(before_SP, after_SP)
        inside.append(found.low <= effect <= found.high)
        estimates.append(found.value)
        p_values.append(paired_p_value(before_SP, after_SP))
    return Simulated(float(np.mean(inside)), float(np.std(estimates)), np.array(p_values))


def _difference(store: Store, plan: Plan, contrast: Contrast) -> np.ndarray:
    against, contender = (_validation(store, plan, name, contrast.k) for name in (contrast.against, contrast.contender))
    return contender - against


def _validation(store: Store, plan: Plan, name: str, k: int) -> np.ndarray:
    """pass@k of the models tuned for k on validation prompts, float64[S, P]; S = 1 for the base model."""
    split = "validation" if name == BASE else "curve"
    found = measured(store, plan, name, chosen(store, plan, name, k), split, TRAINING_TEMPERATURE)
    return np.stack([counts.pass_at(k) for counts in found])
