"""`group_advantages`: the one function between graded groups and the loss."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np

from learner.estimators.leave_one_out import ArrayTerms, ConstantTerms, CountTerms
from learner.estimators.off_policy import off_policy_advantages
from learner.estimators.registry import ESTIMATORS, Estimator, Options, check_estimator
from learner.strategies import (
    STRATEGIES,
    Group,
    Strategy,
    as_count,
    check_strategy,
    finite,
    like_rewards,
    make_group,
)
from learner.strategies.registry import DEFAULT_SUBSETS

ZERO = 1e-12  # advantages below this, times the spread of the rewards, are rounding; a group of such has no signal
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
    estimator is an unbiased one. Values below 1e-12 of the spread of a group's rewards are exactly 0.

    Args:
        rewards, scores, answers, correct, strategy, k, subsets: as in :func:`learner.strategy_value`.
        estimator: `loo` (k < n), `loo1`, `subset`, `pkpo_loo`, or a published method; see `docs/objectives.md`.
        ratios: current / behaviour probability of each sequence, shaped like rewards: the exact off-policy form.
        ratio_cap: truncates them.
        options: what some of the published methods can be told.

    Raises:
        ValueError: naming the bad argument: k > n, `loo` at k = n, non-binary rewards under pass_at_k, NaN, an
            empty group, an unknown name; or what overflowed float64.

    >>> group_advantages([0, 1, 0, 0], strategy="pass_at_k", k=4, estimator="loo1").tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    found, k = check_strategy(strategy, k), as_count("k", k)
    group = make_group(rewards, scores, answers, correct, found, subsets)
    method = check_estimator(estimator, strategy=strategy, n=group.n, k=k)
    if not isinstance(options, Options):
        raise ValueError(f"options must be learner.estimators.Options, got {options!r}")
    if ratios is None and ratio_cap != inf:
        raise ValueError(f"ratio_cap = {ratio_cap!r} truncates ratios, and none are given")
    ratios_GN = None if ratios is None else like_rewards("ratios", ratios, np.shape(rewards))
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow is refused by name
        if ratios_GN is not None:
            advantages_GN = off_policy_advantages(group, ratios_GN, found, k, method, ratio_cap)
        elif method.from_group is not None:
            advantages_GN = method.from_group(group, k, options)
        elif found.count_value is not None:
            advantages_GN = _by_count(group, found, method, k)
        else:
            advantages_GN = _by_array(group, found, method, k)
    finite("the advantages", advantages_GN, group.rewards_GN, ratios_GN)
    noise_G1 = ZERO * _noise_scale(group, found, method, k, advantages_GN, ratios is None)
    advantages_GN = np.where(np.abs(advantages_GN) <= noise_G1, 0.0, advantages_GN)
    return advantages_GN[0] if np.ndim(rewards) == 1 else advantages_GN


def _by_array(group: Group, strategy: Strategy, method: Estimator, k: int) -> np.ndarray:
    assert method.combine is not None
    if not strategy.translates:
        return np.asarray(method.combine(ArrayTerms(strategy, group, k)))
    # Formulas are linear, so a constant can be taken out of the rewards and its part put back: rewards of 1000.3 leave
    # no rounding of 1000.3 behind. The smallest one, because it does not depend on the order of the samples.
    least_G1 = group.rewards_GN.min(axis=1, keepdims=True)
    terms = ArrayTerms(strategy, replace(group, rewards_GN=group.rewards_GN - least_G1), k)
    return method.combine(terms) + least_G1 * float(method.combine(ConstantTerms(group.n, k)))


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
    right = combine(CountTerms(found, n, k, correct, correct - 1)) if correct else 0
    wrong = combine(CountTerms(found, n, k, correct, correct)) if correct < n else 0
    return float(right), float(wrong)  # the entry for a kind that the group does not contain is never read


def _noise_scale(
    group: Group, strategy: Strategy, method: Estimator, k: int, advantages_GN: np.ndarray, on_policy: bool
) -> np.ndarray:
    """How large the numbers are whose differences the advantages are, float64[G, 1]: ZERO times it is rounding."""
    if on_policy and method.combine is not None and (strategy.translates or strategy.count_value is not None):
        return np.ptp(group.rewards_GN, axis=1)[:, None]
    scale_G1 = np.abs(advantages_GN).max(axis=1, keepdims=True)
    return scale_G1 if method.combine is None else scale_G1 + np.abs(strategy.value(group, k))[:, None]
