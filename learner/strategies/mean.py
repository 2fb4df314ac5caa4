"""The mean reward: one answer is drawn and used. Ordinary reinforcement learning."""

from __future__ import annotations

import numpy as np

from learner.strategies.registry import Group, array_strategy


def _owed(group: Group, k: int) -> np.ndarray:
    """Mean minus the mean of the others: (R_i - mean) / (n - 1)."""
    return (group.rewards_GN - group.rewards_GN.mean(axis=1, keepdims=True)) / (group.n - 1)


def _marginal(group: Group, k: int) -> np.ndarray:
    """With one answer there is nothing to compare with: its reward, times 1/n."""
    return group.rewards_GN / group.n


@array_strategy("mean", array_owed=_owed, array_marginal=_marginal, translates=True, only_k=1)
def mean(group: Group, k: int) -> np.ndarray:
    """The mean reward of the group."""
    return group.rewards_GN.mean(axis=1)
