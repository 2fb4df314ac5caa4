"""How many samples each prompt gets of a step's budget: those that reduce the gradient's noise most.

A prompt with success probability p and n samples adds V(p, n) to the squared noise of the step's gradient:

    V(p, n) = E[sum_i A_i^2],  the number of correct samples being Binomial(n, p),

up to a factor and a part that does not depend on n, if the vectors grad log pi(y_i) of a prompt's samples are
orthogonal and of equal length. This assumption and V only decide how useful the sizes are; the gradient is unbiased
with any sizes that do not depend on the group's own samples. For the mean with `loo`, V = p (1 - p) / (n - 1). For
pass@k and large n, V approaches (k (1 - p)^(k-1))^2 p (1 - p) / n, so the best n is in proportion to
k (1 - p)^(k-1) sqrt(p (1 - p)), as in Neyman's allocation (1934, for strata of a survey).

p is not known: with a Beta distribution the correct samples are beta-binomial, and V is its mean over p.

V decreases in n and is convex, so taking the largest reductions one by one gives the least sum (Fox 1966, Operations
Research 14:2). Budgets by the results of earlier epochs: arXiv 2606.05606; other budgets per prompt: 2605.07114 and
2509.25849. The rule here is derived, not theirs.
"""

from __future__ import annotations

from math import comb, log

import numpy as np

from learner.objective import GradedGroups, Objective


class ExpectedNoise:
    """V for every group size from `least` to `most`, under Beta distributions of p.

    Args:
        objective: its unbiased estimators give the advantages, for rewards of 0 and 1 that the scores agree with.
        k: of the objective's first term.
        least, most: smallest and largest group; both fit the objective.
    """

    def __init__(self, objective: Objective, k: int, least: int, most: int) -> None:
        sizes = range(least, most + 1)
        self._squares_JC = np.zeros((len(sizes), most + 1))
        log_ways_JC = np.full((len(sizes), most + 1), -np.inf)
        for j, n in enumerate(sizes):
            rewards_CN = np.tri(n + 1, n, -1)  # row c: c correct samples
            advantages_CN = objective.advantages(GradedGroups(rewards_CN, rewards_CN), k)
            self._squares_JC[j, : n + 1] = (advantages_CN**2).sum(axis=1)
            log_ways_JC[j, : n + 1] = [log(comb(n, c)) for c in range(n + 1)]
        self._log_ways_JC = log_ways_JC
        self._sizes_J = np.array(sizes)
        self._wrong_JC = np.maximum(self._sizes_J[:, None] - np.arange(most + 1), 0)

    def __call__(self, correct: float, wrong: float) -> np.ndarray:
        """V float64 [sizes] where p is Beta(correct, wrong), both > 0."""
        most = self._wrong_JC.shape[1] - 1
        log_JC = self._log_ways_JC + _log_rising(correct, most) + _log_rising(wrong, most)[self._wrong_JC]
        log_JC = log_JC - _log_rising(correct + wrong, most)[self._sizes_J][:, None]
        return (np.exp(log_JC) * self._squares_JC).sum(axis=1)


def _log_rising(start: float, most: int) -> np.ndarray:
    """log(start (start + 1) ... (start + m - 1)) for m = 0 .. most."""
    return np.concatenate([[0.0], np.cumsum(np.log(start + np.arange(most)))])


def allocate(noise_PJ: np.ndarray, least: int, budget: int) -> np.ndarray:
    """Group sizes int64[P] whose sum is `budget` and whose noise is least.

    Prompts with equal noise get sizes that differ by at most 1; the first ones get the larger.

    Args:
        noise_PJ: of each prompt with least, least + 1, ... samples; decreasing and convex.

    Raises:
        ValueError: the budget is below the smallest groups together, or above the largest.
    """
    prompts, sizes = noise_PJ.shape
    extra = budget - prompts * least
    if not 0 <= extra <= prompts * (sizes - 1):
        raise ValueError(
            f"{budget} samples cannot be shared among {prompts} prompts with {least} to {least + sizes - 1} each"
        )
    # The running minimum removes rounding errors, so that no sample is chosen before the one below it.
    reductions_PJ = np.minimum.accumulate(noise_PJ[:, :-1] - noise_PJ[:, 1:], axis=1)
    chosen = np.argsort(-reductions_PJ.T.ravel(), kind="stable")[:extra]
    return least + np.bincount(chosen % prompts, minlength=prompts)
