"""BoN-SFT (arXiv 2412.15287): imitate an expert through the Best-of-N policy that will be deployed.

Maximizes log pi_bon(y_expert | x) instead of log pi(y_expert | x). Its gradient is grad log pi(y_expert) plus a term
over samples of the policy, which are these advantages (sum convention). Plain imitation is the case N = 1, where they
are all 0.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from learner.estimators.bon_paper import tilt, tilted_weights
from learner.estimators.registry import check_p_fail_clip
from learner.strategies import as_count

BonSftForm = Literal["exact", "variational"]


def bon_sft_advantages(
    scores_GN: np.ndarray,
    expert_scores_G: np.ndarray,
    k: int,
    p_fail_clip: float,
    form: BonSftForm = "exact",
) -> np.ndarray:
    """Advantages float64 [G, n] of the group's samples, where the expert's response has an advantage of 1.

    Args:
        scores_GN: of the samples, by which Best-of-N selects.
        expert_scores_G: the verifier's score of each expert response.
        k: the N of Best-of-N.
        p_fail_clip: lower bound of the estimated C below, 0 <= clip < 0.5; only the exact form reads it.
        form: which policy is imitated.

    `exact` is Best-of-N itself, ties broken uniformly: pi_bon(y) = pi(y) times the sum over m < N of C^m L^(N-1-m),
    where C is the probability that a sample of pi scores at most as high as y and L that it scores lower. With scores
    of 0 and 1 and a failure rate p the sum is (1 - p^N) / (1 - p) for right and p^(N-1) for wrong answers. C and L are
    the group's shares.

    `variational` is the paper's approximation, pi(y) exp(lambda_N C) normalized, with the group in place of pi.

    Both are exact in the limit of a large group; `docs/objectives.md` gives the bias on small ones.

    Raises:
        ValueError: k or p_fail_clip is out of range, or a score is NaN or infinite.
    """
    k = as_count("k", k)
    check_p_fail_clip(p_fail_clip)
    for name, scores in (("scores_GN", scores_GN), ("expert_scores_G", expert_scores_G)):
        if not np.isfinite(scores).all():
            raise ValueError(
                f"{name} contains NaN or infinity; leave such groups out (a failed verifier gives no score)"
            )
    if k == 1:
        return np.zeros_like(scores_GN)
    expert_G1 = expert_scores_G[:, None]
    if form == "variational":
        return _variational(scores_GN, expert_G1, k)
    return _exact(scores_GN, expert_G1, k, p_fail_clip)


def _exact(scores_GN: np.ndarray, expert_G1: np.ndarray, k: int, p_fail_clip: float) -> np.ndarray:
    """d/dC and d/dL of the log of the expert's factor, times the samples' deviations from C and L, divided by n.

    The factor is C^(k-1) S(t) with t = L / C and S(t) = 1 + t + .. + t^(k-1).
    """
    at_most_GN, below_GN = (scores_GN <= expert_G1).astype(float), (scores_GN < expert_G1).astype(float)
    c_G1, l_G1 = at_most_GN.mean(axis=1, keepdims=True), below_GN.mean(axis=1, keepdims=True)
    # The weights are infinite at C = 0, but the gradient of a group with only higher scores is 0.
    clipped_G1 = np.where(c_G1 > 0, np.maximum(c_G1, p_fail_clip), 1.0)
    t_G1 = l_G1 / clipped_G1
    powers_GK = t_G1 ** np.arange(k)
    slope_G1 = (np.arange(1, k) * powers_GK[:, :-1]).sum(axis=1, keepdims=True) / powers_GK.sum(axis=1, keepdims=True)
    by_c_G1, by_l_G1 = (k - 1 - t_G1 * slope_G1) / clipped_G1, slope_G1 / clipped_G1
    return (by_c_G1 * (at_most_GN - c_G1) + by_l_G1 * (below_GN - l_G1)) / scores_GN.shape[1]


def _variational(scores_GN: np.ndarray, expert_G1: np.ndarray, k: int) -> np.ndarray:
    """lambda/n 1[r_e >= r_j] - w_j - lambda/n sum_i w_i 1[r_i >= r_j], w the tilted weights of the samples."""
    lam, n = tilt(k), scores_GN.shape[1]
    weights_GN, at_least_GNN = tilted_weights(scores_GN, lam)
    expected_GN = np.einsum("gi,gij->gj", weights_GN, at_least_GNN)
    advantages_GN = lam / n * ((expert_G1 >= scores_GN) - expected_GN) - weights_GN
    # The score function has mean 0, so subtracting the mean adds no bias and lowers the variance.
    return advantages_GN - advantages_GN.mean(axis=1, keepdims=True)
