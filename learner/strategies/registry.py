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

Estimators (`learner.estimators`) see only U_k of the group and of the group without each sample, so they
work for every strategy. Source: the U-statistic identities of arXiv 2505.15201, section 3, for any
symmetric strategy.
"""

from __future__ import annotations

import difflib
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

    `array_leave_one_out(group, k)` gives U_k(-i); `array_fewer(group, k)` gives the term that stands for
    U_{k-1}(-i) where a strategy computes it otherwise. `needs` names the arguments without which it has
    no meaning.
    """

    name: str
    count_value: Callable[[int, int, int], Fraction] | None = None
    array_value: Callable[[Group, int], np.ndarray] | None = None
    array_leave_one_out: Callable[[Group, int], np.ndarray] | None = None
    array_fewer: Callable[[Group, int], np.ndarray] | None = None
    only_k: int | None = None
    needs: tuple[str, ...] = ()

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

    def fewer(self, group: Group, k: int) -> np.ndarray:
        """U_{k-1} of the group without each sample, float64[G, n]; an array strategy's only."""
        return self.array_fewer(group, k) if self.array_fewer is not None else self.leave_one_out(group, k - 1)


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
    name: str,
    *,
    leave_one_out: Callable[[Group, int], np.ndarray] | None = None,
    only_k: int | None = None,
    needs: tuple[str, ...] = (),
) -> Callable[[Callable[[Group, int], np.ndarray]], Callable[[Group, int], np.ndarray]]:
    """Register `function(group, k) -> float64[G]` as the strategy `name`."""

    def register(function: Callable[[Group, int], np.ndarray]) -> Callable[[Group, int], np.ndarray]:
        STRATEGIES[name] = Strategy(
            name, array_value=function, array_leave_one_out=leave_one_out, only_k=only_k, needs=needs
        )
        return function

    return register


def strategy_value(
    rewards: Any,
    *,
    scores: Any = None,
    answers: Any = None,
    correct: Any = None,
    strategy: str,
    k: int,
    subsets: int = DEFAULT_SUBSETS,
) -> Any:
    """U_k: the unbiased estimate, from n >= k samples, of the expected reward of `strategy` with k answers.

    Args:
        rewards: [n] or [G, n]. Strategies that vote read only its shape.
        scores: the verifier's scores, shaped like rewards (`best_of_k`, `weighted_vote`).
        answers: hashable final answers, shaped like rewards; None is unparsable (`majority_at_k`, `weighted_vote`).
        correct: the right answer, one for each group.
        strategy, k: what is deployed, with how many answers.
        subsets: at least how many k-subsets a strategy without a closed form looks at (`weighted_vote`).

    Returns:
        A float64, or float64[G].

    Raises:
        ValueError: naming the bad argument.

    >>> float(strategy_value([0, 1, 0, 0], strategy="pass_at_k", k=2))
    0.5
    """
    found = check_strategy(strategy, k)
    group = make_group(rewards, scores, answers, correct, found, subsets)
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


def make_group(
    rewards: Any, scores: Any, answers: Any, correct: Any, strategy: Strategy, subsets: int = DEFAULT_SUBSETS
) -> Group:
    """Validated arrays [G, n]. Arguments that the strategy does not use are only checked for their shape."""
    rewards_GN = _float_matrix("rewards", rewards)
    if strategy.count_value is not None and not np.isin(rewards_GN, (0.0, 1.0)).all():
        raise ValueError(f"rewards must be 0 or 1 for strategy '{strategy.name}'; max_at_k takes any reward")
    for name, given in (("scores", scores), ("answers", answers), ("correct", correct)):
        if given is None and name in strategy.needs:
            raise ValueError(f"{name} is missing: strategy '{strategy.name}' selects by it")
    if subsets < 1:
        raise ValueError(f"subsets must be >= 1, got {subsets}")
    scores_GN = None if scores is None else _float_matrix("scores", scores)
    if scores_GN is not None and scores_GN.shape != rewards_GN.shape:
        raise ValueError(f"scores has shape {np.shape(scores)}, rewards has {np.shape(rewards)}")
    labels_GN = None if answers is None else _labels(answers, correct, rewards_GN.shape)
    return Group(rewards_GN, scores_GN, labels_GN, subsets)


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


def _labels(answers: Any, correct: Any, shape: tuple[int, int]) -> np.ndarray:
    """Integer labels [G, n] of hashable answers: equal answers of a group have equal labels."""
    rows = _object_matrix("answers", answers, shape)
    rights: list[Any] = [] if correct is None else [correct]
    if isinstance(correct, list | np.ndarray):
        rights = list(correct)
    if correct is not None and len(rights) != len(rows):
        raise ValueError(f"correct must be one answer for each of the {len(rows)} groups, got {len(rights)}")
    labels_GN = np.empty(shape, dtype=np.int64)
    for g, row in enumerate(rows):
        known: dict[Any, int] = {None: UNPARSABLE}
        if correct is not None:
            if rights[g] is None:
                raise ValueError(f"correct of group {g} is None, which means unparsable; give the right answer")
            known[rights[g]] = CORRECT
        try:
            labels_GN[g] = [known.setdefault(answer, len(known)) for answer in row]
        except TypeError as error:
            raise ValueError(f"answers must be hashable (strings, numbers), got {error}") from error
    return labels_GN


def _object_matrix(name: str, values: Any, shape: tuple[int, int]) -> list[list[Any]]:
    rows = list(values)
    nested = bool(rows) and isinstance(rows[0], list | np.ndarray)
    matrix = [list(row) for row in rows] if nested else [rows]
    if len(matrix) != shape[0] or any(len(row) != shape[1] for row in matrix):
        raise ValueError(f"{name} must have the shape of rewards, {list(shape)}")
    return matrix


def _counts(group: Group) -> np.ndarray:
    return group.rewards_GN.sum(axis=1).astype(np.int64)
