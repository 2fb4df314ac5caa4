"""The exact off-policy gradient: groups drawn from an older policy, every member's ratio accounted for.

Clipping corrects sample i's own ratio, but its advantage depends on the other k - 1 members too, which came from the
same old policy. With sequence ratios rho_i = pi(y_i) / behaviour(y_i) the exact value of a best-of-k strategy is

    U_k = C(n, k)^-1 sum_j R_j rho_j e_{k-1}(rho of the samples that rank below j),

e the elementary symmetric polynomial; O(n k) for the value and O(n^2 k) for all advantages, no enumeration. Arithmetic
is on e_m / C(j, m), the mean of the products over the m-subsets, which stays near 1 where the binomials overflow.

The products of k ratios of long sequences have heavy tails: exact is not low-variance. `ratio_cap` truncates each
ratio, which bounds the variance and biases the update.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np

from learner.estimators.registry import Estimator
from learner.strategies import Group, Strategy
from learner.strategies.best_of_k import subset_shares

SCORED_BY_REWARD = ("mean", "pass_at_k", "max_at_k")
EXACT_STRATEGIES = (*SCORED_BY_REWARD, "best_of_k")
EXACT_ESTIMATORS = ("loo", "loo1", "subset")


def off_policy_advantages(
    group: Group, ratios_GN: np.ndarray, strategy: Strategy, k: int, estimator: Estimator, ratio_cap: float = inf
) -> np.ndarray:
    """Advantages float64[G, n] whose update under the *behaviour* policy is the gradient under the current one.

    They contain sample i's own ratio: the loss that uses them must not multiply by it again.

    Raises:
        ValueError: a strategy or estimator without an exact form, ratios that are not positive and finite, or
            samples of equal score with different rewards (their tie-break has no closed form here).
    """
    if strategy.name not in EXACT_STRATEGIES:
        raise ValueError(f"ratios: strategy '{strategy.name}' has no exact off-policy form; leave them out")
    if estimator.name not in EXACT_ESTIMATORS:
        raise ValueError(
            f"ratios: estimator '{estimator.name}' has no off-policy form; use {', '.join(EXACT_ESTIMATORS)}"
        )
    if ratios_GN.shape != group.rewards_GN.shape:
        raise ValueError(f"ratios has shape {ratios_GN.shape}, rewards has {group.rewards_GN.shape}")
    if not (np.isfinite(ratios_GN).all() and (ratios_GN > 0).all()):
        raise ValueError("ratios must be positive and finite")
    if isinstance(ratio_cap, bool) or not isinstance(ratio_cap, int | float | np.number) or not ratio_cap > 0:
        raise ValueError(f"ratio_cap must be a number > 0, got {ratio_cap!r}; leave it out for no truncation")
    ratios_GN = np.minimum(ratios_GN, ratio_cap)
    if strategy.name in SCORED_BY_REWARD:
        group = replace(group, scores_GN=group.rewards_GN)
    rewards_GN, ratios_GN, order_GN = _sorted(group, ratios_GN)
    n, share = group.n, k / group.n

    value_G1 = _value(rewards_GN, ratios_GN, k)[:, None]
    without_GN = _without_each(rewards_GN, ratios_GN, k) * (n / (n - k)) if k < n else np.zeros_like(ratios_GN)
    credit_GN = value_G1 - (1 - share) * without_GN
    if estimator.name == "loo":
        credit_GN = credit_GN - share * ratios_GN * without_GN
    elif estimator.name == "loo1" and k > 1:
        fewer_GN = _without_each(rewards_GN, ratios_GN, k - 1) * (n / (n - k + 1))
        credit_GN = credit_GN - share * ratios_GN * fewer_GN
    advantages_GN = np.empty_like(credit_GN)
    np.put_along_axis(advantages_GN, order_GN, credit_GN, axis=1)
    return advantages_GN


def _sorted(group: Group, ratios_GN: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards and ratios by ascending score, and the order."""
    assert group.scores_GN is not None
    order_GN = np.argsort(group.scores_GN, axis=1, kind="stable")
    scores_GN, rewards_GN, ratios_GN = (
        np.take_along_axis(a, order_GN, 1) for a in (group.scores_GN, group.rewards_GN, ratios_GN)
    )
    tied_GN = scores_GN[:, 1:] == scores_GN[:, :-1]
    if (tied_GN & (rewards_GN[:, 1:] != rewards_GN[:, :-1])).any():
        raise ValueError(
            "scores: samples of equal score have different rewards, for which the exact off-policy form does not hold; "
            "break the ties (a little noise on the scores), or leave the ratios out"
        )
    return rewards_GN, ratios_GN, order_GN


def _value(rewards: np.ndarray, ratios: np.ndarray, k: int) -> np.ndarray:
    """U_k of samples along the last axis, in ascending rank. A sample of ratio 0 counts as absent, but for C(n, k)."""
    n = rewards.shape[-1]
    shares = subset_shares(n, k)
    weights = shares[1:] - shares[:-1]  # C(j, k-1) / C(n, k): subsets whose highest rank is j
    means = np.zeros((*ratios.shape[:-1], k))  # mean product over the m-subsets of the ranks so far, m = 0..k-1
    means[..., 0] = 1.0
    orders = np.arange(1, k)
    total = np.zeros(ratios.shape[:-1])
    for j in range(n):
        ratio = ratios[..., j]
        total += weights[j] * rewards[..., j] * ratio * means[..., k - 1]
        taken = np.minimum(orders / (j + 1), 1.0)  # share of the m-subsets of j + 1 ranks that hold rank j
        means[..., 1:] = (1 - taken) * means[..., 1:] + taken * ratio[..., None] * means[..., :-1]
    return total


def _without_each(rewards_GN: np.ndarray, ratios_GN: np.ndarray, k: int) -> np.ndarray:
    """_value with each sample's ratio set to 0 in turn, float64[G, n]."""
    n = ratios_GN.shape[1]
    ratios_GNN = np.where(np.eye(n, dtype=bool), 0.0, ratios_GN[:, None, :])
    rewards_GNN = np.broadcast_to(rewards_GN[:, None, :], ratios_GNN.shape)
    return _value(rewards_GNN, ratios_GNN, k)
