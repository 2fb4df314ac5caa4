"""The mean reward: one answer is drawn and used. Ordinary reinforcement learning."""

from __future__ import annotations

import numpy as np

from learner.strategies.registry import AnswerGroups, array_strategy


def _loo_difference(groups: AnswerGroups, k: int) -> np.ndarray:
    """Mean minus the mean of the others: (R_i - mean) / (n - 1)."""
    return (groups.rewards_GN - groups.rewards_GN.mean(axis=1, keepdims=True)) / (groups.n - 1)


def _marginal_contribution(groups: AnswerGroups, k: int) -> np.ndarray:
    """f(I) - f(no answer) is the reward itself at k = 1; times 1/n."""
    return groups.rewards_GN / groups.n


@array_strategy(
    "mean",
    array_loo_difference=_loo_difference,
    array_marginal_contribution=_marginal_contribution,
    translation_equivariant=True,
    only_k=1,
    best_by="rewards_GN",
)
def mean(groups: AnswerGroups, k: int) -> np.ndarray:
    """The mean reward of the group."""
    return groups.rewards_GN.mean(axis=1)
