"""`group_advantages`: the one function between graded groups and the loss."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np

from learner.estimators.off_policy import off_policy_advantages
from learner.estimators.registry import ESTIMATORS, Estimator, Options, check_estimator
from learner.strategies import STRATEGIES, Group, Strategy, check_strategy, make_group
from learner.strategies.registry import DEFAULT_SUBSETS

ZERO = 1e-12  # advantages below this are rounding noise, and a group of such has no signal
DEFAULT_OPTIONS = Options()


def group_advantages(
    rewards: Any,
    *,
    scores: Any = None,
    answers: Any = None,
    correct: Any = None,
    strategy: str,
    k: int,
    estimator: str = "loo",
    subsets: int = DEFAULT_SUBSETS,
    ratios: Any = None,
    ratio_cap: float = inf,
    options: Options = DEFAULT_OPTIONS,
) -> np.ndarray:
    """Advantages float64, of the shape of `rewards` ([n] or [groups, n]), in the sum convention.

    E[ sum_i A_i grad log pi(y_i) ] is the gradient of the expected reward of `strategy` with k answers, if the
    estimator is an unbiased one. Values below 1e-12 are exactly 0.

    Args:
        rewards, scores, answers, correct, strategy, k, subsets: as in :func:`learner.strategy_value`.
        estimator: `loo` (k < n), `loo1`, `subset`, `pkpo_loo`, or a published method; see `docs/objectives.md`.
        ratios: current / behaviour probability of each sequence, shaped like rewards: the exact off-policy form.
        ratio_cap: truncates them.
        options: what some of the published methods can be told.

    Raises:
        ValueError: naming the bad argument: k > n, `loo` at k = n, non-binary rewards under pass_at_k, NaN, an
            empty group, an unknown name.

    >>> group_advantages([0, 1, 0, 0], strategy="pass_at_k", k=4, estimator="loo1").tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    found = check_strategy(strategy, k)
    group = make_group(rewards, scores, answers, correct, found, subsets)
    method = check_estimator(estimator, strategy=strategy, n=group.n, k=k)
    if ratios is not None:
        ratios_GN = np.atleast_2d(np.asarray(ratios, dtype=np.float64))
        advantages_GN = off_policy_advantages(group, ratios_GN, found, k, method, ratio_cap)
    elif method.from_group is not None:
        advantages_GN = method.from_group(group, k, options)
    elif found.count_value is not None:
        advantages_GN = _by_count(group, found, method, k)
    else:
        advantages_GN = _by_array(group, found, method, k)
    advantages_GN = np.where(np.abs(advantages_GN) < ZERO, 0.0, advantages_GN)
    return advantages_GN[0] if np.ndim(rewards) == 1 else advantages_GN


def _by_array(group: Group, strategy: Strategy, method: Estimator, k: int) -> np.ndarray:
    assert method.combine is not None
    value_G1 = strategy.value(group, k)[:, None]
    without_GN = strategy.leave_one_out(group, k) if k < group.n else np.zeros_like(group.rewards_GN)
    fewer_GN = strategy.fewer(group, k) if method.full_group else None
    return np.asarray(method.combine(value_G1, without_GN, fewer_GN, k / group.n, group.n))


def _by_count(group: Group, strategy: Strategy, method: Estimator, k: int) -> np.ndarray:
    correct_GN = group.rewards_GN == 1.0
    counts_G = correct_GN.sum(axis=1)
    tables = {int(c): _count_advantages(strategy.name, method.name, group.n, int(c), k) for c in np.unique(counts_G)}
    pairs_G2 = np.array([tables[int(c)] for c in counts_G])
    return np.where(correct_GN, pairs_G2[:, :1], pairs_G2[:, 1:])


@lru_cache(maxsize=1 << 16)
def _count_advantages(strategy: str, name: str, n: int, correct: int, k: int) -> tuple[float, float]:
    """Advantage of a correct and of a wrong sample in a group with `correct` correct ones, exact until
    rounded.
    """
    found, combine = STRATEGIES[strategy], ESTIMATORS[name].combine
    assert combine is not None

    def advantage(correct_without: int) -> float:
        without = _exact(found, n - 1, correct_without, k) if k < n else Fraction(0)
        fewer = _exact(found, n - 1, correct_without, k - 1)
        return float(combine(_exact(found, n, correct, k), without, fewer, Fraction(k, n), n))

    # The entry for a kind that the group does not contain is never read.
    return (advantage(correct - 1) if correct else 0.0, advantage(correct) if correct < n else 0.0)


def _exact(strategy: Strategy, n: int, correct: int, k: int) -> Fraction:
    assert strategy.count_value is not None
    return strategy.count_value(n, correct, k) if k else Fraction(0)
