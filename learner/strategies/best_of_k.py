"""Best-of-k: the answer with the highest verifier score is used; ties are broken uniformly. Exact, O(n log n).

With the reward as the score it is max@k. Sort by score; samples of equal score form a class t that begins at rank
L_t (L_t samples rank strictly below), ends at C_t and has the mean reward v_t. A k-subset is won by class t or a higher
one unless all of it lies below L_t, so with H(x) = C(x, k) / C(n, k) and the steps D_t = v_t - v_{t-1}

    U_k = v_first + sum_{t > first} (1 - H(L_t)) D_t = v_last - sum_{t > first} H(L_t) D_t.

Advantages are sums over steps as well, derived by leaving out sample i of class t. No two large numbers are subtracted:
a constant in the rewards cancels in the steps, equal rewards give exact zeros, and for max@k (no step is negative)
small advantages are as accurate as large ones.

Ties are averaged in closed form, so random tie-breaking adds no noise to the gradient. Source: the sorted form
of arXiv 2505.15201 (section 3.3), summed by parts, and extended to ties and to a score that is not the reward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from learner.strategies.registry import AnswerGroups, array_strategy


@dataclass(frozen=True)
class _Ranked:
    """Groups sorted by ascending score; every field is [G, n].

    order: sample index at each rank. low, high: ranks at which the rank's class begins and ends. mean: of the class's
    rewards. step: mean minus that of the class below at the rank where a class begins, else 0. excess: the class's
    mean minus its mean without this rank's sample; 0 in a class of one.
    """

    order: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    step: np.ndarray
    excess: np.ndarray

    def unsorted(self, values: np.ndarray) -> np.ndarray:
        """Values ordered by rank, [G, n], reordered by sample."""
        result = np.empty_like(values)
        np.put_along_axis(result, self.order, values, axis=1)
        return result


def _loo_difference(groups: AnswerGroups, k: int) -> np.ndarray:
    """U_k - U_k(-i), float64[G, n], k < n.

    Without i, H is over n - 1 samples, and the classes above begin one rank lower. The identities
    C(x, k) / C(n-1, k) = n / (n-k) H(x) and C(x-1, k) = (x-k)/x C(x, k) turn the changes of H into multiples of it:

        k/(n-k) [ sum_{u <= t} H(L_u) D_u - sum_{u > t} H(L_u) (n - L_u)/L_u D_u ] + excess_i * P(t wins without i).
    """
    ranked, n = _rank(groups), groups.n
    ranks = np.arange(n)
    shares = subset_shares(n, k)
    won = shares[:-1] * ranked.step
    below = won.cumsum(axis=1)
    lost = won * (n - ranks) / np.maximum(ranks, 1)
    above = np.zeros_like(lost)
    above[:, :-1] = lost[:, :0:-1].cumsum(axis=1)[:, ::-1]
    own = ranked.excess * (n / (n - k) * (shares[ranked.high - 1] - shares[ranked.low]))
    return ranked.unsorted(k / (n - k) * (below - above) + own)


def _marginal_contribution(groups: AnswerGroups, k: int) -> np.ndarray:
    """The mean of f(I) - f(I without i) over the k-subsets I with i, times k/n, float64[G, n].

    With h(x) = C(x, k-1) / C(n, k) = H(x+1) k / (x+1) it is

        sum_{u <= t} h(L_u) D_u + excess_i * (H(C_t) - H(L_t) - h(L_t)):

    sample i raises the reward of the best of k - 1 lower samples to v_t, and shifts v_t itself if others of its class
    are present.
    """
    n = groups.n
    if k == 1:
        return groups.rewards_GN / n
    ranked, shares = _rank(groups), subset_shares(n, k)
    fewer = shares[1:] * k / np.arange(1, n + 1)
    raised = (fewer * ranked.step).cumsum(axis=1)
    own = ranked.excess * (shares[ranked.high] - shares[ranked.low] - fewer[ranked.low])
    return ranked.unsorted(raised + own)


@array_strategy(
    "best_of_k",
    array_loo_difference=_loo_difference,
    array_marginal_contribution=_marginal_contribution,
    translation_equivariant=True,
    required_inputs=("scores",),
    best_by="scores_GN",
    short="bo",
)
def best_of_k(groups: AnswerGroups, k: int) -> np.ndarray:
    """Expected reward of the answer that the verifier ranks highest among k."""
    ranked = _rank(groups)
    return ranked.mean[:, -1] - (subset_shares(groups.n, k)[:-1] * ranked.step).sum(axis=1)


def _by_reward(groups: AnswerGroups) -> AnswerGroups:
    return replace(groups, scores_GN=groups.rewards_GN)


@array_strategy(
    "max_at_k",
    array_loo_difference=lambda groups, k: _loo_difference(_by_reward(groups), k),
    array_marginal_contribution=lambda groups, k: _marginal_contribution(_by_reward(groups), k),
    translation_equivariant=True,
    best_by="rewards_GN",
    short="max",
)
def max_at_k(groups: AnswerGroups, k: int) -> np.ndarray:
    """Expected largest reward among k answers; any finite reward. pass@k where rewards are 0 and 1."""
    return best_of_k(_by_reward(groups), k)


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


def _rank(groups: AnswerGroups) -> _Ranked:
    assert groups.scores_GN is not None
    order = np.argsort(groups.scores_GN, axis=1, kind="stable")
    scores = np.take_along_axis(groups.scores_GN, order, 1)
    rewards = np.take_along_axis(groups.rewards_GN, order, 1)
    G, n = scores.shape
    ranks = np.arange(n)
    edge = np.ones((G, n + 1), dtype=bool)  # edge[:, j]: a class begins at rank j
    edge[:, 1:-1] = scores[:, 1:] != scores[:, :-1]
    low = np.maximum.accumulate(np.where(edge[:, :-1], ranks, 0), axis=1)
    high = np.minimum.accumulate(np.where(edge[:, 1:], ranks + 1, n)[:, ::-1], axis=1)[:, ::-1]
    size = high - low
    # Relative to the class's first reward, so that equal rewards have exactly their value as their mean.
    first = np.take_along_axis(rewards, low, 1)
    sums = np.concatenate([np.zeros((G, 1)), (rewards - first).cumsum(axis=1)], axis=1)
    total = np.take_along_axis(sums, high, 1) - np.take_along_axis(sums, low, 1)
    mean = np.where(size == 1, rewards, first + total / size)
    step = np.diff(mean, axis=1, prepend=mean[:, :1])
    excess = np.where(size == 1, 0.0, (rewards - mean) / np.maximum(size - 1, 1))
    return _Ranked(order, low, high, mean, step, excess)
