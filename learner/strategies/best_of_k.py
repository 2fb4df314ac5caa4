"""Best-of-k: the answer with the highest verifier score is used, ties broken uniformly. Exact, O(n log n).

With the reward as the score it is max@k. Sort by score; the samples of equal score form a class that begins
at rank L (L samples rank strictly below) and ends at C. A k-subset is won by a class when it lies below C
but not below L, and then by each of its members alike, so with H(x) = C(x, k) / C(n, k)

    U_k = sum over classes of [H(C) - H(L)] * (mean reward of the class).

Averaging over tie-breaks in closed form leaves no noise of a random tie-break in the gradient. Source: the
sorted form of arXiv 2505.15201 (section 3.3), extended to ties and to a score that is not the reward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from learner.strategies.registry import Group, array_strategy


@dataclass(frozen=True)
class _Ranked:
    """Groups sorted by ascending score; every field is [G, n].

    order: sample index at each rank. rewards: their rewards. low, high: ranks at which the rank's class begins
    and ends. size: of the class. total: sum of the class's rewards.
    """

    order: np.ndarray
    rewards: np.ndarray
    low: np.ndarray
    high: np.ndarray
    size: np.ndarray
    total: np.ndarray


def _leave_one_out(group: Group, k: int) -> np.ndarray:
    """U_k without each sample, float64[G, n], from prefix and suffix sums over the ranks."""
    ranked, n = _rank(group), group.n
    table = subset_shares(n - 1, k)
    low, high, size = ranked.low, ranked.high, ranked.size
    # Classes above the one that loses a sample slide down by one rank, those below stay. The clipped entries
    # (nothing is above the highest class, nothing below the lowest) are never summed.
    staying = (table[np.minimum(high, n - 1)] - table[low.clip(max=n - 1)]) / size * ranked.rewards
    sliding = (table[high - 1] - table[np.maximum(low - 1, 0)]) / size * ranked.rewards
    zero_G1 = np.zeros((len(low), 1))
    below = np.concatenate([zero_G1, staying.cumsum(axis=1)], axis=1)
    above = np.concatenate([sliding[:, ::-1].cumsum(axis=1)[:, ::-1], zero_G1], axis=1)
    alone = size == 1
    others_mean = np.where(alone, 0.0, (ranked.total - ranked.rewards) / np.where(alone, 1, size - 1))
    own = (table[high - 1] - table[low.clip(max=n - 1)]) * others_mean
    without = np.take_along_axis(below, low, 1) + own + np.take_along_axis(above, high, 1)
    result = np.empty_like(without)
    np.put_along_axis(result, ranked.order, without, axis=1)
    return result


@array_strategy("best_of_k", leave_one_out=_leave_one_out, needs=("scores",))
def best_of_k(group: Group, k: int) -> np.ndarray:
    """Expected reward of the answer that the verifier ranks highest among k."""
    ranked = _rank(group)
    table = subset_shares(group.n, k)
    return ((table[ranked.high] - table[ranked.low]) / ranked.size * ranked.rewards).sum(axis=1)


def _max_leave_one_out(group: Group, k: int) -> np.ndarray:
    return _leave_one_out(replace(group, scores_GN=group.rewards_GN), k)


@array_strategy("max_at_k", leave_one_out=_max_leave_one_out)
def max_at_k(group: Group, k: int) -> np.ndarray:
    """Expected largest reward among k answers; any finite reward. pass@k where rewards are 0 and 1."""
    return best_of_k(replace(group, scores_GN=group.rewards_GN), k)


@lru_cache(maxsize=256)
def subset_shares(n: int, k: int) -> np.ndarray:
    """C(x, k) / C(n, k) for x = 0..n, float64[n + 1]: the share of k-subsets within the x lowest ranks.

    The binomials are exact integers, whose ratio is rounded once: in float32, or as a product of floats, the
    small shares of a large group would be noise.
    """
    counts = [0] * k + [1]
    for x in range(k, n):
        counts.append(counts[-1] * (x + 1) // (x + 1 - k))
    counts = counts[: n + 1]
    table = np.array([count / counts[n] for count in counts])
    table.flags.writeable = False
    return table


def _rank(group: Group) -> _Ranked:
    assert group.scores_GN is not None
    order = np.argsort(group.scores_GN, axis=1, kind="stable")
    scores = np.take_along_axis(group.scores_GN, order, 1)
    rewards = np.take_along_axis(group.rewards_GN, order, 1)
    G, n = scores.shape
    ranks = np.arange(n)
    edge = np.ones((G, n + 1), dtype=bool)  # edge[:, j]: a class begins at rank j
    edge[:, 1:-1] = scores[:, 1:] != scores[:, :-1]
    low = np.maximum.accumulate(np.where(edge[:, :-1], ranks, 0), axis=1)
    high = np.minimum.accumulate(np.where(edge[:, 1:], ranks + 1, n)[:, ::-1], axis=1)[:, ::-1]
    size = high - low
    sums = np.concatenate([np.zeros((G, 1)), rewards.cumsum(axis=1)], axis=1)
    total = np.take_along_axis(sums, high, 1) - np.take_along_axis(sums, low, 1)
    return _Ranked(order, rewards, low, high, size, np.where(size == 1, rewards, total))
