"""Inference strategies as U-statistics: U_k(group) is the strategy's expected reward over the k-subsets of
a group.

A strategy is one function. Three kinds are registered:

- `count_strategy`: the value depends only on how many of the n samples are correct (binary rewards). The
  function maps (n, correct, k) to an exact Fraction; everything derived from it is rounded once, at the end.
- `array_strategy`: the function maps `AnswerGroups` and k to U_k, float64[G]. One sample is left out by deletion,
  unless the strategy has a faster way.
- `subset_strategy` (`learner.strategies.subsets`): the function maps groups of exactly k answers to what
  the strategy earns with them. The k-subsets are enumerated, or drawn once in a balanced design.

Estimators (`learner.estimators`) see only differences of U_k of the group and of the group without each sample,
so they work for every strategy. Source: the U-statistic identities of arXiv 2505.15201, section 3, for any
symmetric strategy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

UNPARSABLE, CORRECT = -1, 0  # labels of AnswerGroups.answers_GN
DEFAULT_SUBSETS = 256


@dataclass(frozen=True)
class AnswerGroups:
    """G groups of n samples each, with the inputs that the strategy requires; the others are None.

    rewards_GN: float64. scores_GN: the verifier's scores, float64. answers_GN: int64 labels; equal answers of a group
    have equal labels: CORRECT for the right answer, UNPARSABLE for none, others from 1 on.
    subsets: number of k-subsets that a `subset_strategy` draws at least where there are too many for all.
    responses_GN: int64 labels, equal for equal responses of a group.
    """

    rewards_GN: np.ndarray
    scores_GN: np.ndarray | None = None
    answers_GN: np.ndarray | None = None
    subsets: int = DEFAULT_SUBSETS
    responses_GN: np.ndarray | None = None

    @property
    def n(self) -> int:
        return self.rewards_GN.shape[1]

    def without_sample(self, i: int) -> AnswerGroups:
        """The groups with sample i deleted."""
        return self.take(np.delete(np.arange(self.n), i))

    def take(self, samples: np.ndarray) -> AnswerGroups:
        """The groups with only these samples (indices int[m])."""
        return self.mapped(lambda array: array[:, samples])

    def rows(self, groups: np.ndarray) -> AnswerGroups:
        """Only these groups (a mask bool[G])."""
        return self.mapped(lambda array: array[groups])

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> AnswerGroups:
        """The groups whose arrays are the results of `function` for each of these arrays [G, n]."""
        arrays = {name: getattr(self, name) for name in ("rewards_GN", "scores_GN", "answers_GN", "responses_GN")}
        results: dict[str, Any] = {name: function(array) for name, array in arrays.items() if array is not None}
        return replace(self, **results)


@dataclass(frozen=True)
class Strategy:
    """A registered strategy; exactly one of `count_value` and `array_value` is set.

    An array strategy may compute these faster or with less rounding than by deleting samples, float64[G, n] each:
    `array_leave_one_out(groups, k)`: U_k(-i).
    `array_leave_one_out_k_minus_1(groups, k)`: U_{k-1}(-i), or a term with the same expectation.
    `array_loo_difference(groups, k)`: U_k - U_k(-i), k < n.
    `array_marginal_contribution(groups, k)`: the mean of f(I) - f(I without i) over the k-subsets I with i, times k/n.

    translation_equivariant: adding a constant to all rewards adds it to the value.
    only_k: the one k for which the strategy is defined; None for all.
    required_inputs: arguments besides the rewards that the strategy selects by. optional_inputs: those that it uses if
    they are given. It receives no others.
    constant_term: magnitude of a constant in the value, such as the 1 of 1 - a product. Its rounding errors remain if
    all rewards are 0.
    best_by: the field of `AnswerGroups` that ranks the answers, if the best of k is used; the exact off-policy form
    needs it.
    short: name of its curve, `eval/<short>@<k>`; empty for `name`.
    """

    name: str
    count_value: Callable[[int, int, int], Fraction] | None = None
    array_value: Callable[[AnswerGroups, int], np.ndarray] | None = None
    array_leave_one_out: Callable[[AnswerGroups, int], np.ndarray] | None = None
    array_leave_one_out_k_minus_1: Callable[[AnswerGroups, int], np.ndarray] | None = None
    array_loo_difference: Callable[[AnswerGroups, int], np.ndarray] | None = None
    array_marginal_contribution: Callable[[AnswerGroups, int], np.ndarray] | None = None
    translation_equivariant: bool = False
    only_k: int | None = None
    required_inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()
    constant_term: float = 0.0
    best_by: Literal["rewards_GN", "scores_GN"] | None = None
    short: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The arguments besides the rewards that it uses."""
        return self.required_inputs + self.optional_inputs

    @property
    def metric(self) -> str:
        """The name of its curve."""
        return self.short or self.name

    def value(self, groups: AnswerGroups, k: int) -> np.ndarray:
        """U_k, float64[G]."""
        if self.count_value is not None:
            return np.array([float(self.count_value(groups.n, int(c), k)) for c in _counts(groups)], dtype=np.float64)
        assert self.array_value is not None
        value_G = np.asarray(self.array_value(groups, k), dtype=np.float64)
        if value_G.shape != groups.rewards_GN.shape[:1]:  # it would be broadcast
            raise ValueError(
                f"strategy '{self.name}' returned shape {value_G.shape}; it must return one number for each of its "
                f"{len(groups.rewards_GN)} groups"
            )
        return value_G

    def leave_one_out(self, groups: AnswerGroups, k: int) -> np.ndarray:
        """U_k(-i), of the group without sample i: float64[G, n], 0 <= k <= n - 1, for array strategies; U_0 is 0."""
        if k == 0:
            return np.zeros_like(groups.rewards_GN)
        if self.array_leave_one_out is not None:
            return self.array_leave_one_out(groups, k)
        if self.array_loo_difference is not None:
            return self.value(groups, k)[:, None] - self.array_loo_difference(groups, k)
        return np.stack([self.value(groups.without_sample(i), k) for i in range(groups.n)], axis=1)

    def loo_difference(self, groups: AnswerGroups, k: int) -> np.ndarray:
        """U_k - U_k(-i), float64[G, n], k < n, for array strategies."""
        if self.array_loo_difference is not None:
            return self.array_loo_difference(groups, k)
        return self.value(groups, k)[:, None] - self.leave_one_out(groups, k)

    def marginal_contribution(self, groups: AnswerGroups, k: int) -> np.ndarray:
        """U_k - (1 - k/n) U_k(-i) - k/n U_{k-1}(-i), float64[G, n], for array strategies."""
        if self.array_marginal_contribution is not None:
            return self.array_marginal_contribution(groups, k)
        k_over_n, credit_GN = k / groups.n, self.value(groups, k)[:, None]
        if k < groups.n:
            credit_GN = credit_GN - (1 - k_over_n) * self.leave_one_out(groups, k)
        if self.array_leave_one_out_k_minus_1 is not None:
            return credit_GN - k_over_n * self.array_leave_one_out_k_minus_1(groups, k)
        return credit_GN - k_over_n * self.leave_one_out(groups, k - 1)


