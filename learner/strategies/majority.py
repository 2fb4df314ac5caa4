"""majority@k: the most frequent of k answers is used; ties are broken uniformly among the answers that lead.

Unparsable answers take a slot and never compete. U_k is a sum over j, the votes of the right answer, and t, the number
of other answers that also have j votes while none has more: the right answer then wins with probability 1 / (1 + t).

Votes are counted as coefficients of a product of polynomials in x, one factor for each answer. Two techniques keep
the numbers small and all terms positive, so that nothing cancels and nothing overflows:

- Draw each sample independently with probability p. Given that k were drawn they are a uniform k-subset, so
  U_k = P(won, k drawn) / P(k drawn), and an answer with s samples is drawn v times with the binomial probability.
- 1 / (1 + t) is the integral of y^t over [0, 1]: y is the probability of beating a tied answer. Gauss-Legendre nodes
  integrate the polynomial in y exactly.

Leaving one sample out changes one factor. Products of the factors before and behind it are shared by all answers, and
the coefficient of x^(k-1) in the same product is U_{k-1}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from learner.strategies.registry import CORRECT, UNPARSABLE, AnswerGroups, array_strategy

Votes = tuple[int, tuple[int, ...], int]  # right votes, votes of each other answer in ascending order, unparsable


def _leave_one_out(groups: AnswerGroups, k: int) -> np.ndarray:
    """U_k without each sample, float64[G, n]."""
    return _by_label(groups, k, 0)


def _leave_one_out_k_minus_1(groups: AnswerGroups, k: int) -> np.ndarray:
    """U_{k-1} without each sample, float64[G, n]."""
    return _by_label(groups, k, 1)


@array_strategy(
    "majority_at_k",
    array_leave_one_out=_leave_one_out,
    array_leave_one_out_k_minus_1=_leave_one_out_k_minus_1,
    required_inputs=("answers", "correct"),
    short="maj",
)
def majority_at_k(groups: AnswerGroups, k: int) -> np.ndarray:
    """Probability that the most frequent of k answers is the right one."""
    return np.array([vote_value(_votes(counts), k) for counts in _counts(groups)])


def _by_label(groups: AnswerGroups, k: int, which: int) -> np.ndarray:
    """U_{k - which} without each sample, which 0 or 1. Samples whose answers have equally many votes share a value."""
    assert groups.answers_GN is not None
    result = np.empty_like(groups.rewards_GN)
    for g, counts in enumerate(_counts(groups)):
        values = vote_leave_one_out(_votes(counts), k)
        value = {label: values[label if label in (CORRECT, UNPARSABLE) else counts[label]][which] for label in counts}
        result[g] = [value[label] for label in groups.answers_GN[g].tolist()]
    return result


def _counts(groups: AnswerGroups) -> Iterable[Counter[int]]:
    assert groups.answers_GN is not None
    return (Counter(labels) for labels in groups.answers_GN.tolist())


def _votes(counts: Counter[int]) -> Votes:
    others = sorted(count for label, count in counts.items() if label not in (CORRECT, UNPARSABLE))
    return counts[CORRECT], tuple(others), counts[UNPARSABLE]


class _Tally:
    """Probability that the right answer wins among k samples of a group with these votes, or without one sample.

    *_MS: polynomials in x for each of the M cases (votes j of the right answer, height y of a tie), powers 0 .. k.
    """

    def __init__(self, votes: Votes, k: int) -> None:
        self._right, others, unparsable = votes
        self._n, self._k = self._right + sum(others) + unparsable, k
        self._drawn = _drawn(self._n, k)
        self._votes_M, self._heights_M, self._weights_M = _cases(k, min(self._right, k))
        self._classes = [(UNPARSABLE, unparsable, 1)] * (unparsable > 0)
        self._classes += [(size, size, many) for size, many in sorted(Counter(others).items())]
        before_MS = np.zeros((len(self._votes_M), k + 1))
        before_MS[np.arange(len(self._votes_M)), self._votes_M] = 1.0  # x^j
        self._all_but_one = []  # the product of the classes before, and of all answers but one of this class
        for label, size, many in self._classes:
            for _ in range(many - 1):
                before_MS = _times(before_MS, self._factor(label, size))
            self._all_but_one.append(before_MS)
            before_MS = _times(before_MS, self._factor(label, size))
        self._all_MS = before_MS
        self.value = self._win_probability(self._n, self._right, k, before_MS[:, k])

    def leave_one_out(self) -> dict[int, tuple[float, float]]:
        """(U_k, U_{k-1}) without one sample of the key: CORRECT, UNPARSABLE, or an answer with that many votes."""
        n, right, sizes = self._n, self._right, (self._k, self._k - 1)
        result = {}
        if right:
            result[CORRECT] = [
                self._win_probability(n - 1, right - 1, slots, self._all_MS[:, slots]) for slots in sizes
            ]
        behind_MS = np.zeros_like(self._all_MS)
        behind_MS[:, 0] = 1.0
        for (label, size, many), all_but_one_MS in zip(
            reversed(self._classes), reversed(self._all_but_one), strict=True
        ):
            reduced_MS = _times(all_but_one_MS, self._factor(label, size - 1))
            ways = [(reduced_MS[:, : slots + 1] * behind_MS[:, slots::-1]).sum(axis=1) for slots in sizes]
            result[label] = [self._win_probability(n - 1, right, *pair) for pair in zip(sizes, ways, strict=True)]
            for _ in range(many):
                behind_MS = _times(behind_MS, self._factor(label, size))
        return {label: (values[0], values[1]) for label, values in result.items()}

    def _factor(self, label: int, size: int) -> np.ndarray:
        """[M, v]: `size` samples of one answer are drawn v times without winning."""
        slots = np.arange(min(size, self._k) + 1)
        drawn = self._drawn[size, slots]
        if label == UNPARSABLE:
            return np.broadcast_to(drawn, (len(self._votes_M), len(slots)))
        ahead, tied = slots > self._votes_M[:, None], slots == self._votes_M[:, None]
        return drawn * np.where(tied, self._heights_M[:, None], ~ahead)

    def _win_probability(self, samples: int, right: int, slots: int, ways_M: np.ndarray) -> float:
        """Probability that an answer with `right` of `samples` samples wins `slots` draws; ways_M: of the others."""
        if slots > samples:
            return 0.0
        won = (self._weights_M * self._drawn[right, self._votes_M] * ways_M).sum()
        return float(won / self._drawn[samples, slots])


# Groups with equal votes share their values. Only these are kept: the polynomials of a large group take megabytes.
@lru_cache(maxsize=1 << 14)
def vote_value(votes: Votes, k: int) -> float:
    """U_k of a group with these votes."""
    return _Tally(votes, k).value


@lru_cache(maxsize=1 << 14)
def vote_leave_one_out(votes: Votes, k: int) -> dict[int, tuple[float, float]]:
    """U_k and U_{k-1} of such a group without one sample, by the kind of that sample."""
    return _Tally(votes, k).leave_one_out()


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
    """Probability that v of s samples are drawn, each with p = k / (n + 1): float64[s, v] for s = 0..n, v = 0..k."""
    p = k / (n + 1)  # less than 1 at k = n as well
    table = np.zeros((n + 1, k + 1))
    table[0, 0] = 1.0
    for s in range(1, n + 1):
        table[s] = (1 - p) * table[s - 1]
        table[s, 1:] += p * table[s - 1, :-1]
    return table
