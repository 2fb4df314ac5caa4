"""pass@k with rewards that are probabilities, or unbiased estimates of right and wrong: 1 - the product of (1 - R).

With rewards of 0 and 1 it is pass@k. U_k = 1 - e_k(1 - R) / C(n, k), where e_k is the elementary symmetric polynomial
of the n values 1 - R: the value is linear in each reward. So if each reward is an unbiased estimate of whether the
answer is right, independently of the others, U_k and its gradient estimates are unbiased for the true pass@k.
`corrected_rewards` gives such rewards for a verifier with known error rates.

Equal responses with equal rewards are one event: they are right together or wrong together, and a verifier judges them
once. So a k-subset has one factor 1 - R for all its copies of a response, and e_k is replaced by the coefficient of t^k
in the product over the different responses of 1 + (1 - R)((1 + t)^m - 1), m the copies of the response.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np

from learner.strategies.array_inputs import as_numbers
from learner.strategies.registry import AnswerGroups, Strategy, array_strategy


def corrected_rewards(accepted: Any, *, false_positive: float, false_negative: float) -> np.ndarray:
    """Rewards whose expectation is 1 for right and 0 for wrong answers, from verdicts with known error rates.

    (R - fp) / (1 - fp - fn), for `soft_pass_at_k` or `mean`. The errors must be independent for different responses
    (`soft_pass_at_k` counts equal ones as one).

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


def _value(groups: AnswerGroups, k: int) -> np.ndarray:
    (table_GK,) = deque(_mean_products(1.0 - groups.rewards_GN, k), maxlen=1)
    return 1.0 - table_GK[:, k]


def _leave_one_out(groups: AnswerGroups, k: int) -> np.ndarray:
    return 1.0 - products_without(1.0 - groups.rewards_GN, k)


def _loo_difference(groups: AnswerGroups, k: int) -> np.ndarray:
    """k/n times the mean product over k-subsets without i, minus x_i times that over (k-1)-subsets without i."""
    x_GN = 1.0 - groups.rewards_GN
    return k / groups.n * (products_without(x_GN, k) - x_GN * products_without(x_GN, k - 1))


def _marginal_contribution(groups: AnswerGroups, k: int) -> np.ndarray:
    """f(I) - f(I without i) is R_i times the product over the others."""
    return k / groups.n * groups.rewards_GN * products_without(1.0 - groups.rewards_GN, k - 1)


def _value_of_copies(groups: AnswerGroups, k: int) -> np.ndarray:
    return np.array([1.0 - _product_of_copies(x_N, labels_N, k) for x_N, labels_N in _rows(groups)])


def _leave_one_out_of_copies(groups: AnswerGroups, k: int) -> np.ndarray:
    return np.stack([1.0 - _products_without_one_copy(x_N, labels_N, k) for x_N, labels_N in _rows(groups)])


def _rows(groups: AnswerGroups) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """1 - R and the labels of the responses of each group."""
    assert groups.responses_GN is not None
    return zip(1.0 - groups.rewards_GN, groups.responses_GN, strict=True)


_COPIES = Strategy("soft_pass_at_k", array_value=_value_of_copies, array_leave_one_out=_leave_one_out_of_copies)

Statistic = Callable[[AnswerGroups, int], np.ndarray]


def _with_copies(of_samples: Statistic, of_copies: Statistic) -> Statistic:
    """A statistic of all groups: `of_copies` for those in which responses repeat, `of_samples` for the others."""

    def statistic(groups: AnswerGroups, k: int) -> np.ndarray:
        found = of_samples(groups, k)
        if groups.responses_GN is not None:
            sorted_GN = np.sort(groups.responses_GN, axis=1)
            repeats_G = (np.diff(sorted_GN, axis=1) == 0).any(axis=1)
            if repeats_G.any():
                found[repeats_G] = of_copies(groups.rows(repeats_G), k)
        return found

    return statistic


