"""The registry of advantage estimators. Two kinds:

- `estimator`: a formula, linear in the differences and values of U_k that `leave_one_out.py` names. It knows
  nothing of the strategy, hence serves every one, and it runs on exact Fractions as well as on arrays.
- `group_estimator`: a function of the whole `Group`, for methods that are defined for certain strategies only.

All advantages are in the sum convention: the update is sum_i A_i grad log pi(y_i) over the n samples of a group. A
method that is published as a mean over the group is divided by n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from learner.estimators.leave_one_out import Terms
from learner.strategies import STRATEGIES, Group, look_up


def check_p_fail_clip(value: float) -> float:
    """The value; ValueError unless it is in [0, 0.5)."""
    if not (isinstance(value, int | float | np.floating) and 0 <= value < 0.5):
        raise ValueError(f"p_fail_clip must be in [0, 0.5), got {value!r}")
    return value


@dataclass(frozen=True)
class Options:
    """What some estimators can be told.

    p_fail_clip: the estimated failure rate of a prompt is kept within [p_fail_clip, 1 - p_fail_clip] by the BoN-RLB
        forms, whose weights are unbounded at 1.
    """

    p_fail_clip: float = 0.01

    def __post_init__(self) -> None:
        check_p_fail_clip(self.p_fail_clip)


@dataclass(frozen=True)
class Estimator:
    """Exactly one of `combine` and `from_group` is set.

    combine(terms) gives A_i. from_group(group, k, options) gives A, float64[G, n]. full_group: defined at k = n.
    least: smallest n, 2 for what compares the samples of a group at every k.
    strategies: those it is defined for, None for all. unbiased: whether the expected update is the gradient of the
    strategy's value for every k it takes.
    """

    name: str
    combine: Callable[[Terms], Any] | None = None
    from_group: Callable[[Group, int, Options], np.ndarray] | None = None
    full_group: bool = True
    least: int = 1
    strategies: tuple[str, ...] | None = None
    unbiased: bool = False


ESTIMATORS: dict[str, Estimator] = {}


def estimator(
    name: str, *, full_group: bool = True, unbiased: bool = True, strategies: tuple[str, ...] | None = None
) -> Callable[[Callable[[Terms], Any]], Callable[[Terms], Any]]:
    """Register a linear function of `Terms` as the estimator `name`."""

    def register(function: Callable[[Terms], Any]) -> Callable[[Terms], Any]:
        ESTIMATORS[name] = Estimator(
            name, combine=function, full_group=full_group, unbiased=unbiased, strategies=strategies
        )
        return function

    return register


def group_estimator(
    name: str, *, strategies: tuple[str, ...], full_group: bool = True, least: int = 1
) -> Callable[[Callable[..., np.ndarray]], Callable[..., np.ndarray]]:
    """Register a function of (group, k, options) as the estimator `name` of these strategies."""

    def register(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        ESTIMATORS[name] = Estimator(
            name, from_group=function, full_group=full_group, least=least, strategies=strategies
        )
        return function

    return register


def check_estimator(name: str, *, strategy: str | None = None, n: int | None = None, k: int | None = None) -> Estimator:
    """The estimator of that name; ValueError if there is none, or if strategy, n and k do not go with it."""
    found: Estimator = look_up("estimator", name, ESTIMATORS)
    if strategy is not None and found.strategies is not None and strategy not in found.strategies:
        raise ValueError(
            f"estimator '{name}' is defined for strategy {' or '.join(found.strategies)}, not for '{strategy}'; "
            f"use 'loo' or change the strategy"
        )
    if strategy is not None:
        look_up("strategy", strategy, STRATEGIES)
    if n is None or k is None:
        return found
    if k > n:
        raise ValueError(f"k = {k} is larger than the group, n = {n}: no unbiased estimate exists; lower k or raise n")
    if n < found.least:
        raise ValueError(f"estimator '{name}' compares the samples of a group and needs n >= {found.least}; raise n")
    if k == n and not found.full_group:
        mend = "lower k, raise n or use 'loo1'" if k > 1 else "raise n: a lone sample has nothing to be compared with"
        raise ValueError(f"estimator '{name}' needs k < n, got k = n = {n}; {mend}")
    return found
