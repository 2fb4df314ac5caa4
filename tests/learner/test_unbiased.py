"""Promise 1: the expected update is the gradient of the objective. Proved by enumerating every group."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from learner import group_advantages

LOGITS = np.array([0.3, -0.8, 1.1, 0.2])
REWARDS = np.array([1.0, 0.0, 0.0, 1.0])
CONTINUOUS = np.array([0.1, -0.7, 1.3, 0.4])


def policy() -> np.ndarray:
    weights = np.exp(LOGITS - LOGITS.max())
    return weights / weights.sum()


def objective_gradient(rewards: np.ndarray, strategy: str, k: int) -> np.ndarray:
    """Gradient with respect to the logits of J = E R (mean) or 1 - P(wrong)^k, from the closed form."""
    probabilities = policy()
    mean_gradient = probabilities * (rewards - probabilities @ rewards)
    if strategy == "mean":
        return mean_gradient
    return k * (1 - probabilities @ rewards) ** (k - 1) * mean_gradient


def expected_update(rewards: np.ndarray, strategy: str, k: int, n: int, estimator: str) -> np.ndarray:
    """E[ sum_i A_i grad log pi(y_i) ] over all |Y|^n groups."""
    probabilities, score = policy(), np.eye(len(LOGITS)) - policy()
    groups = np.array(list(product(range(len(LOGITS)), repeat=n)))
    advantages = group_advantages(rewards[groups], strategy=strategy, k=k, estimator=estimator)
    weights = probabilities[groups].prod(axis=1)
    return np.einsum("g,gi,giy->y", weights, advantages, score[groups])


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("estimator", ["loo", "loo1"])
def test_pass_at_k_is_unbiased_for_every_k(n: int, estimator: str) -> None:
    for k in range(1, n + (estimator == "loo1")):
        update = expected_update(REWARDS, "pass_at_k", k, n, estimator)
        np.testing.assert_allclose(update, objective_gradient(REWARDS, "pass_at_k", k), atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("estimator", ["loo", "loo1"])
def test_mean_is_unbiased_for_continuous_rewards(n: int, estimator: str) -> None:
    update = expected_update(CONTINUOUS, "mean", 1, n, estimator)
    np.testing.assert_allclose(update, objective_gradient(CONTINUOUS, "mean", 1), atol=1e-12)
