"""Inference strategies as U-statistics: U_k(group) is the strategy's expected reward over the k-subsets of
a group.

A strategy is one function. Three kinds are registered:

- `count_strategy`: the value depends only on how many of the n samples are correct (binary rewards). The
  function maps (n, correct, k) to an exact Fraction, and everything derived from it is exact until the
  last rounding.
- `array_strategy`: the function maps a `Group` and k to U_k, float64[G]. Leaving one sample out is done by
  deletion unless the strategy brings a faster way.
- `subset_strategy` (`learner.strategies.subsets`): the function maps groups of exactly k answers to what
  the strategy earns with them. The k-subsets are enumerated, or drawn once in a balanced design.

Estimators (`learner.estimators`) see only differences of U_k of the group and of the group without each sample,
so they work for every strategy. Source: the U-statistic identities of arXiv 2505.15201, section 3, for any
symmetric strategy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

UNPARSABLE, CORRECT = -1, 0  # labels of Group.answers_GN
DEFAULT_SUBSETS = 256


@dataclass(frozen=True)
class Group:
    """G groups of n samples each, and what the strategy selects by (None where it asks for nothing).

    rewards_GN: float64. scores_GN: the verifier's scores, float64. answers_GN: int64 labels, equal within a
    group where the answers are equal: CORRECT for the right answer, UNPARSABLE for none, others from 1 on.
    subsets: how many k-subsets a `subset_strategy` may draw where it cannot have all.
    """

    rewards_GN: np.ndarray
    scores_GN: np.ndarray | None = None
    answers_GN: np.ndarray | None = None
    subsets: int = DEFAULT_SUBSETS

    @property
    def n(self) -> int:
        return self.rewards_GN.shape[1]

    def without(self, i: int) -> Group:
        """The groups with sample i deleted."""

        return self.take(np.delete(np.arange(self.n), i))

    def take(self, samples: np.ndarray) -> Group:
        """The groups with only these samples (indices int[m])."""

        def cut(a: np.ndarray | None) -> np.ndarray | None:
            return None if a is None else a[:, samples]

        return replace(
            self, rewards_GN=self.rewards_GN[:, samples], scores_GN=cut(self.scores_GN), answers_GN=cut(self.answers_GN)
        )


@dataclass(frozen=True)
class Strategy:
    """A registered strategy; exactly one of `count_value` and `array_value` is set.

    What an array strategy can compute faster or with less rounding than from U_k by deleting samples, [G, n] each:
    `array_leave_one_out(group, k)`: U_k(-i). `array_fewer(group, k)`: U_{k-1}(-i), or the term that stands for it.
    `array_owed(group, k)`: U_k - U_k(-i), k < n. `array_marginal(group, k)`: the mean of f(I) - f(I without i) over the
    k-subsets I with i, times k/n.

    translates: whether adding a constant to all rewards adds it to the value. needs: the arguments that the strategy
    selects by; it is given no others beside the rewards. short: what its curve is called, `eval/<short>@<k>`; its name
    where that is empty.
    """

    name: str
    count_value: Callable[[int, int, int], Fraction] | None = None
    array_value: Callable[[Group, int], np.ndarray] | None = None
    array_leave_one_out: Callable[[Group, int], np.ndarray] | None = None
    array_fewer: Callable[[Group, int], np.ndarray] | None = None
    array_owed: Callable[[Group, int], np.ndarray] | None = None
    array_marginal: Callable[[Group, int], np.ndarray] | None = None
    translates: bool = False
    only_k: int | None = None
    needs: tuple[str, ...] = ()
    short: str = ""

    @property
    def metric(self) -> str:
        """What its curve is called."""
        return self.short or self.name

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
        if self.array_owed is not None:
            return self.value(group, k)[:, None] - self.array_owed(group, k)
        return np.stack([self.value(group.without(i), k) for i in range(group.n)], axis=1)

    def owed(self, group: Group, k: int) -> np.ndarray:
        """U_k - U_k(-i), float64[G, n]; an array strategy's only, k < n."""
        if self.array_owed is not None:
            return self.array_owed(group, k)
        return self.value(group, k)[:, None] - self.leave_one_out(group, k)

    def marginal(self, group: Group, k: int) -> np.ndarray:
        """U_k - (1 - k/n) U_k(-i) - k/n U_{k-1}(-i), float64[G, n]; an array strategy's only."""
        if self.array_marginal is not None:
            return self.array_marginal(group, k)
        share, credit_GN = k / group.n, self.value(group, k)[:, None]
        if k < group.n:
            credit_GN = credit_GN - (1 - share) * self.leave_one_out(group, k)
        fewer = self.array_fewer(group, k) if self.array_fewer is not None else self.leave_one_out(group, k - 1)
        return credit_GN - share * fewer


STRATEGIES: dict[str, Strategy] = {}


def count_strategy(
    name: str, **parts: Any
) -> Callable[[Callable[[int, int, int], Fraction]], Callable[[int, int, int], Fraction]]:
    """Register `function(n, correct, k) -> Fraction` as the binary-reward strategy `name`; `parts` are further
    fields of `Strategy`.
    """

    def register(function: Callable[[int, int, int], Fraction]) -> Callable[[int, int, int], Fraction]:
        STRATEGIES[name] = Strategy(name, count_value=function, **parts)
        return function

    return register


def array_strategy(
    name: str, **parts: Any
) -> Callable[[Callable[[Group, int], np.ndarray]], Callable[[Group, int], np.ndarray]]:
    """Register `function(group, k) -> float64[G]` as the strategy `name`; `parts` are further fields of `Strategy`."""

    def register(function: Callable[[Group, int], np.ndarray]) -> Callable[[Group, int], np.ndarray]:
        STRATEGIES[name] = Strategy(name, array_value=function, **parts)
        return function

    return register


def _counts(group: Group) -> np.ndarray:
    return group.rewards_GN.sum(axis=1).astype(np.int64)