array_strategy(
    "soft_pass_at_k",
    array_leave_one_out=_with_copies(_leave_one_out, _COPIES.leave_one_out),
    array_loo_difference=_with_copies(_loo_difference, _COPIES.loo_difference),
    array_marginal_contribution=_with_copies(_marginal_contribution, _COPIES.marginal_contribution),
    optional_inputs=("responses",),
    constant_term=1.0,
    short="soft_pass",
)(_with_copies(_value, _COPIES.value))


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


def _copies_in(x_N: np.ndarray, responses_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """x of each different response [U], the response of each sample as an index [n], and the copies of each."""
    events, of_N, copies = np.unique(np.stack([responses_N, x_N]), axis=1, return_inverse=True, return_counts=True)
    return events[1], of_N.reshape(-1), copies.tolist()


def _product_of_copies(x_N: np.ndarray, responses_N: np.ndarray, k: int) -> float:
    """The mean over the k-subsets of the product of x over their different responses."""
    x_U, _, copies = _copies_in(x_N, responses_N)
    table_K, samples = _no_samples(k), 0
    for x, m in zip(x_U, copies, strict=True):
        table_K, samples = _with_response(table_K, samples, x, m), samples + m
    return float(table_K[k])


def _products_without_one_copy(x_N: np.ndarray, responses_N: np.ndarray, k: int) -> np.ndarray:
    """The same over the k-subsets without sample i, float64[n], k < n. The responses before that of sample i and its
    other copies are one part of the samples, those after it are the rest.
    """
    x_U, of_N, copies = _copies_in(x_N, responses_N)
    before, sizes = [_no_samples(k)], [0]
    for x, m in zip(x_U, copies, strict=True):
        before.append(_with_response(before[-1], sizes[-1], x, m))
        sizes.append(sizes[-1] + m)
    without_U = np.empty(len(x_U))
    after_K, samples = _no_samples(k), 0
    for u in reversed(range(len(x_U))):
        part_K = _with_response(before[u], sizes[u], x_U[u], copies[u] - 1)
        shares = _hypergeometric(sizes[u] + copies[u] - 1, samples, k, min(samples, k))
        without_U[u] = shares @ (after_K[: len(shares)] * part_K[::-1][: len(shares)])
        after_K, samples = _with_response(after_K, samples, x_U[u], copies[u]), samples + copies[u]
    return without_U[of_N]


def _no_samples(k: int) -> np.ndarray:
    return np.eye(1, k + 1)[0]


def _with_response(table_K: np.ndarray, samples: int, x: float, m: int) -> np.ndarray:
    """Mean products over j-subsets, j = 0 .. k, after m copies of a response join these samples."""
    chances = _chances_of_copies(samples, m, k := len(table_K) - 1)
    after_K = chances[0] * table_K
    for i in range(1, len(chances)):
        after_K[i:] += x * chances[i, i:] * table_K[: k + 1 - i]
    return after_K


@lru_cache(maxsize=1024)  # of at most (k + 1)^2 numbers each
def _chances_of_copies(samples: int, m: int, k: int) -> np.ndarray:
    """The probability that a j-subset of these samples and m copies has i copies, [min(m, k) + 1, k + 1]; 0 where
    j > samples + m.
    """
    columns = [_hypergeometric(samples, m, j, min(m, k)) for j in range(min(k, samples + m) + 1)]
    return np.pad(np.stack(columns, axis=1), ((0, 0), (0, k + 1 - len(columns))))


@lru_cache(maxsize=1 << 14)
def _hypergeometric(samples: int, m: int, j: int, most: int) -> np.ndarray:
    """The probability of i = 0 .. most copies in a j-subset of these samples and m copies."""
    ways = [comb(m, i) * comb(samples, j - i) if i <= j else 0 for i in range(most + 1)]
    return np.array([way / comb(samples + m, j) for way in ways])
