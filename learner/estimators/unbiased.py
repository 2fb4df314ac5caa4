"""Unbiased estimators of the gradient of any inference strategy's expected reward.

Each is the subset credit s_i = U_k - (1 - k/n) U_k(-i), whose expected update is the gradient, minus a baseline that
does not depend on sample i. Nothing here divides by a standard deviation: that would change the objective across
prompts. Sources: arXiv 2505.15201 (subset credit eq. 8, `pkpo_loo` eq. 29, `loo1` eq. 33), for any symmetric strategy.
"""

from __future__ import annotations

from typing import Any

from learner.estimators.leave_one_out import Terms
from learner.estimators.registry import estimator


@estimator("loo", full_group=False)
def loo(terms: Terms) -> Any:
    """U_k - U_k(-i): what the group's value owes to sample i. The baseline is k/n times U_k(-i)."""
    return terms.owed


@estimator("loo1")
def loo1(terms: Terms) -> Any:
    """s_i - (k/n) U_{k-1}(-i): the mean of f(I) - f(I without i) over the k-subsets I with i, times k/n.

    At k = 1 it has no baseline: prefer loo there. For binary rewards it is the unbiased form of BoN-RLB(P).
    """
    return terms.marginal


@estimator("subset")
def subset(terms: Terms) -> Any:
    """s_i: the subset credit itself, without a baseline. Noisy where success is frequent."""
    return terms.owed + terms.share * terms.without


@estimator("pkpo_loo", full_group=False)
def pkpo_loo(terms: Terms) -> Any:
    """s_i - k/(n - 1) U_k(-i): PKPO's leave-one-out. Subtracts more than `loo`, and is noisy on easy prompts."""
    return terms.owed - terms.share / (terms.n - 1) * terms.without


@estimator("rloo", full_group=False, strategies=("mean",))
def rloo(terms: Terms) -> Any:
    """(R_i - mean of the others) / n: REINFORCE leave-one-out (arXiv 2402.14740). `loo` at k = 1 by its usual name."""
    return terms.owed
