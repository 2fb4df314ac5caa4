"""The registry of advantage estimators. Two kinds:

- `estimator`: a formula, linear in the statistics of `leave_one_out.py`. It does not depend on the strategy, so it
  works for every one, on exact Fractions as well as on arrays.
- `group_estimator`: a function of the whole `AnswerGroups`, for methods that are defined for certain strategies only.

All advantages are in the sum convention: the update is sum_i A_i grad log pi(y_i) over the n samples of a group. A
method that is published as a mean over the group is divided by n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from learner.estimators.leave_one_out import UStatistics
from learner.strategies import AnswerGroups, look_up
from learner.strategies.registry import check_parameters


def check_p_fail_clip(value: float) -> float:
    """The value; ValueError unless it is in [0, 0.5)."""
    if not (isinstance(value, int | float | np.floating) and 0 <= value < 0.5):
        raise ValueError(f"p_fail_clip must be in [0, 0.5), got {value!r}")
    return value


@dataclass(frozen=True)
class Options:
    """Parameters of some estimators.

    p_fail_clip: the estimated failure rate of a prompt is kept within [p_fail_clip, 1 - p_fail_clip] by the BoN-RLB
        forms, whose weights are unbounded at 1.
    """

    p_fail_clip: float = 0.01

    def __post_init__(self) -> None:
        check_p_fail_clip(self.p_fail_clip)


@dataclass(frozen=True)
class Estimator:
    """A registered estimator and its properties. Exactly one of `combine` and `from_groups` is set.

    combine(u_statistics) gives A_i. from_groups(groups, k, options) gives A, float64[G, n].
    allows_k_equal_n: defined at k = n. min_group_size: smallest n; 2 if the samples of a group are compared at every k.
    strategies: those it is defined for; None for all.
    unbiased: the expected update is the gradient of the strategy's value, for every k it allows.
    off_policy: has an exact off-policy form (`off_policy.py`).
    binary_rewards: needs rewards of 0 and 1, whatever the strategy.
    needs_p_fail_clip: its weights are infinite in a group without a success unless p_fail_clip > 0.
    """

    name: str
    combine: Callable[[UStatistics], Any] | None = None
    from_groups: Callable[[AnswerGroups, int, Options], np.ndarray] | None = None
    allows_k_equal_n: bool = True
    min_group_size: int = 1
    strategies: tuple[str, ...] | None = None
    unbiased: bool = False
    off_policy: bool = False
    binary_rewards: bool = False
    needs_p_fail_clip: bool = False


ESTIMATORS: dict[str, Estimator] = {}


def estimator(
    name: str, *, unbiased: bool = True, **fields: Any
) -> Callable[[Callable[[UStatistics], Any]], Callable[[UStatistics], Any]]:
    """Register a linear function of `UStatistics` as the estimator `name`; `fields` are those of `Estimator`."""

    def register(function: Callable[[UStatistics], Any]) -> Callable[[UStatistics], Any]:
        check_parameters(f"estimator {name!r}", function, "u")
        ESTIMATORS[name] = Estimator(name, combine=function, unbiased=unbiased, **fields)
        return function

    return register


def group_estimator(
    name: str, *, strategies: tuple[str, ...], **fields: Any
) -> Callable[[Callable[..., np.ndarray]], Callable[..., np.ndarray]]:
    """Register a function of (groups, k, options) as the estimator `name` of these strategies."""

    def register(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        check_parameters(f"estimator {name!r}", function, "groups", "k", "options")
        ESTIMATORS[name] = Estimator(name, from_groups=function, strategies=strategies, **fields)
        return function

    return register


def check_estimator(name: str, *, strategy: str, n: int | None = None, k: int | None = None) -> Estimator:
    """The estimator of that name; ValueError if there is none, or if strategy (a known one), n or k does not
    fit it.
    """
    found: Estimator = look_up("estimator", name, ESTIMATORS)
    if found.strategies is not None and strategy not in found.strategies:
        raise ValueError(
            f"estimator '{name}' is defined for strategy {' or '.join(found.strategies)}, not for '{strategy}'; "
            f"use 'loo' or change the strategy"
        )
    if n is None or k is None:
        return found
    if k > n:
        raise ValueError(f"k = {k} is larger than the group, n = {n}: no unbiased estimate exists; lower k or raise n")
    if n < found.min_group_size:
        raise ValueError(
            f"estimator '{name}' compares the samples of a group and needs n >= {found.min_group_size}; raise n"
        )
    if k == n and not found.allows_k_equal_n:
        remedy = "lower k, raise n or use 'loo1'" if k > 1 else "raise n: one sample has no others to compare with"
        raise ValueError(f"estimator '{name}' needs k < n, got k = n = {n}; {remedy}")
    return found
