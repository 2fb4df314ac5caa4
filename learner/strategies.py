"""Inference strategies as U-statistics: U_k(group) is the strategy's expected reward over the k-subsets of
a group.

A strategy is one function. Two kinds are registered:

- `count_strategy`: the value depends only on how many of the n samples are correct (binary rewards). The
  function maps (n, correct, k) to an exact Fraction, and everything derived from it is exact until the
  last rounding.
- `array_strategy`: the function maps a `Group` and k to float64[G]. Leaving one sample out is done by
  deletion unless the strategy brings a faster way.

Estimators (`learner.estimators`) see only U_k of the group and of the group without each sample, so they
work for every strategy. Source: the U-statistic identities of arXiv 2505.15201, section 3, for any
symmetric strategy.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Group:
    """G groups of n samples each: rewards_GN float64, and what other strategies select by (None where not
    given).
    """

    rewards_GN: np.ndarray
    scores_GN: np.ndarray | None = None
    answers_GN: np.ndarray | None = None
    correct_G: np.ndarray | None = None

    @property
    def n(self) -> int:
        return self.rewards_GN.shape[1]

    def without(self, i: int) -> Group:
        """The groups with sample i deleted."""

        def cut(a: np.ndarray | None) -> np.ndarray | None:
            return None if a is None else np.delete(a, i, axis=1)

        return Group(np.delete(self.rewards_GN, i, axis=1), cut(self.scores_GN), cut(self.answers_GN), self.correct_G)


@dataclass(frozen=True)
class Strategy:
    """A registered strategy; exactly one of `count_value` and `array_value` is set."""

    name: str
    count_value: Callable[[int, int, int], Fraction] | None = None
    array_value: Callable[[Group, int], np.ndarray] | None = None
    array_leave_one_out: Callable[[Group, int], np.ndarray] | None = None
    only_k: int | None = None

    def value(self, group: Group, k: int) -> np.ndarray:
        """U_k, float64[G]."""
        if self.count_value is not None:
            return np.array([float(self.count_value(group.n, int(c), k)) for c in _counts(group)], dtype=np.float64)
        assert self.array_value is not None
        return self.array_value(group, k)

    def leave_one_out(self, group: Group, k: int) -> np.ndarray:
        """U_k of the group without each sample, float64[G, n]; an array strategy's only, 0 <= k <= n - 1.

        U_0 is 0: no answer, no reward.
        """
        if k == 0:
            return np.zeros_like(group.rewards_GN)
        if self.array_leave_one_out is not None:
            return self.array_leave_one_out(group, k)
        assert self.array_value is not None
        return np.stack([self.array_value(group.without(i), k) for i in range(group.n)], axis=1)


STRATEGIES: dict[str, Strategy] = {}


def count_strategy(
    name: str,
) -> Callable[[Callable[[int, int, int], Fraction]], Callable[[int, int, int], Fraction]]:
    """Register `function(n, correct, k) -> Fraction` as the binary-reward strategy `name`."""

    def register(function: Callable[[int, int, int], Fraction]) -> Callable[[int, int, int], Fraction]:
        STRATEGIES[name] = Strategy(name, count_value=function)
        return function

    return register


def array_strategy(
    name: str, *, leave_one_out: Callable[[Group, int], np.ndarray] | None = None, only_k: int | None = None
) -> Callable[[Callable[[Group, int], np.ndarray]], Callable[[Group, int], np.ndarray]]:
    """Register `function(group, k) -> float64[G]` as the strategy `name`."""

    def register(function: Callable[[Group, int], np.ndarray]) -> Callable[[Group, int], np.ndarray]:
        STRATEGIES[name] = Strategy(name, array_value=function, array_leave_one_out=leave_one_out, only_k=only_k)
        return function

    return register


@count_strategy("pass_at_k")
@lru_cache(maxsize=1 << 16)
def pass_at_k_exact(n: int, correct: int, k: int) -> Fraction:
    """Probability that k of n samples, drawn without replacement, hold a correct one (arXiv 2107.03374,
    eq. 1).
    """
    return 1 - Fraction(comb(n - correct, k), comb(n, k))


def _mean_without(group: Group, k: int) -> np.ndarray:
    rewards_GN = group.rewards_GN
    return (rewards_GN.sum(axis=1, keepdims=True) - rewards_GN) / (group.n - 1)


@array_strategy("mean", leave_one_out=_mean_without, only_k=1)
def mean(group: Group, k: int) -> np.ndarray:
    """The mean reward: one answer is drawn and used."""
    return group.rewards_GN.mean(axis=1)


def strategy_value(
    rewards: Any, *, scores: Any = None, answers: Any = None, correct: Any = None, strategy: str, k: int
) -> Any:
    """U_k: the unbiased estimate, from n >= k samples, of the expected reward of `strategy` with k answers.

    `rewards` is [n] or [G, n]; returns a float64, or float64[G]. Raises ValueError naming the bad argument.

    >>> float(strategy_value([0, 1, 0, 0], strategy="pass_at_k", k=2))
    0.5
    """
    found = check_strategy(strategy, k)
    group = make_group(rewards, scores, answers, correct, found)
    if k > group.n:
        raise ValueError(f"k = {k} is larger than the group, n = {group.n}: no unbiased estimate exists")
    value_G = found.value(group, k)
    return value_G[0] if np.ndim(rewards) == 1 else value_G


def check_strategy(name: str, k: int) -> Strategy:
    """The strategy of that name, able to serve this k; ValueError otherwise."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy '{name}' is unknown{nearest(name, STRATEGIES)}")
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be an integer >= 1, got {k!r}")
    only = STRATEGIES[name].only_k
    if only is not None and k != only:
        raise ValueError(f"k = {k} does not go with strategy '{name}', which is defined for k = {only}; set k = {only}")
    return STRATEGIES[name]


def make_group(rewards: Any, scores: Any, answers: Any, correct: Any, strategy: Strategy) -> Group:
    """Validated arrays [G, n]. Arguments that the strategy does not use are only checked for their shape."""
    rewards_GN = _float_matrix("rewards", rewards)
    if strategy.count_value is not None and not np.isin(rewards_GN, (0.0, 1.0)).all():
        raise ValueError(f"rewards must be 0 or 1 for strategy '{strategy.name}'")
    scores_GN = None if scores is None else _float_matrix("scores", scores)
    answers_GN = None if answers is None else np.atleast_2d(np.asarray(answers, dtype=object))
    for name, array in (("scores", scores_GN), ("answers", answers_GN)):
        if array is not None and array.shape != rewards_GN.shape:
            raise ValueError(f"{name} has shape {np.shape(array)}, rewards has {rewards_GN.shape}")
    correct_G = None if correct is None else np.atleast_1d(np.asarray(correct, dtype=object))
    return Group(rewards_GN, scores_GN, answers_GN, correct_G)


def nearest(name: str, known: Any) -> str:
    """'; did you mean ...?' and the list of what there is, for an error message."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return f"{hint} Known: {', '.join(sorted(known))}"


def _float_matrix(name: str, values: Any) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers of shape [n] or [groups, n]: {error}") from error
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{name} must be a non-empty array of shape [n] or [groups, n], got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity; a failed verifier must be left out, not scored")
    return np.atleast_2d(array)


def _counts(group: Group) -> np.ndarray:
    return group.rewards_GN.sum(axis=1).astype(np.int64)
