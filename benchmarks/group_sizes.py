"""What `rollout.allocation` gains at equal sampled answers, on simulated prompts: `python -m benchmarks.group_sizes`.

Each of 64 prompts is a Bernoulli policy with a logit of its own; the first success probabilities are Beta(0.5, 1.5). A
step samples 16 prompts, 16 answers each on average, for 12 epochs. Printed, with 95 % intervals over 12 seeds: the mean
squared error of the gradient from the second epoch on, relative to equal groups, and the objective's value at the end
minus that with equal groups.
"""

from __future__ import annotations

import numpy as np

from actors.queue.group_sizes import GroupSizes, Outcome
from actors.queue.prompt_stream import PromptStream
from actors.settings import AllocationSettings
from learner.metrics import student_t_interval
from learner.objective import GradedGroups, Objective
from learner.schedule import ScheduleSettings
from learner.settings import ObjectiveSettings

SIZE, PROMPTS, N, EPOCHS, SEEDS = 64, 16, 16, 12, 12


def simulate(seed: int, k: int, rate: float, *, allocated: bool) -> tuple[float, float]:
    """(mean squared error of the groups' gradients after the first epoch, exact pass@k at the end)."""
    p = np.random.default_rng([seed, 0]).beta(0.5, 1.5, SIZE).clip(0.005, 0.995)
    logits = np.log(p / (1 - p))
    objective = Objective(ObjectiveSettings(strategy="mean" if k == 1 else "pass_at_k", k=k))
    stream = PromptStream(SIZE, seed)
    sizes = GroupSizes(
        AllocationSettings(), objective, ScheduleSettings(), N, stream, prompts_per_step=PROMPTS, staleness=0
    )
    random = np.random.default_rng([seed, 1])
    errors = []
    for step in range(EPOCHS * SIZE // PROMPTS):
        outcomes, gradient = [], np.zeros(SIZE)
        for sequence in range(step * PROMPTS, (step + 1) * PROMPTS):
            n, prompt = sizes.of(sequence) if allocated else N, stream.locate(sequence)[1]
            success = 1 / (1 + np.exp(-logits[prompt]))
            rewards = (random.random(n) < success).astype(np.float64)
            advantages = objective.advantages(GradedGroups(rewards[None], rewards[None]), k)[0]
            update = float(advantages @ (rewards - success))
            gradient[prompt] += update
            if step >= SIZE // PROMPTS:
                errors.append((update - k * (1 - success) ** k * success) ** 2)
            outcomes.append(Outcome(sequence, int(rewards.sum()), n))
        logits += rate * gradient
        sizes.add(step, outcomes)
    return float(np.mean(errors)), float(np.mean(1 - (1 + np.exp(logits)) ** -float(k)))


def main() -> None:
    for k in (1, 4, 8):
        for rate in (0.0, 1.0):
            found = np.array([[simulate(s, k, rate, allocated=a) for a in (False, True)] for s in range(SEEDS)])
            noise, gain = np.log(found[:, 1, 0] / found[:, 0, 0]), found[:, 1, 1] - found[:, 0, 1]
            middle, low, high = np.exp(interval(noise))
            value, least, most = interval(gain)
            print(
                f"k = {k}, rate {rate:g}: squared error x {middle:.3f} [{low:.3f}, {high:.3f}], "
                f"value {value:+.4f} [{least:+.4f}, {most:+.4f}]"
            )


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % interval."""
    return student_t_interval(float(values.mean()), float(values.std(ddof=1)) / SEEDS**0.5, SEEDS - 1)


if __name__ == "__main__":
    main()
