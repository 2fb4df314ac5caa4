"""pass@k with rewards that are probabilities, or unbiased estimates of right and wrong: 1 - the product of (1 - R).

With rewards of 0 and 1 it is pass@k. U_k = 1 - e_k(1 - R) / C(n, k), where e_k is the elementary symmetric polynomial
of the n values 1 - R: the value is linear in each reward. So if each reward is an unbiased estimate of whether the
answer is right, independently of the others, U_k and its gradient estimates are unbiased for the true pass@k.
`corrected_rewards` gives such rewards for a verifier with known error rates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from learner.strategies.array_inputs import as_numbers
from learner.strategies.registry import AnswerGroups, array_strategy


def corrected_rewards(accepted: Any, *, false_positive: float, false_negative: float) -> np.ndarray:
    """Rewards whose expectation is 1 for right and 0 for wrong answers, from verdicts with known error rates.

    (R - fp) / (1 - fp - fn), for `soft_pass_at_k` or `mean`. The errors must be independent for each
    sample: a verifier that always errs on the same answer is not corrected.

    Args:
        accepted: verdicts of 0 and 1, of any shape.
        false_positive: probability that a wrong answer is accepted.
        false_negative: probability that a right answer is rejected.

    Raises:
        ValueError: naming the argument; the rates must be in [0, 1) and their sum below 1.

    >>> corrected_rewards([1, 0], false_positive=0.1, false_negative=0.1).tolist()
    [1.125, -0.125]
    """
    verdicts = as_numbers("accepted", accepted)
    if not np.isin(verdicts, (0.0, 1.0)).all():
        raise ValueError("accepted must be 0 or 1: a verdict, not a score")
    for name, rate in (("false_positive", false_positive), ("false_negative", false_negative)):
        if not (isinstance(rate, int | float | np.floating) and 0 <= rate < 1):
            raise ValueError(f"{name} must be in [0, 1), got {rate!r}")
    if false_positive + false_negative >= 1:
        raise ValueError(
            f"false_positive + false_negative = {false_positive + false_negative} must be below 1: such verdicts say "
            "nothing about the answers"
        )
    return (verdicts - false_positive) / (1 - false_positive - false_negative)


def _leave_one_out(groups: AnswerGroups, k: int) -> np.ndarray:
    return 1.0 - products_without(1.0 - groups.rewards_GN, k)


def _loo_difference(groups: AnswerGroups, k: int) -> np.ndarray:
    """k/n times the mean product over k-subsets without i, minus x_i times that over (k-1)-subsets without i."""
    x_GN = 1.0 - groups.rewards_GN
    return k / groups.n * (products_without(x_GN, k) - x_GN * products_without(x_GN, k - 1))


def _marginal_contribution(groups: AnswerGroups, k: int) -> np.ndarray:
    """f(I) - f(I without i) is R_i times the product over the others."""
    return k / groups.n * groups.rewards_GN * products_without(1.0 - groups.rewards_GN, k - 1)


@array_strategy(
    "soft_pass_at_k",
    array_leave_one_out=_leave_one_out,
    array_loo_difference=_loo_difference,
    array_marginal_contribution=_marginal_contribution,
    short="soft_pass",
)
def soft_pass_at_k(groups: AnswerGroups, k: int) -> np.ndarray:
    """1 - the mean, over k-subsets, of the product of 1 - R."""
    (table_GK,) = deque(_mean_products(1.0 - groups.rewards_GN, k), maxlen=1)
    return 1.0 - table_GK[:, k]


def products_without(x_GN: np.ndarray, k: int) -> np.ndarray:
    """The mean product over the k-subsets without sample i, float64[G, n], 0 <= k < n.

    It is n / (k+1) times the derivative of the mean product over (k+1)-subsets by x_i: one pass back through its
    recurrence, O(n k) for all samples.
    """
    n, size = x_GN.shape[1], k + 1
    forward = list(_mean_products(x_GN, size))
    j = np.arange(size + 1)
    back_GK = np.zeros((len(x_GN), size + 1))
    back_GK[:, size] = 1.0
    result_GN = np.empty_like(x_GN)
    for m in range(n, 0, -1):
        share = np.minimum(j / m, 1.0)
        result_GN[:, m - 1] = (back_GK[:, 1:] * share[1:] * forward[m - 1][:, :-1]).sum(axis=1)
        taken_GK = back_GK[:, 1:] * share[1:] * x_GN[:, [m - 1]]
        back_GK = back_GK * (1.0 - share)
        back_GK[:, :-1] += taken_GK
    return result_GN * n / size


def _mean_products(x_GN: np.ndarray, k: int) -> Iterator[np.ndarray]:
    """e_j / C(m, j) of the first m values for j = 0 .. k, [G, k+1], for each m = 0 .. n in turn; 0 where j > m."""
    j = np.arange(k + 1)
    table_GK = np.zeros((len(x_GN), k + 1))
    table_GK[:, 0] = 1.0
    yield table_GK
    for m in range(1, x_GN.shape[1] + 1):
        share = np.minimum(j / m, 1.0)
        taken_GK = table_GK[:, :-1] * share[1:] * x_GN[:, [m - 1]]
        table_GK = table_GK * (1.0 - share)
        table_GK[:, 1:] += taken_GK
        yield table_GK
