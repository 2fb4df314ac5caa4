"""BoN-SFT (arXiv 2412.15287): imitate an expert through the Best-of-N policy that will be deployed.

Maximizes log pi_bon(y_expert | x) instead of log pi(y_expert | x). Its gradient is grad log pi(y_expert) plus a term
over samples of the policy, which are these advantages (sum convention). Plain imitation is the case N = 1, where they
are all 0.
"""

from __future__ import annotations

import numpy as np

from learner.estimators.bon_paper import tilt
from learner.estimators.registry import check_p_fail_clip
from learner.strategies import as_count


def bon_sft_advantages(
    scores_GN: np.ndarray,
    expert_scores_G: np.ndarray,
    k: int,
    p_fail_clip: float,
) -> np.ndarray:
    """Advantages float64 [G, n] of the group's samples, where the expert's response has an advantage of 1.

    Args:
        scores_GN: of the samples, by which Best-of-N selects.
        expert_scores_G: the verifier's score of each expert response.
        k: the N of Best-of-N.
        p_fail_clip: where scores are 0 or 1, the group's failure rate is kept within [clip, 1 - clip], 0 <= clip < 0.5.

    With scores of 0 and 1 the Best-of-N policy has a closed form, pi (1 - p^N) / (1 - p) for right and pi p^(N-1) for
    wrong answers, and only p, the failure rate, is taken from the group. Otherwise the variational form is used, with
    the group in place of the policy. Both are exact in the limit of a large group; `docs/objectives.md` gives the bias
    on small ones.

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
    expert_G1, result_GN = expert_scores_G[:, None], np.empty_like(scores_GN, dtype=np.float64)
    binary_G = np.isin(np.hstack([scores_GN, expert_G1]), (0.0, 1.0)).all(axis=1)
    result_GN[binary_G] = _closed_form(scores_GN[binary_G], expert_G1[binary_G], k, p_fail_clip)
    result_GN[~binary_G] = _variational(scores_GN[~binary_G], expert_G1[~binary_G], k)
    return result_GN


def _closed_form(scores_GN: np.ndarray, expert_G1: np.ndarray, k: int, p_fail_clip: float) -> np.ndarray:
    """d/dp of the log of the expert's factor, times (1 - R_i - p) / n: an estimate of grad p with a baseline."""
    p_G1 = (1.0 - scores_GN.mean(axis=1, keepdims=True)).clip(p_fail_clip, 1 - p_fail_clip)
    # (1 - p^k) / (1 - p) is 1 + p + .. + p^(k-1), whose logarithm has a derivative at every p, 1 included.
    powers_GK = p_G1 ** np.arange(k)
    right_G1 = (np.arange(1, k) * powers_GK[:, :-1]).sum(axis=1, keepdims=True) / powers_GK.sum(axis=1, keepdims=True)
    failed_GN = 1.0 - scores_GN
    gradient_GN = (failed_GN - failed_GN.mean(axis=1, keepdims=True)) / scores_GN.shape[1]
    # The weight of a wrong expert is infinite at p = 0, but the gradient of a group that never fails is 0.
    wrong_GN = np.divide((k - 1) * gradient_GN, p_G1, out=np.zeros_like(gradient_GN), where=p_G1 > 0)
    return np.where(expert_G1 == 1.0, right_G1 * gradient_GN, wrong_GN)


def _variational(scores_GN: np.ndarray, expert_G1: np.ndarray, k: int) -> np.ndarray:
    """lambda/n 1[r_e >= r_j] - w_j - lambda/n sum_i w_i 1[r_i >= r_j], w the tilted weights of the samples."""
    lam, n = tilt(k), scores_GN.shape[1]
    at_least_GNN = scores_GN[:, :, None] >= scores_GN[:, None, :]
    tilted_GN = np.exp(lam * (at_least_GNN.mean(axis=2) - 1.0))
    weights_GN = tilted_GN / tilted_GN.sum(axis=1, keepdims=True)
    expected_GN = np.einsum("gi,gij->gj", weights_GN, at_least_GNN)
    advantages_GN = lam / n * ((expert_G1 >= scores_GN) - expected_GN) - weights_GN
    # The score function has mean 0, so subtracting the mean adds no bias and lowers the variance.
    return advantages_GN - advantages_GN.mean(axis=1, keepdims=True)
