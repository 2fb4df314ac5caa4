"""Strategies without a closed form: the value is the mean of what the strategy earns over k-subsets of the group.

All k-subsets are enumerated if there are few; otherwise a fixed balanced design is used, in which every sample is in
equally many subsets. The gradient stays exactly unbiased: each subset gives an unbiased estimate, and so does any set
of subsets that does not depend on the answers. More subsets only lower the variance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from math import ceil, comb
from typing import Any

import numpy as np

from learner.strategies.registry import STRATEGIES, AnswerGroups, Strategy, check_parameters

MAX_ELEMENTS = 1 << 22  # of [groups, k, k], the pairs of answers that a strategy's function may compare at once

Earned = Callable[[AnswerGroups], np.ndarray]


def subset_strategy(name: str, **fields: Any) -> Callable[[Earned], Earned]:
    """Register `function(groups) -> float64[G]`, what the strategy earns with *all* answers of each group.

    The function must not depend on the order of the answers. It is called with groups of k answers, and of
    k - 1 for `loo1`; with none it earns 0 and is not called. `fields` are those of `Strategy`.
    """

    def register(function: Earned) -> Earned:
        check_parameters(f"strategy {name!r}", function, "groups")
        STRATEGIES[name] = Strategy(
            name,
            array_value=lambda groups, k: _earned(function, groups, _design(groups, k)).mean(axis=1),
            array_leave_one_out=lambda groups, k: _leave_one_out(function, groups, k),
            array_leave_one_out_k_minus_1=lambda groups, k: _leave_one_out_k_minus_1(function, groups, k),
            **fields,
        )
        return function

    return register


@lru_cache(maxsize=64)
def balanced_subsets(n: int, k: int, at_least: int) -> np.ndarray:
    """k-subsets of n samples, int64[M, k]: all of them if C(n, k) <= at_least, else M >= at_least of a balanced design.

    Each sample is in exactly M k / n of them: the subsets are all cyclic windows of length k over shuffled samples.
    The shuffle is part of the design, not of a run: the same (n, k, at_least) gives the same subsets.
    """
    if comb(n, k) <= at_least:
        design = np.array(list(combinations(range(n), k)))
    else:
        shuffle = np.random.default_rng([n, k])
        windows = (np.arange(n)[:, None] + np.arange(k)) % n
        design = np.concatenate([shuffle.permutation(n)[windows] for _ in range(ceil(at_least / n))])
    design.flags.writeable = False
    return design


def _design(groups: AnswerGroups, k: int) -> np.ndarray:
    return balanced_subsets(groups.n, k, groups.subsets)


def _earned(function: Earned, groups: AnswerGroups, subsets_MK: np.ndarray) -> np.ndarray:
    """What the strategy earns with each subset, float64[G, M], computed in parts of at most MAX_ELEMENTS."""
    G, (M, k) = len(groups.rewards_GN), subsets_MK.shape
    earned_GM = np.zeros((G, M))
    if k == 0:
        return earned_GM
    rows_at_once = max(1, MAX_ELEMENTS // k**2)
    subsets_at_once, groups_at_once = min(M, rows_at_once), max(1, rows_at_once // M)
    for g in range(0, G, groups_at_once):
        for m in range(0, M, subsets_at_once):
            rows, subsets = slice(g, g + groups_at_once), subsets_MK[m : m + subsets_at_once]
            answers = _subsets_of(groups, rows, subsets)
            part = np.asarray(function(answers), dtype=np.float64)
            if part.shape != (len(answers.rewards_GN),):
                name = getattr(function, "__name__", function)
                raise ValueError(
                    f"the strategy's function {name} returned shape {part.shape}; it must return one number for each "
                    f"of its {len(answers.rewards_GN)} groups"
                )
            earned_GM[rows, m : m + len(subsets)] = part.reshape(-1, len(subsets))
    return earned_GM


def _subsets_of(groups: AnswerGroups, rows: slice, subsets_MK: np.ndarray) -> AnswerGroups:
    """Each subset of each of these groups as one group."""
    return groups.mapped(lambda array: array[rows, subsets_MK].reshape(-1, subsets_MK.shape[1]))


def _leave_one_out(function: Earned, groups: AnswerGroups, k: int) -> np.ndarray:
    """U_k(-i): mean over the subsets without sample i, float64[G, n]."""
    design = _design(groups, k)
    earned_GM = _earned(function, groups, design)
    absent_MN = 1.0 - _membership(design, groups.n)
    return earned_GM @ absent_MN / absent_MN.sum(axis=0)


def _leave_one_out_k_minus_1(function: Earned, groups: AnswerGroups, k: int) -> np.ndarray:
    """Mean, over the subsets with sample i, of what the rest of the subset earns, float64[G, n]."""
    design = _design(groups, k)
    total_GN = np.zeros_like(groups.rewards_GN)
    for column in range(k):  # the subsets without their member of this column
        earned_GM = _earned(function, groups, np.delete(design, column, axis=1))
        total_GN += earned_GM @ _membership(design[:, [column]], groups.n)
    return total_GN / _membership(design, groups.n).sum(axis=0)


def _membership(design: np.ndarray, n: int) -> np.ndarray:
    member_MN = np.zeros((len(design), n))
    np.put_along_axis(member_MN, design, 1.0, axis=1)
    return member_MN
