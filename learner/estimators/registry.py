"""The registry of advantage estimators. Two kinds:

- `estimator`: a formula in U_k of the group, U_k and U_{k-1} of the group without the sample, and k/n. It knows
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

from learner.strategies import STRATEGIES, Group, nearest


@dataclass(frozen=True)
class Options:
    """What some estimators can be told.

    p_fail_clip: the estimated failure rate of a prompt is kept within [p_fail_clip, 1 - p_fail_clip] by the BoN-RLB
        forms, whose weights are unbounded at 1.
    """

    p_fail_clip: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.p_fail_clip < 0.5:
            raise ValueError(f"p_fail_clip must be in [0, 0.5), got {self.p_fail_clip}")


@dataclass(frozen=True)
class Estimator:
    """Exactly one of `combine` and `from_group` is set.

    combine(U_k, U_k(-i), U_{k-1}(-i), k/n, n) gives A_i. from_group(group, k, options) gives A, float64[G, n].
    full_group: defined at k = n. strategies: those it is defined for, None for all. unbiased: whether the expected
    update is the gradient of the strategy's value for every k it takes.
    """

    name: str
    combine: Callable[[Any, Any, Any, Any, int], Any] | None = None
    from_group: Callable[[Group, int, Options], np.ndarray] | None = None
    full_group: bool = True
    strategies: tuple[str, ...] | None = None
    unbiased: bool = False


ESTIMATORS: dict[str, Estimator] = {}


def estimator(
    name: str, *, full_group: bool = True, unbiased: bool = True, strategies: tuple[str, ...] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of (value, without, without_fewer, share, n) as the estimator `name`."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        ESTIMATORS[name] = Estimator(
            name, combine=function, full_group=full_group, unbiased=unbiased, strategies=strategies
        )
        return function

    return register


def group_estimator(
    name: str, *, strategies: tuple[str, ...]
) -> Callable[[Callable[..., np.ndarray]], Callable[..., np.ndarray]]:
    """Register a function of (group, k, options) as the estimator `name` of these strategies."""

    def register(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        ESTIMATORS[name] = Estimator(name, from_group=function, strategies=strategies)
        return function

    return register


def check_estimator(name: str, *, strategy: str | None = None, n: int | None = None, k: int | None = None) -> Estimator:
    """The estimator of that name; ValueError if there is none, or if strategy, n and k do not go with it."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator '{name}' is unknown{nearest(name, ESTIMATORS)}")
    found = ESTIMATORS[name]
    if strategy is not None and found.strategies is not None and strategy not in found.strategies:
        raise ValueError(
            f"estimator '{name}' is defined for strategy {' or '.join(found.strategies)}, not for '{strategy}'; "
            f"use 'loo' or change the strategy"
        )
    if strategy is not None and strategy not in STRATEGIES:
        raise ValueError(f"strategy '{strategy}' is unknown{nearest(strategy, STRATEGIES)}")
    if n is None or k is None:
        return found
    if k > n:
        raise ValueError(f"k = {k} is larger than the group, n = {n}: no unbiased estimate exists; lower k or raise n")
    if k == n and not found.full_group:
        raise ValueError(f"estimator '{name}' needs k < n, got k = n = {n}; lower k, raise n or use 'loo1'")
    return found
