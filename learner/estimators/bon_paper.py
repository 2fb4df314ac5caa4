"""The methods of the paper itself (arXiv 2412.15287), on a group of n samples of the policy.

The paper samples from the Best-of-N policy. A group is sampled from the policy itself, so each sample is weighted by
the ratio of the two distributions. `docs/objectives.md` gives the expected update of each form and where it differs
from the gradient; `tests/learner/test_published_estimators.py` asserts the numbers. The exact, unbiased counterparts
are `loo` and `loo1` with the strategies `best_of_k` (BoN-RL-V) and `pass_at_k` or `max_at_k` (BoN-RL-S).
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, expm1, log, log1p

import numpy as np

from learner.estimators.registry import Options, group_estimator
from learner.strategies import AnswerGroups


@group_estimator("bon_rlb", strategies=("pass_at_k",), needs_p_fail_clip=True)
def bon_rlb(groups: AnswerGroups, k: int, options: Options) -> np.ndarray:
    """BoN-RLB with + g-: E over the Best-of-N policy of (R g+ + (1 - R) g-) grad log pi, p estimated from the group.

    g+ = k p^(k-1) / (1 - p^k) and g- = k p / (1 - p) are the paper's weights of its correct and its wrong samples.
    With the true failure rate p the weights of a policy sample are k p^(k-1) / (1-p) if correct and k p^k / (1-p) if
    wrong, whose expectation is the gradient of pass@k. p is the group's own failure rate here, so it is biased.
    """
    return _two_sided(groups, k, options, sign=1.0)


@group_estimator("bon_rlb_minus", strategies=("pass_at_k",), needs_p_fail_clip=True)
def bon_rlb_minus(groups: AnswerGroups, k: int, options: Options) -> np.ndarray:
    """BoN-RLB with - g-, as secondary sources print it: (1 + p) / (1 - p) times the gradient of pass@k.

    The direction of each prompt is right, but prompts are reweighted: 19 times at p = 0.9, 199 times at p = 0.99.
    """
    return _two_sided(groups, k, options, sign=-1.0)


@group_estimator("bon_rlb_p", strategies=("pass_at_k",))
def bon_rlb_p(groups: AnswerGroups, k: int, options: Options) -> np.ndarray:
    """BoN-RLB(P), positives only: R k p^(k-1) / n with p the group's own failure rate, hence biased.

    `loo1` is this with p^(k-1) estimated without sample i from all (k-1)-subsets of the others: unbiased.
    """
    fail_G1 = _failure_rate(groups, options)
    return groups.rewards_GN * k * fail_G1 ** (k - 1) / groups.n


@group_estimator("bon_rl_variational", strategies=("best_of_k", "max_at_k", "pass_at_k"), min_group_size=2)
def bon_rl_variational(groups: AnswerGroups, k: int, options: Options) -> np.ndarray:
    """BoN-RL through the variational Best-of-N policy pi exp(lambda Q), with the group in place of the policy.

    With weights w_i proportional to exp(lambda Q_i), Q_i the share of samples that score at most as high as i, and
    b = sum w_i R_i, the update sum_i w_i (R_i - b) [grad log pi(y_i) + lambda grad Q(y_i)] gives

        A_j = w_j (R_j - b) + (lambda / n) sum_i w_i (R_i - b) 1[score_i >= score_j].

    Scores are the verifier's for best_of_k (BoN-RL-V), else the rewards (BoN-RL-S): `AnswerGroups` holds scores only
    for strategies that require them. Exact only in the limit of a large group, and then for the tilted policy: with
    binary scores that is far from Best-of-N.
    """
    scores_GN = groups.rewards_GN if groups.scores_GN is None else groups.scores_GN
    lam = tilt(k)
    weights_GN, at_least_GNN = tilted_weights(scores_GN, lam)
    above_GN = groups.rewards_GN - groups.rewards_GN.min(axis=1, keepdims=True)  # equal rewards are exact zeros
    gain_GN = weights_GN * (above_GN - (weights_GN * above_GN).sum(axis=1, keepdims=True))
    return gain_GN + lam / groups.n * np.einsum("gi,gij->gj", gain_GN, at_least_GNN)


def tilted_weights(scores_GN: np.ndarray, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the samples under the variational policy, float64 [G, N], and 1[score_i >= score_j], [G, N, N]."""
    at_least_GNN = scores_GN[:, :, None] >= scores_GN[:, None, :]
    tilted_GN = np.exp(lam * (at_least_GNN.mean(axis=2) - 1.0))
    return tilted_GN / tilted_GN.sum(axis=1, keepdims=True), at_least_GNN


@lru_cache(maxsize=256)
def tilt(k: int) -> float:
    """lambda_N: the tilt of a uniform quantile whose KL divergence is that of exact Best-of-N (continuous scores).

    The root of ((l-1) e^l + 1) / (e^l - 1) - log((e^l - 1) / l) = log N - (N-1)/N. About N + 1 from N = 8 on.

    >>> round(tilt(16), 6)
    17.031899
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    if k == 1:
        return 0.0
    target = log(k) - (k - 1) / k
    low, high = 1e-9, 2.0 * k + 2.0
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _tilted_divergence(middle) < target else (low, middle)
    return (low + high) / 2


def _tilted_divergence(lam: float) -> float:
    """KL(tilted uniform || uniform) = lam e^lam / (e^lam - 1) - 1 - log((e^lam - 1) / lam), without overflow."""
    if lam < 1e-3:
        return lam**2 / 24  # its series; the terms of the closed form cancel here
    log_expm1 = lam + log1p(-exp(-lam))
    return lam / -expm1(-lam) - 1 - log_expm1 + log(lam)


def _two_sided(groups: AnswerGroups, k: int, options: Options, sign: float) -> np.ndarray:
    fail_G1 = _failure_rate(groups, options)
    if (fail_G1 == 1).any():
        raise ValueError("p_fail_clip = 0 leaves the weights of a group without a success unbounded; set it above 0")
    right = k * fail_G1 ** (k - 1) / (1 - fail_G1)
    return np.where(groups.rewards_GN == 1.0, right, sign * fail_G1 * right) / groups.n


def _failure_rate(groups: AnswerGroups, options: Options) -> np.ndarray:
    rate_G1 = 1.0 - groups.rewards_GN.mean(axis=1, keepdims=True)
    return rate_G1.clip(options.p_fail_clip, 1 - options.p_fail_clip)
