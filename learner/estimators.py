"""Advantages: unbiased estimators of the gradient of an inference strategy's expected reward.

Sum convention: grad J = E[ sum_i A_i grad log pi(y_i) ] with the sum over the n samples of a group. Each
estimator is the subset credit s_i = U_k - (1 - k/n) U_k(-i) minus a baseline that does not depend on y_i,
hence unbiased for every symmetric strategy. It is written once, on numbers, and runs on exact Fractions as
well as on arrays. Nothing here divides by a standard deviation: that would change the objective across
prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from learner.strategies import STRATEGIES, Strategy, check_strategy, make_group, nearest

ZERO = 1e-12  # advantages below this are rounding noise, and a group of such has no signal


@dataclass(frozen=True)
class Estimator:
    """`combine(U_k, U_k(-i), U_{k-1}(-i), k/n, n)` gives A_i; `full_group` says whether it is defined at k
    = n.
    """

    name: str
    combine: Callable[[Any, Any, Any, Any, int], Any]
    full_group: bool


ESTIMATORS: dict[str, Estimator] = {}


def estimator(name: str, *, full_group: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of (value, without, without_fewer, share, n) as the estimator `name`."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        ESTIMATORS[name] = Estimator(name, function, full_group)
        return function

    return register


@estimator("loo", full_group=False)
def _loo(value: Any, without: Any, without_fewer: Any, share: Any, n: int) -> Any:
    """U_k - U_k(-i): what the group's value owes to sample i."""
    return value - without


@estimator("loo1", full_group=True)
def _loo1(value: Any, without: Any, without_fewer: Any, share: Any, n: int) -> Any:
    """s_i - (k/n) U_{k-1}(-i): the mean of f(I) - f(I without i) over the k-subsets I with i, times k/n.

    arXiv 2505.15201, eq. 33. At k = 1 it has no baseline: prefer loo there.
    """
    return value - (1 - share) * without - share * without_fewer


def group_advantages(
    rewards: Any,
    *,
    scores: Any = None,
    answers: Any = None,
    correct: Any = None,
    strategy: str,
    k: int,
    estimator: str = "loo",
) -> np.ndarray:
    """Advantages float64, of the shape of `rewards` ([n] or [groups, n]), in the sum convention.

    E[ sum_i A_i grad log pi(y_i) ] is the gradient of the expected reward of `strategy` with k answers.
    Values below 1e-12 are exactly 0. Raises ValueError naming the bad argument: k > n, `loo` at k = n,
    non-binary rewards under pass_at_k, NaN, an empty group, an unknown name.

    >>> group_advantages([0, 1, 0, 0], strategy="pass_at_k", k=4, estimator="loo1").tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    found = check_strategy(strategy, k)
    group = make_group(rewards, scores, answers, correct, found)
    check_estimator(estimator, n=group.n, k=k)
    if found.count_value is not None:
        correct_GN = group.rewards_GN == 1.0
        tables = {
            int(c): _count_advantages(strategy, estimator, group.n, int(c), k)
            for c in np.unique(correct_GN.sum(axis=1))
        }
        pairs_G2 = np.array([tables[int(c)] for c in correct_GN.sum(axis=1)])
        advantages_GN = np.where(correct_GN, pairs_G2[:, :1], pairs_G2[:, 1:])
    else:
        value_G1 = found.value(group, k)[:, None]
        without_GN = found.leave_one_out(group, k) if k < group.n else np.zeros_like(group.rewards_GN)
        fewer_GN = found.leave_one_out(group, k - 1)
        advantages_GN = ESTIMATORS[estimator].combine(value_G1, without_GN, fewer_GN, k / group.n, group.n)
    advantages_GN = np.where(np.abs(advantages_GN) < ZERO, 0.0, advantages_GN)
    return advantages_GN[0] if np.ndim(rewards) == 1 else advantages_GN


def check_estimator(name: str, *, n: int | None = None, k: int | None = None) -> None:
    """ValueError if there is no such estimator, or if groups of n samples cannot serve it at this k."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator '{name}' is unknown{nearest(name, ESTIMATORS)}")
    if n is None or k is None:
        return
    if k > n:
        raise ValueError(f"k = {k} is larger than the group, n = {n}: no unbiased estimate exists; lower k or raise n")
    if k == n and not ESTIMATORS[name].full_group:
        raise ValueError(f"estimator '{name}' needs k < n, got k = n = {n}; lower k, raise n or use 'loo1'")


@lru_cache(maxsize=1 << 16)
def _count_advantages(strategy: str, name: str, n: int, correct: int, k: int) -> tuple[float, float]:
    """Advantage of a correct and of a wrong sample in a group with `correct` correct ones, exact until
    rounded.
    """
    found = STRATEGIES[strategy]

    def advantage(correct_without: int) -> float:
        without = _exact(found, n - 1, correct_without, k) if k < n else Fraction(0)
        fewer = _exact(found, n - 1, correct_without, k - 1)
        share = Fraction(k, n)
        return float(ESTIMATORS[name].combine(_exact(found, n, correct, k), without, fewer, share, n))

    # The entry for a kind that the group does not contain is never read.
    return (advantage(correct - 1) if correct else 0.0, advantage(correct) if correct < n else 0.0)


def _exact(strategy: Strategy, n: int, correct: int, k: int) -> Fraction:
    assert strategy.count_value is not None
    return strategy.count_value(n, correct, k) if k else Fraction(0)