STRATEGIES: dict[str, Strategy] = {}


def check_parameters(what: str, function: Callable[..., Any], *arguments: str) -> None:
    """Refuse a function of the user that cannot be called with these arguments.

    Args:
        what: it registers, for the message.
        arguments: names of what it will be given, in this order.

    Raises:
        TypeError: its parameters do not fit.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a compiled function has none
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        own = ", ".join(signature.parameters)
        raise TypeError(
            f"the function of {what} takes ({own}), but is called with ({', '.join(arguments)}); change its parameters"
        ) from None


def count_strategy(
    name: str, **fields: Any
) -> Callable[[Callable[[int, int, int], Fraction]], Callable[[int, int, int], Fraction]]:
    """Register `function(n, correct, k) -> Fraction` as the binary-reward strategy `name`; `fields` are those
    of `Strategy`.
    """

    def register(function: Callable[[int, int, int], Fraction]) -> Callable[[int, int, int], Fraction]:
        check_parameters(f"strategy {name!r}", function, "n", "correct", "k")
        STRATEGIES[name] = Strategy(name, count_value=function, **fields)
        return function

    return register


def array_strategy(
    name: str, **fields: Any
) -> Callable[[Callable[[AnswerGroups, int], np.ndarray]], Callable[[AnswerGroups, int], np.ndarray]]:
    """Register `function(groups, k) -> float64[G]` as the strategy `name`; `fields` are those of `Strategy`."""

    def register(function: Callable[[AnswerGroups, int], np.ndarray]) -> Callable[[AnswerGroups, int], np.ndarray]:
        check_parameters(f"strategy {name!r}", function, "groups", "k")
        STRATEGIES[name] = Strategy(name, array_value=function, **fields)
        return function

    return register


def _counts(groups: AnswerGroups) -> np.ndarray:
    return groups.rewards_GN.sum(axis=1).astype(np.int64)
