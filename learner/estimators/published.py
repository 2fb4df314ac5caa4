"""Published methods of other systems, for comparison: none follows the gradient of pass@k.

Each docstring names the source. Expected updates that are known in closed form are asserted in
`tests/learner/test_published_estimators.py`.
"""

from __future__ import annotations

import numpy as np

from learner.estimators.registry import Options, group_estimator
from learner.strategies import AnswerGroups
from learner.strategies.pass_at_k import pass_at_k_exact

EPSILON = 1e-6  # avoids 0/0; a group whose rewards are all equal has a numerator of exactly 0


@group_estimator("grpo", strategies=("mean",), allows_k_equal_n=False)
def grpo(groups: AnswerGroups, k: int, options: Options) -> np.ndarray:
    """(R_i - mean) / std / n: GRPO (arXiv 2402.03300, eq. 3), std with n - 1 in the denominator.

    Dividing by the group's own std weighs prompts by 1/std: hard and easy prompts count more than the mean reward
    says, so the expected update is not the gradient of the mean reward.
    """
    return grpo_no_std(groups, k, options) / (groups.rewards_GN.std(axis=1, ddof=1, keepdims=True) + EPSILON)


@group_estimator("grpo_no_std", strategies=("mean",), allows_k_equal_n=False)
def grpo_no_std(groups: AnswerGroups, k: int, options: Options) -> np.ndarray:
    """(R_i - mean) / n: GRPO without the division (Dr. GRPO, arXiv 2503.20783). (1 - 1/n) times `rloo`."""
    above_GN = groups.rewards_GN - groups.rewards_GN.min(axis=1, keepdims=True)  # equal rewards are exact zeros
    return (above_GN - above_GN.mean(axis=1, keepdims=True)) / groups.n


@group_estimator("passk_training", strategies=("pass_at_k",), allows_k_equal_n=False)
def passk_training(groups: AnswerGroups, k: int, options: Options) -> np.ndarray:
    """Pass@k Training (arXiv 2508.10751, eqs. 11-15), divided by n.

    With rho = U_k and sigma = sqrt(rho (1 - rho)), a correct sample gets (1 - rho) / sigma, and a wrong one
    (1 - rho - C(n-c-1, k-1) / C(n-1, k-1)) / sigma. Without sigma it is (n - k) / (n k) times `loo`. With sigma it
    ascends, for many samples, the mean over prompts of 2 arcsin(sqrt(pass@k)). At k = n sigma is always 0.
    """
    n, correct_GN = groups.n, groups.rewards_GN == 1.0
    result = np.zeros_like(groups.rewards_GN)
    for g, c in enumerate(correct_GN.sum(axis=1)):
        rho = float(pass_at_k_exact(n, int(c), k))
        sigma = np.sqrt(rho * (1 - rho))
        if sigma == 0:
            continue  # all subsets pass, or none does: every advantage is 0
        # k - 1 of the n - 1 others are all wrong, when sample i is itself a wrong one
        all_wrong = 1 - float(pass_at_k_exact(n - 1, int(c), k - 1)) if k > 1 else 1.0
        result[g] = np.where(correct_GN[g], 1 - rho, 1 - rho - all_wrong) / sigma / n
    return result


@group_estimator("maxrl", strategies=("mean",), allows_k_equal_n=False, binary_rewards=True)
def maxrl(groups: AnswerGroups, k: int, options: Options) -> np.ndarray:
    """R_i / (sum of rewards) - 1/n, and 0 without a success: maximum-likelihood RL for rewards of 0 and 1.

    The mean of the score function over the successes, minus its mean over all. Its expectation is exactly the
    gradient of sum_{j=1}^{n-1} pass@j / j, the expansion of log(success rate) cut at n - 1.
    """
    rewards_GN = groups.rewards_GN
    if not np.isin(rewards_GN, (0.0, 1.0)).all():
        raise ValueError("rewards must be 0 or 1 for estimator 'maxrl'; use 'loo' for others")
    successes = rewards_GN.sum(axis=1, keepdims=True)
    return np.where(successes > 0, rewards_GN / np.maximum(successes, 1.0) - 1.0 / groups.n, 0.0)
