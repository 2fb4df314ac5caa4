"""The leave-one-out statistics of U_k from which the unbiased estimators are built.

Exact Fractions for strategies that count right answers, float64[G, n] for others; each is computed on access.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from learner.strategies import AnswerGroups, Strategy


class UStatistics(Protocol):
    """n samples, k answers. At k = n, U_k(-i) does not exist and is replaced by 0."""

    @property
    def n(self) -> int: ...

    @property
    def k_over_n(self) -> Any:
        """k/n."""

    @property
    def loo_difference(self) -> Any:
        """U_k - U_k(-i)."""

    @property
    def leave_one_out(self) -> Any:
        """U_k(-i)."""

    @property
    def marginal_contribution(self) -> Any:
        """U_k - (1 - k/n) U_k(-i) - k/n U_{k-1}(-i): the mean of f(I) - f(I without i) over I with i, times k/n."""


@dataclass(frozen=True)
class ArrayUStatistics:
    """The statistics of an array strategy."""

    strategy: Strategy
    groups: AnswerGroups
    k: int

    @property
    def n(self) -> int:
        return self.groups.n

    @property
    def k_over_n(self) -> float:
        return self.k / self.n

    @property
    def loo_difference(self) -> np.ndarray:
        if self.k < self.n:
            return self.strategy.loo_difference(self.groups, self.k)
        return np.repeat(self.strategy.value(self.groups, self.k)[:, None], self.n, axis=1)

    @property
    def leave_one_out(self) -> np.ndarray:
        if self.k < self.n:
            return self.strategy.leave_one_out(self.groups, self.k)
        return np.zeros_like(self.groups.rewards_GN)

    @property
    def marginal_contribution(self) -> np.ndarray:
        return self.strategy.marginal_contribution(self.groups, self.k)


@dataclass(frozen=True)
class CountUStatistics:
    """The statistics of one sample under a count strategy: `correct` of n are right, `others_correct` without it."""

    strategy: Strategy
    n: int
    k: int
    correct: int
    others_correct: int

    @property
    def k_over_n(self) -> Fraction:
        return Fraction(self.k, self.n)

    @property
    def loo_difference(self) -> Fraction:
        return self._value(self.n, self.correct, self.k) - self.leave_one_out

    @property
    def leave_one_out(self) -> Fraction:
        return self._value(self.n - 1, self.others_correct, self.k) if self.k < self.n else Fraction(0)

    @property
    def marginal_contribution(self) -> Fraction:
        value = self._value(self.n, self.correct, self.k)
        smaller = self._value(self.n - 1, self.others_correct, self.k - 1)  # U_{k-1}(-i)
        return value - (1 - self.k_over_n) * self.leave_one_out - self.k_over_n * smaller

    def _value(self, n: int, correct: int, k: int) -> Fraction:
        assert self.strategy.count_value is not None
        return self.strategy.count_value(n, correct, k) if k else Fraction(0)


@dataclass(frozen=True)
class ConstantUStatistics:
    """The statistics of a translation-equivariant strategy if all rewards are 1: what a constant adds to a formula."""

    n: int
    k: int

    @property
    def k_over_n(self) -> Fraction:
        return Fraction(self.k, self.n)

    @property
    def loo_difference(self) -> int:
        return int(self.k == self.n)

    @property
    def leave_one_out(self) -> int:
        return int(self.k < self.n)

    @property
    def marginal_contribution(self) -> Fraction:
        return self.k_over_n if self.k == 1 else Fraction(0)
