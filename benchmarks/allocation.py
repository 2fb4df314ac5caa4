"""What `rollout.allocation` gains at equal sampled answers, on simulated prompts: `python -m benchmarks.allocation`.

Each of 64 prompts is a Bernoulli policy with a logit of its own; the first success probabilities are Beta(0.5, 1.5). A
step samples 16 prompts, 16 answers each on average. Printed, with 95 % intervals over 12 seeds, for 48 steps: the mean
squared error of the gradient from the fifth step on (when every prompt has been seen once without candidates), relative
to equal groups in stream order, and the objective's value at the end minus that with equal groups. The error is the
squared distance to the exact gradient of the mean over all 64 prompts.
"""

from __future__ import annotations

import numpy as np

from actors.queue.allocation import Allocation, Outcome
from actors.queue.allocation_settings import AllocationSettings
from actors.queue.prompt_stream import PromptStream
from learner.metrics import student_t_interval
from learner.objective import GradedGroups, Objective
from learner.objective_settings import ObjectiveSettings
from learner.schedule import ScheduleSettings

SIZE, PROMPTS, N, STEPS, SEEDS = 64, 16, 16, 48, 12

EQUAL = AllocationSettings(min_n=N, max_n=N)
KINDS = {
    "sizes": AllocationSettings(),
    "1 of 2 prompts": AllocationSettings(candidates=2, min_n=N, max_n=N),
    "1 of 4 prompts": AllocationSettings(candidates=4, min_n=N, max_n=N),
    "1 of 2 prompts, sizes": AllocationSettings(candidates=2),
}


def simulate(seed: int, k: int, rate: float, settings: AllocationSettings) -> tuple[float, float]:
    """(mean squared error of the gradient from the fifth step on, exact pass@k at the end)."""
    p = np.random.default_rng([seed, 0]).beta(0.5, 1.5, SIZE).clip(0.005, 0.995)
    logits = np.log(p / (1 - p))
    objective = Objective(ObjectiveSettings(strategy="mean" if k == 1 else "pass_at_k", k=k))
    stream = PromptStream(SIZE, seed)
    plans = Allocation(settings, objective, ScheduleSettings(), N, stream, prompts_per_step=PROMPTS, staleness=0)
    random = np.random.default_rng([seed, 1])
    errors = []
    for step in range(STEPS):
        success = 1 / (1 + np.exp(-logits))
        outcomes, gradient = [], np.zeros(SIZE)
        for sequence in range(step * PROMPTS, (step + 1) * PROMPTS):
            group = plans.planned(sequence)
            prompt = stream.locate(group.place)[1]
            rewards = (random.random(group.n) < success[prompt]).astype(np.float64)
            advantages = objective.advantages(GradedGroups(rewards[None], rewards[None]), k)[0]
            gradient[prompt] += group.weight * float(advantages @ (rewards - success[prompt])) / PROMPTS
            outcomes.append(Outcome(sequence, int(rewards.sum()), group.n))
        if step >= SIZE // PROMPTS:
            exact = k * (1 - success) ** k * success / SIZE
            errors.append(float(((gradient - exact) ** 2).sum()))
        logits += rate * PROMPTS * gradient
        plans.add(step, outcomes)
    return float(np.mean(errors)), float(np.mean(1 - (1 + np.exp(logits)) ** -float(k)))


def main() -> None:
    for k in (1, 4, 8):
        for rate in (0.0, 1.0):
            equal = np.array([simulate(seed, k, rate, EQUAL) for seed in range(SEEDS)])
            for name, settings in KINDS.items():
                found = np.array([simulate(seed, k, rate, settings) for seed in range(SEEDS)])
                middle, low, high = np.exp(interval(np.log(found[:, 0] / equal[:, 0])))
                value, least, most = interval(found[:, 1] - equal[:, 1])
                print(
                    f"k = {k}, rate {rate:g}, {name}: squared error x {middle:.3f} [{low:.3f}, {high:.3f}], "
                    f"value {value:+.4f} [{least:+.4f}, {most:+.4f}]",
                    flush=True,
                )


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % interval."""
    return student_t_interval(float(values.mean()), float(values.std(ddof=1)) / SEEDS**0.5, SEEDS - 1)


if __name__ == "__main__":
    main()
