"""`group_advantages`: from graded groups to the advantages that the loss uses."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np

from learner.estimators.leave_one_out import ArrayUStatistics, ConstantUStatistics, CountUStatistics
from learner.estimators.off_policy import off_policy_advantages
from learner.estimators.registry import ESTIMATORS, Estimator, Options, check_estimator
from learner.strategies import (
    STRATEGIES,
    AnswerGroups,
    Strategy,
    as_count,
    check_strategy,
    finite,
    like_rewards,
    make_group,
)
from learner.strategies.registry import DEFAULT_SUBSETS

ROUNDING = 1e-12  # advantages below this times the spread of the rewards are rounding errors and become 0
DEFAULT_OPTIONS = Options()


def group_advantages(
    rewards: Any,
    *,
    scores: Any = None,
    answers: Any = None,
    correct: Any = None,
    responses: Any = None,
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
    estimator is an unbiased one. Values below 1e-12 of the spread of a group's rewards are exactly 0.

    Args:
        rewards, scores, answers, correct, responses, strategy, k, subsets: as in :func:`learner.strategy_value`.
        estimator: `loo` (k < n), `loo1`, `subset`, `pkpo_loo`, or a published method; see `docs/objectives.md`.
        ratios: current / behaviour probability of each sequence, shaped like rewards: the exact off-policy form.
        ratio_cap: truncates them.
        options: parameters of some published methods.

    Raises:
        ValueError: naming the bad argument: k > n, `loo` at k = n, non-binary rewards under pass_at_k, NaN, an
            empty group, an unknown name; or an overflow of float64.

    >>> group_advantages([0, 1, 0, 0], strategy="pass_at_k", k=4, estimator="loo1").tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    found, k = check_strategy(strategy, k), as_count("k", k)
    groups = make_group(rewards, scores, answers, correct, found, subsets, responses=responses)
    method = check_estimator(estimator, strategy=strategy, n=groups.n, k=k)
    if not isinstance(options, Options):
        raise ValueError(f"options must be learner.estimators.Options, got {options!r}")
    if ratios is None and ratio_cap != inf:
        raise ValueError(f"ratio_cap = {ratio_cap!r} truncates ratios, but no ratios are given")
    ratios_GN = None if ratios is None else like_rewards("ratios", ratios, np.shape(rewards))
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is refused by name
        if ratios_GN is not None:
            advantages_GN = off_policy_advantages(groups, ratios_GN, found, k, method, ratio_cap)
        elif method.from_groups is not None:
            advantages_GN = method.from_groups(groups, k, options)
        elif found.count_value is not None:
            advantages_GN = _by_count(groups, found, method, k)
        else:
            advantages_GN = _by_array(groups, found, method, k)
    advantages_GN = np.asarray(advantages_GN, dtype=np.float64)
    if advantages_GN.shape != groups.rewards_GN.shape:  # it would be broadcast
        raise ValueError(
            f"estimator '{estimator}' returned shape {advantages_GN.shape}; it must return one advantage for each "
            f"sample, shape {groups.rewards_GN.shape}"
        )
    finite("the advantages", advantages_GN, groups.rewards_GN, ratios_GN)
    noise_G1 = ROUNDING * _noise_scale(groups, found, method, k, advantages_GN, ratios is None)
    advantages_GN = np.where(np.abs(advantages_GN) <= noise_G1, 0.0, advantages_GN)
    return advantages_GN[0] if np.ndim(rewards) == 1 else advantages_GN


def _by_array(groups: AnswerGroups, strategy: Strategy, method: Estimator, k: int) -> np.ndarray:
    assert method.combine is not None
    if not strategy.translation_equivariant:
        return np.asarray(method.combine(ArrayUStatistics(strategy, groups, k)))
    # Formulas are linear, so a constant is subtracted from the rewards and its part added back: rewards near 1000.3
    # then have no rounding errors of that size. The smallest reward, because it does not depend on the sample order.
    smallest_G1 = groups.rewards_GN.min(axis=1, keepdims=True)
    statistics = ArrayUStatistics(strategy, replace(groups, rewards_GN=groups.rewards_GN - smallest_G1), k)
    return method.combine(statistics) + smallest_G1 * float(method.combine(ConstantUStatistics(groups.n, k)))


def _by_count(groups: AnswerGroups, strategy: Strategy, method: Estimator, k: int) -> np.ndarray:
    correct_GN = groups.rewards_GN == 1.0
    counts_G = correct_GN.sum(axis=1)
    tables = {int(c): _count_advantages(strategy.name, method.name, groups.n, int(c), k) for c in np.unique(counts_G)}
    pairs_G2 = np.array([tables[int(c)] for c in counts_G])
    return np.where(correct_GN, pairs_G2[:, :1], pairs_G2[:, 1:])


@lru_cache(maxsize=1 << 16)
def _count_advantages(strategy: str, name: str, n: int, correct: int, k: int) -> tuple[float, float]:
    """Advantages of a correct and of a wrong sample in a group with `correct` correct ones, rounded once."""
    found, combine = STRATEGIES[strategy], ESTIMATORS[name].combine
    assert combine is not None
    right = combine(CountUStatistics(found, n, k, correct, correct - 1)) if correct else 0
    wrong = combine(CountUStatistics(found, n, k, correct, correct)) if correct < n else 0
    return float(right), float(wrong)  # 0 for a kind that the group does not contain; never read


def _noise_scale(
    groups: AnswerGroups, strategy: Strategy, method: Estimator, k: int, advantages_GN: np.ndarray, on_policy: bool
) -> np.ndarray:
    """Magnitude of the numbers that are subtracted, float64[G, 1]; ROUNDING times it is rounding error."""
    if (
        on_policy
        and method.combine is not None
        and (strategy.translation_equivariant or strategy.count_value is not None)
    ):
        return np.ptp(groups.rewards_GN, axis=1)[:, None]
    scale_G1 = np.abs(advantages_GN).max(axis=1, keepdims=True)
    if method.combine is None:
        return scale_G1
    return scale_G1 + np.abs(strategy.value(groups, k))[:, None] + strategy.constant_term
