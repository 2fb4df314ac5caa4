"""Strategies given only by what they earn with k answers: the value is a mean over k-subsets of the group.

All k-subsets are looked at where there are few; otherwise a fixed design of them, in which every sample stands in
equally many. A fixed design keeps the gradient exactly unbiased: each subset alone gives an unbiased estimate, so
any set of them that does not depend on the answers does. More subsets only lower the variance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations
from math import ceil, comb
from typing import Any

import numpy as np

from learner.strategies.registry import STRATEGIES, Group, Strategy

ROOM = 1 << 22  # elements: what a function that compares all pairs of answers, [groups, k, k], may fill at once

Earned = Callable[[Group], np.ndarray]


def subset_strategy(name: str, **parts: Any) -> Callable[[Earned], Earned]:
    """Register `function(group) -> float64[G]`, what the strategy earns with *all* answers of each group.

    The function must not depend on the order of the answers. It is called with groups of k answers, and of
    k - 1 for `loo1`; with none it earns 0 and is not called. `parts` are further fields of `Strategy`.
    """

    def register(function: Earned) -> Earned:
        STRATEGIES[name] = Strategy(
            name,
            array_value=lambda group, k: _earned(function, group, _design(group, k)).mean(axis=1),
            array_leave_one_out=lambda group, k: _without(function, group, k),
            array_fewer=lambda group, k: _fewer(function, group, k),
            **parts,
        )
        return function

    return register


@lru_cache(maxsize=64)
def balanced_subsets(n: int, k: int, at_least: int) -> np.ndarray:
    """k-subsets of n samples, int64[M, k]: all of them if C(n, k) <= at_least, else M >= at_least of a balanced design.

    Each sample stands in exactly M k / n of them: the windows of length k that slide around shuffled circles.
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


def _design(group: Group, k: int) -> np.ndarray:
    return balanced_subsets(group.n, k, group.subsets)


def _earned(function: Earned, group: Group, subsets_MK: np.ndarray) -> np.ndarray:
    """What the strategy earns with each subset, float64[G, M]; as many at once as ROOM allows."""
    G, (M, k) = len(group.rewards_GN), subsets_MK.shape
    earned_GM = np.zeros((G, M))
    if k == 0:
        return earned_GM
    rows_at_once = max(1, ROOM // k**2)
    subsets_at_once, groups_at_once = min(M, rows_at_once), max(1, rows_at_once // M)
    for g in range(0, G, groups_at_once):
        for m in range(0, M, subsets_at_once):
            groups, subsets = slice(g, g + groups_at_once), subsets_MK[m : m + subsets_at_once]
            answers = _subsets_of(group, groups, subsets)
            part = np.asarray(function(answers), dtype=np.float64)
            if part.shape != (len(answers.rewards_GN),):
                name = getattr(function, "__name__", function)
                raise ValueError(
                    f"the strategy's function {name} returned shape {part.shape}; it must return one number for each "
                    f"of the {len(answers.rewards_GN)} groups that it was given"
                )
            earned_GM[groups, m : m + len(subsets)] = part.reshape(-1, len(subsets))
    return earned_GM


def _subsets_of(group: Group, groups: slice, subsets_MK: np.ndarray) -> Group:
    """Each subset of each of these groups as a group of its own."""

    def rows(a: np.ndarray) -> np.ndarray:
        return a[groups][:, subsets_MK].reshape(-1, subsets_MK.shape[1])

    scores, answers = group.scores_GN, group.answers_GN
    return Group(
        rows(group.rewards_GN), None if scores is None else rows(scores), None if answers is None else rows(answers)
    )


def _without(function: Earned, group: Group, k: int) -> np.ndarray:
    """Mean over the subsets that do not hold sample i, float64[G, n]."""
    design = _design(group, k)
    earned_GM = _earned(function, group, design)
    absent_MN = 1.0 - _membership(design, group.n)
    return earned_GM @ absent_MN / absent_MN.sum(axis=0)


def _fewer(function: Earned, group: Group, k: int) -> np.ndarray:
    """Mean over the subsets that hold sample i of what is earned without it, float64[G, n]."""
    design = _design(group, k)
    total_GN = np.zeros_like(group.rewards_GN)
    for column in range(k):  # the subsets without their member of this column
        earned_GM = _earned(function, group, np.delete(design, column, axis=1))
        total_GN += earned_GM @ _membership(design[:, [column]], group.n)
    return total_GN / _membership(design, group.n).sum(axis=0)


def _membership(design: np.ndarray, n: int) -> np.ndarray:
    member_MN = np.zeros((len(design), n))
    np.put_along_axis(member_MN, design, 1.0, axis=1)
    return member_MN
