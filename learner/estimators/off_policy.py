"""The exact off-policy gradient: groups come from an older policy, and the ratio of every member is used.

Clipping corrects sample i's own ratio, but its advantage depends on the other k - 1 members too, which came from the
same old policy. With sequence ratios rho_i = pi(y_i) / behaviour(y_i) the exact value of a best-of-k strategy is

    U_k = C(n, k)^-1 sum_t sum_{j in t} R_j rho_j sum_m e_{m-1}(rho of t without j) e_{k-m}(rho below t) / m

over the classes t of equal score, e the elementary symmetric polynomial: m samples of the winning class, each of which
is used with probability 1/m, and k - m that rank below. No enumeration is needed. 1/m is the integral of s^(m-1) over
[0, 1]: in a tie, j beats another with probability s. So the inner sum is the integral of e_{k-1}(s rho of t without j,
rho below t), a polynomial in s, which Gauss-Legendre nodes integrate exactly and with positive weights. All advantages
take O(n^2 k) without ties, and at most k/2 times that with them.

Arithmetic is on e_m / C(x, m), the mean of the products over the m-subsets of x samples, which stays near 1 where the
binomials overflow; ratios are positive, so nothing cancels.

The products of k ratios of long sequences have heavy tails: exact is not low-variance. `ratio_cap` truncates each
ratio, which bounds the variance and biases the update.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np

from learner.estimators.registry import ESTIMATORS, Estimator
from learner.strategies import AnswerGroups, Strategy
from learner.strategies.best_of_k import subset_shares


def off_policy_advantages(
    groups: AnswerGroups,
    ratios_GN: np.ndarray,
    strategy: Strategy,
    k: int,
    estimator: Estimator,
    ratio_cap: float,
) -> np.ndarray:
    """Advantages float64[G, n] whose update under the *behaviour* policy is the gradient under the current one.

    They contain sample i's own ratio: the loss that uses them must not multiply by it again.

    Raises:
        ValueError: a strategy or estimator without an exact form, or ratios that are not positive.
    """
    if strategy.best_by is None:
        raise ValueError(f"ratios: strategy '{strategy.name}' has no exact off-policy form; leave them out")
    if not estimator.off_policy:
        usable = ", ".join(name for name, found in ESTIMATORS.items() if found.off_policy)
        raise ValueError(f"ratios: estimator '{estimator.name}' has no off-policy form; use {usable}")
    if not (ratios_GN > 0).all():
        raise ValueError("ratios must be positive")
    if isinstance(ratio_cap, bool) or not isinstance(ratio_cap, int | float | np.number) or not ratio_cap > 0:
        raise ValueError(f"ratio_cap must be a number > 0, got {ratio_cap!r}; leave it out for no truncation")
    scores_GN = getattr(groups, strategy.best_by)
    rows = zip(groups.rewards_GN, scores_GN, np.minimum(ratios_GN, ratio_cap), strict=True)
    return np.array(
        [_of_group(rewards_N, scores_N, ratios_N, k, estimator.name) for rewards_N, scores_N, ratios_N in rows]
    )


def _of_group(rewards_N: np.ndarray, scores_N: np.ndarray, ratios_N: np.ndarray, k: int, estimator: str) -> np.ndarray:
    n, k_over_n = len(rewards_N), k / len(rewards_N)
    order = np.argsort(scores_N, kind="stable")
    rewards, scores, ratios = rewards_N[order], scores_N[order], ratios_N[order]
    classes = list(_classes(scores, rewards))
    all_and_others = np.vstack([ratios, np.where(np.eye(n, dtype=bool), 0.0, ratios)])

    def leave_one_out(k: int) -> np.ndarray:
        """U_k of the others, float64[n] by rank; C(n - 1, k) is n / (n - k) times smaller."""
        return _values(rewards, all_and_others[1:], classes, k) * (n / (n - k)) if 0 < k < n else np.zeros(n)

    others_N = leave_one_out(k)
    credit_N = _values(rewards, all_and_others[:1], classes, k) - (1 - k_over_n) * others_N
    if estimator == "loo":
        credit_N = credit_N - k_over_n * ratios * others_N
    elif estimator == "loo1":
        credit_N = credit_N - k_over_n * ratios * leave_one_out(k - 1)
    advantages_N = np.empty_like(credit_N)
    advantages_N[order] = credit_N
    return advantages_N


def _classes(scores: np.ndarray, rewards: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranks at which each class of equal score begins and ends. Where a tie does not matter, each sample is a class."""
    edges = [0, *(np.flatnonzero(scores[1:] != scores[:-1]) + 1).tolist(), len(scores)]
    for low, high in pairwise(edges):
        if (rewards[low:high] == rewards[low]).all():
            yield from ((rank, rank + 1) for rank in range(low, high))
        else:
            yield low, high


def _values(rewards: np.ndarray, ratios_BN: np.ndarray, classes: list[tuple[int, int]], k: int) -> np.ndarray:
    """U_k, float64[B], for B sets of ratios by ascending rank. A sample of ratio 0 counts as absent, except in C(n, k).

    below_BQM: mean product over the m-subsets of the samples so far, m = 0 .. k-1. With s as the weight of the current
    class they are tied_BQM, one for each node s; won_BQM is the mean over their (m+1)-subsets of the sum over its
    members j of the class of R_j rho_j times the product of the others. A new sample is in (m+1) / (x+1) of the
    (m+1)-subsets of x + 1 samples.
    """
    shares = subset_shares(ratios_BN.shape[1], k)
    orders = np.arange(1, k + 1)
    below_BQM = np.zeros((len(ratios_BN), 1, k))
    below_BQM[..., 0] = 1.0
    total_B = np.zeros(len(ratios_BN))
    for low, high in classes:
        nodes_Q1, weights_Q = _nodes((min(high - low, k) + 1) // 2)
        tied_BQM = np.repeat(below_BQM, len(weights_Q), axis=1)
        won_BQM = np.zeros_like(tied_BQM)
        for x in range(low, high):
            taken_M = np.minimum(orders / (x + 1), 1.0)
            ratio_B11 = ratios_BN[:, x, None, None]
            new_BQM = rewards[x] * ratio_B11 * tied_BQM
            new_BQM[..., 1:] += nodes_Q1 * ratio_B11 * won_BQM[..., :-1]
            won_BQM = (1 - taken_M) * won_BQM + taken_M * new_BQM
            tied_BQM = _with_sample(tied_BQM, nodes_Q1 * ratio_B11, taken_M)
            below_BQM = _with_sample(below_BQM, ratio_B11, taken_M)
        total_B += shares[high] * (won_BQM[..., k - 1] @ weights_Q)
    return total_B


def _with_sample(means_BQM: np.ndarray, ratio: np.ndarray, taken_M: np.ndarray) -> np.ndarray:
    """Mean products over the m-subsets after one more sample is added."""
    joined = means_BQM.copy()
    joined[..., 1:] *= 1 - taken_M[:-1]
    joined[..., 1:] += taken_M[:-1] * ratio * means_BQM[..., :-1]
    return joined


@lru_cache(maxsize=128)
def _nodes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes [Q, 1] and weights [Q] on [0, 1]: exact for polynomials of degree 2 count - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (1 + nodes[:, None]) / 2, weights / 2
