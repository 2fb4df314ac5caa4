"""majority@k: the most frequent of k answers is used; ties are broken uniformly among the answers that lead.

Unparsable answers take a slot and never compete. U_k is a sum over j, the votes of the right answer, and t, the number
of other answers that have j votes too while none has more: such a vote is won with probability 1 / (1 + t).

Votes are counted as coefficients of a product of polynomials in x, one factor for each answer. Two devices keep the
numbers small and all terms positive, so that nothing cancels and nothing overflows:

- Draw each sample with probability p on its own. Given that k were drawn they are a uniform k-subset, so
  U_k = P(won, k drawn) / P(k drawn), and an answer with s samples is drawn v times with the binomial probability.
- 1 / (1 + t) is the integral of y^t over [0, 1]: a tied answer is beaten with probability y. Gauss-Legendre nodes
  integrate the polynomial in y exactly.

Leaving one sample out changes one factor. Products of the factors before and behind it are shared by all answers, and
the coefficient of x^(k-1) in the same product is U_{k-1}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from learner.strategies.registry import CORRECT, UNPARSABLE, Group, array_strategy

Votes = tuple[int, tuple[int, ...], int]  # right votes, votes of each other answer in ascending order, unparsable
Without = dict[int, tuple[float, float]]  # CORRECT, UNPARSABLE or the votes of another answer -> (U_k, U_{k-1})


def _leave_one_out(group: Group, k: int) -> np.ndarray:
    """U_k without each sample, float64[G, n]."""
    return _without(group, k, 0)


def _fewer(group: Group, k: int) -> np.ndarray:
    """U_{k-1} without each sample, float64[G, n]."""
    return _without(group, k, 1)


@array_strategy("majority_at_k", array_leave_one_out=_leave_one_out, array_fewer=_fewer, needs=("answers", "correct"))
def majority_at_k(group: Group, k: int) -> np.ndarray:
    """Probability that a vote among k answers elects the right one."""
    return np.array([tally(_votes(counts), k)[0] for counts in _counts(group)])


def _without(group: Group, k: int, which: int) -> np.ndarray:
    """One of the two values without each sample. Samples whose answers have equally many votes share them."""
    assert group.answers_GN is not None
    result = np.empty_like(group.rewards_GN)
    for g, counts in enumerate(_counts(group)):
        without = tally(_votes(counts), k)[1]
        value = {label: without[label if label in (CORRECT, UNPARSABLE) else counts[label]][which] for label in counts}
        result[g] = [value[label] for label in group.answers_GN[g].tolist()]
    return result


def _counts(group: Group) -> Iterable[Counter[int]]:
    assert group.answers_GN is not None
    return (Counter(labels) for labels in group.answers_GN.tolist())


def _votes(counts: Counter[int]) -> Votes:
    others = sorted(count for label, count in counts.items() if label not in (CORRECT, UNPARSABLE))
    return counts[CORRECT], tuple(others), counts[UNPARSABLE]


@lru_cache(maxsize=1 << 14)
def tally(votes: Votes, k: int) -> tuple[float, Without]:
    """U_k of a group with these votes, and (U_k, U_{k-1}) without one sample of each kind. 0 <= k - 1 < n."""
    right, others, unparsable = votes
    n = right + sum(others) + unparsable
    drawn = _drawn(n, k)
    votes_M, heights_M, weights_M = _cases(k, min(right, k))

    def factor(label: int, size: int) -> np.ndarray:
        """[M, v]: `size` samples of one answer are drawn v times without winning."""
        slots = np.arange(min(size, k) + 1)
        if label == UNPARSABLE:
            return np.broadcast_to(drawn[size, slots], (len(votes_M), len(slots)))
        ahead, tied = slots > votes_M[:, None], slots == votes_M[:, None]
        return drawn[size, slots] * np.where(tied, heights_M[:, None], ~ahead)

    def elected(samples: int, right: int, slots: int, ways_M: np.ndarray) -> float:
        """Probability of the election of one of `right` samples, given the coefficient of the others."""
        won = float((weights_M * drawn[right, votes_M] * ways_M).sum())
        return won / drawn[samples, slots] if slots <= samples else 0.0

    classes = [(UNPARSABLE, unparsable, 1)] * (unparsable > 0)
    classes += [(size, size, many) for size, many in sorted(Counter(others).items())]
    before_MS = np.zeros((len(votes_M), k + 1))
    before_MS[np.arange(len(votes_M)), votes_M] = 1.0  # x^j
    but_one = []  # the product of the classes before, and of all answers but one of this class
    for label, size, many in classes:
        for _ in range(many - 1):
            before_MS = _times(before_MS, factor(label, size))
        but_one.append(before_MS)
        before_MS = _times(before_MS, factor(label, size))

    value = elected(n, right, k, before_MS[:, k])
    without: Without = {}
    if right:
        fewer = right - 1
        without[CORRECT] = elected(n - 1, fewer, k, before_MS[:, k]), elected(n - 1, fewer, k - 1, before_MS[:, k - 1])
    behind_MS = np.zeros_like(before_MS)
    behind_MS[:, 0] = 1.0
    for (label, size, many), rest_MS in zip(reversed(classes), reversed(but_one), strict=True):
        rest_MS = _times(rest_MS, factor(label, size - 1))
        ways = [(rest_MS[:, : slots + 1] * behind_MS[:, slots::-1]).sum(axis=1) for slots in (k, k - 1)]
        without[label] = elected(n - 1, right, k, ways[0]), elected(n - 1, right, k - 1, ways[1])
        for _ in range(many):
            behind_MS = _times(behind_MS, factor(label, size))
    return value, without


def _times(product_MS: np.ndarray, factor_MV: np.ndarray) -> np.ndarray:
    """Products of M pairs of polynomials, coefficients by power of x, cut at the powers of the first."""
    result = product_MS * factor_MV[:, :1]
    for v in range(1, factor_MV.shape[1]):
        result[:, v:] += product_MS[:, :-v] * factor_MV[:, v : v + 1]
    return result


@lru_cache(maxsize=64)
def _cases(k: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sum over j = 1..most and the integral over y, as one sum: j int[M], y and weights float64[M].

    With j votes for the right answer at most (k - j) / j others can have j: the degree in y.
    """
    votes, heights, weights = [], [], []
    for j in range(1, most + 1):
        nodes, shares = np.polynomial.legendre.leggauss((k - j) // j // 2 + 1)
        votes += [j] * len(nodes)
        heights += ((1 + nodes) / 2).tolist()
        weights += (shares / 2).tolist()
    return np.array(votes, dtype=np.int64), np.array(heights), np.array(weights)


@lru_cache(maxsize=64)
def _drawn(n: int, k: int) -> np.ndarray:
    """Probability that v of s samples are drawn, float64[s, v] for s = 0..n, v = 0..k, when k of n are expected."""
    p = k / (n + 1)  # less than 1 at k = n as well
    table = np.zeros((n + 1, k + 1))
    table[0, 0] = 1.0
    for s in range(1, n + 1):
        table[s] = (1 - p) * table[s - 1]
        table[s, 1:] += p * table[s - 1, :-1]
    return table
