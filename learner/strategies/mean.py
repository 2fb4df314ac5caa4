"""The mean reward: one answer is drawn and used. Ordinary reinforcement learning."""

from __future__ import annotations

import numpy as np

from learner.strategies.registry import Group, array_strategy


def _mean_without(group: Group, k: int) -> np.ndarray:
    rewards_GN = group.rewards_GN
    return (rewards_GN.sum(axis=1, keepdims=True) - rewards_GN) / (group.n - 1)


@array_strategy("mean", leave_one_out=_mean_without, only_k=1)
def mean(group: Group, k: int) -> np.ndarray:
    """The mean reward of the group."""
    return group.rewards_GN.mean(axis=1)
