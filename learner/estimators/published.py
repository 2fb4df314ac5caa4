"""Methods of other systems, under names that say what they are. For comparison: none follows pass@k's gradient.

Source of each in its docstring; what its expected update is, where it is known in closed form, is asserted in
`tests/learner/test_published_estimators.py`.
"""

from __future__ import annotations

import numpy as np

from learner.estimators.registry import Options, group_estimator
from learner.strategies import Group
from learner.strategies.pass_at_k import pass_at_k_exact

SMALL = 1e-6  # keeps 0/0 out; a group whose rewards are all equal has a numerator of exactly 0


@group_estimator("grpo", strategies=("mean",), full_group=False)
def grpo(group: Group, k: int, options: Options) -> np.ndarray:
    """(R_i - mean) / std / n: GRPO (arXiv 2402.03300, eq. 3), std with n - 1 in the denominator.

    Dividing by the group's own std weighs prompts by 1/std: hard and easy prompts count more than the mean reward
    says, so the expected update is not the gradient of the mean reward.
    """
    return grpo_no_std(group, k, options) / (group.rewards_GN.std(axis=1, ddof=1, keepdims=True) + SMALL)


@group_estimator("grpo_no_std", strategies=("mean",), full_group=False)
def grpo_no_std(group: Group, k: int, options: Options) -> np.ndarray:
    """(R_i - mean) / n: GRPO without the division (Dr. GRPO, arXiv 2503.20783). (1 - 1/n) times `rloo`."""
    above_GN = group.rewards_GN - group.rewards_GN.min(axis=1, keepdims=True)  # equal rewards are exact zeros
    return (above_GN - above_GN.mean(axis=1, keepdims=True)) / group.n


@group_estimator("passk_training", strategies=("pass_at_k",), full_group=False)
def passk_training(group: Group, k: int, options: Options) -> np.ndarray:
    """Pass@k Training (arXiv 2508.10751, eqs. 11-15), divided by n.

    With rho = U_k and sigma = sqrt(rho (1 - rho)), a correct sample gets (1 - rho) / sigma, and a wrong one
    (1 - rho - C(n-c-1, k-1) / C(n-1, k-1)) / sigma. Without sigma it is (n - k) / (n k) times `loo`. With sigma it
    ascends, for many samples, the mean over prompts of 2 arcsin(sqrt(pass@k)). At k = n sigma is always 0.
    """
    n, correct_GN = group.n, group.rewards_GN == 1.0
    result = np.zeros_like(group.rewards_GN)
    for g, c in enumerate(correct_GN.sum(axis=1)):
        rho = float(pass_at_k_exact(n, int(c), k))
        sigma = np.sqrt(rho * (1 - rho))
        if sigma == 0:
            continue  # all subsets pass, or none does: every sample's advantage is 0
        # k - 1 of the n - 1 others are all wrong, when sample i is itself a wrong one
        all_wrong = 1 - float(pass_at_k_exact(n - 1, int(c), k - 1)) if k > 1 else 1.0
        result[g] = np.where(correct_GN[g], 1 - rho, 1 - rho - all_wrong) / sigma / n
    return result


@group_estimator("maxrl", strategies=("mean",), full_group=False)
def maxrl(group: Group, k: int, options: Options) -> np.ndarray:
    """R_i / (sum of rewards) - 1/n, and 0 without a success: maximum-likelihood RL for rewards of 0 and 1.

    The mean of the score function over the successes, minus its mean over all. Its expectation is exactly the
    gradient of sum_{j=1}^{n-1} pass@j / j, the expansion of log(success rate) cut at n - 1.
    """
    rewards_GN = group.rewards_GN
    if not np.isin(rewards_GN, (0.0, 1.0)).all():
        raise ValueError("rewards must be 0 or 1 for estimator 'maxrl'; use 'loo' for others")
    successes = rewards_GN.sum(axis=1, keepdims=True)
    return np.where(successes > 0, rewards_GN / np.maximum(successes, 1.0) - 1.0 / group.n, 0.0)
