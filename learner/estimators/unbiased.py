"""Unbiased estimators of the gradient of any inference strategy's expected reward.

Each is the subset credit s_i = U_k - (1 - k/n) U_k(-i), whose expected update is the gradient, minus a baseline that
does not depend on sample i. Nothing here divides by a standard deviation: that would change the objective across
prompts. Sources: arXiv 2505.15201 (subset credit eq. 8, `pkpo_loo` eq. 29, `loo1` eq. 33), for any symmetric strategy.
"""

from __future__ import annotations

from typing import Any

from learner.estimators.leave_one_out import UStatistics
from learner.estimators.registry import estimator


@estimator("loo", allows_k_equal_n=False, off_policy=True)
def loo(u: UStatistics) -> Any:
    """U_k - U_k(-i): the part of the group's value due to sample i. The baseline is k/n times U_k(-i)."""
    return u.loo_difference


@estimator("loo1", off_policy=True)
def loo1(u: UStatistics) -> Any:
    """s_i - (k/n) U_{k-1}(-i): the mean of f(I) - f(I without i) over the k-subsets I with i, times k/n.

    At k = 1 it has no baseline: prefer loo there. For binary rewards it is the unbiased form of BoN-RLB(P).
    """
    return u.marginal_contribution


@estimator("subset", off_policy=True)
def subset(u: UStatistics) -> Any:
    """s_i: the subset credit itself, without a baseline. Noisy where success is frequent."""
    return u.loo_difference + u.k_over_n * u.leave_one_out


@estimator("pkpo_loo", allows_k_equal_n=False)
def pkpo_loo(u: UStatistics) -> Any:
    """s_i - k/(n - 1) U_k(-i): PKPO's leave-one-out. Subtracts more than `loo`, and is noisy on easy prompts."""
    return u.loo_difference - u.k_over_n / (u.n - 1) * u.leave_one_out


@estimator("rloo", allows_k_equal_n=False, strategies=("mean",))
def rloo(u: UStatistics) -> Any:
    """(R_i - mean of the others) / n: REINFORCE leave-one-out (arXiv 2402.14740). `loo` at k = 1 by its usual name."""
    return u.loo_difference
