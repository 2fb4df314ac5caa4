"""What a formula of the unbiased estimators is made of: three differences and values of U-statistics, computed when
asked for.

Exact for strategies that count right answers (Fractions), float64[G, n] for others.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from learner.strategies import Group, Strategy


class Terms(Protocol):
    """n samples, k answers. share: k/n. Where k = n there is no U_k(-i), and 0 stands for it."""

    @property
    def n(self) -> int: ...

    @property
    def share(self) -> Any:
        """k/n."""

    @property
    def owed(self) -> Any:
        """U_k - U_k(-i)."""

    @property
    def without(self) -> Any:
        """U_k(-i)."""

    @property
    def marginal(self) -> Any:
        """U_k - (1 - k/n) U_k(-i) - k/n U_{k-1}(-i): the mean of f(I) - f(I without i) over I with i, times k/n."""


@dataclass(frozen=True)
class ArrayTerms:
    """Of an array strategy."""

    strategy: Strategy
    group: Group
    k: int

    @property
    def n(self) -> int:
        return self.group.n

    @property
    def share(self) -> float:
        return self.k / self.n

    @property
    def owed(self) -> np.ndarray:
        if self.k < self.n:
            return self.strategy.owed(self.group, self.k)
        return np.repeat(self.strategy.value(self.group, self.k)[:, None], self.n, axis=1)

    @property
    def without(self) -> np.ndarray:
        if self.k < self.n:
            return self.strategy.leave_one_out(self.group, self.k)
        return np.zeros_like(self.group.rewards_GN)

    @property
    def marginal(self) -> np.ndarray:
        return self.strategy.marginal(self.group, self.k)


@dataclass(frozen=True)
class CountTerms:
    """Of a sample of a count strategy: `correct` of the n samples are right, `correct_without` of the others."""

    strategy: Strategy
    n: int
    k: int
    correct: int
    correct_without: int

    @property
    def share(self) -> Fraction:
        return Fraction(self.k, self.n)

    @property
    def owed(self) -> Fraction:
        return self._value(self.n, self.correct, self.k) - self.without

    @property
    def without(self) -> Fraction:
        return self._value(self.n - 1, self.correct_without, self.k) if self.k < self.n else Fraction(0)

    @property
    def marginal(self) -> Fraction:
        fewer = self._value(self.n - 1, self.correct_without, self.k - 1)
        return self._value(self.n, self.correct, self.k) - (1 - self.share) * self.without - self.share * fewer

    def _value(self, n: int, correct: int, k: int) -> Fraction:
        assert self.strategy.count_value is not None
        return self.strategy.count_value(n, correct, k) if k else Fraction(0)


@dataclass(frozen=True)
class ConstantTerms:
    """Of a strategy that translates, when all rewards are 1: what a constant contributes to a formula."""

    n: int
    k: int

    @property
    def share(self) -> Fraction:
        return Fraction(self.k, self.n)

    @property
    def owed(self) -> int:
        return int(self.k == self.n)

    @property
    def without(self) -> int:
        return int(self.k < self.n)

    @property
    def marginal(self) -> Fraction:
        return self.share if self.k == 1 else Fraction(0)
