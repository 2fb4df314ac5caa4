"""The weights of arXiv 2412.15287, with which it trains on samples of the Best-of-N policy.

bonrl's estimators of that paper weight samples of the policy itself; the tests derive their weights from these.
"""

from __future__ import annotations


def g_plus(p_fail: float, k: int) -> float:
    """The weight of a correct sample, N p^(N-1) / (1 - p^N)."""
    return k * p_fail ** (k - 1) / (1 - p_fail**k)


def g_minus(p_fail: float, k: int) -> float:
    """The weight of a wrong sample, N p / (1 - p)."""
    return k * p_fail / (1 - p_fail)
