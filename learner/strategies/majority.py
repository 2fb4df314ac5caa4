"""majority@k: the most frequent of k answers is used; ties are broken uniformly among the answers that lead.

Unparsable answers take a slot and never compete. U_k is exact, by counting: for j votes of the right answer,

    C(n_right, j) * #{choices of the other k - j answers in which each gets at most j votes, t of them exactly j}

counts the k-subsets that the right answer wins with probability 1 / (1 + t). The choices are coefficients of a
product of polynomials in x (slots used) and y (answers tied), one factor for each other answer. The product is
taken on integers: a polynomial is packed into one large integer with enough bits for each coefficient, so that one
multiplication of the machine's big integers multiplies the polynomials (Kronecker substitution).
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import lru_cache
from math import comb

import numpy as np

from learner.strategies.registry import CORRECT, UNPARSABLE, Group, array_strategy

Votes = tuple[int, tuple[int, ...], int]  # right votes, votes of each other answer in ascending order, unparsable


def _leave_one_out(group: Group, k: int) -> np.ndarray:
    """U_k without each sample. Samples whose answers have equally many votes share one value."""
    assert group.answers_GN is not None
    result = np.empty_like(group.rewards_GN)
    for g, labels in enumerate(group.answers_GN):
        counts = Counter(labels.tolist())
        votes = _votes(counts)
        value = {label: float(majority_exact(_remove(votes, label, counts[label]), k)) for label in counts}
        result[g] = [value[label] for label in labels.tolist()]
    return result


@array_strategy("majority_at_k", array_leave_one_out=_leave_one_out, needs=("answers", "correct"))
def majority_at_k(group: Group, k: int) -> np.ndarray:
    """Probability that a vote among k answers elects the right one."""
    assert group.answers_GN is not None
    return np.array([float(majority_exact(_votes(Counter(row.tolist())), k)) for row in group.answers_GN])


@lru_cache(maxsize=1 << 14)
def majority_exact(votes: Votes, k: int) -> Fraction:
    """Probability that the right answer wins the vote among k of the samples behind `votes`."""
    right, others, unparsable = votes
    n = right + sum(others) + unparsable
    bits = comb(n, min(2 * k, n // 2)).bit_length()  # a coefficient counts subsets of at most 2 k samples
    wins: Counter[int] = Counter()  # k-subsets that the right answer leads, by how many others are tied with it
    for j in range(1, min(right, k) + 1):
        for tied, ways in enumerate(_ways(others, unparsable, j, k - j, bits)):
            wins[tied] += comb(right, j) * ways
    return sum((Fraction(count, 1 + tied) for tied, count in wins.items()), Fraction(0)) / comb(n, k)


def _ways(others: tuple[int, ...], unparsable: int, j: int, slots: int, bits: int) -> list[int]:
    """For t = 0, 1, ...: in how many ways `slots` answers are chosen with t answers at j votes and none above."""
    harmless = unparsable + sum(size for size in others if size < j)  # cannot reach j: any choice of them will do
    rivals = Counter(size for size in others if size >= j)
    ties = min(slots // j, sum(rivals.values()))
    # Two products of degree <= slots have degree <= 2 * slots in x, so rows of that width never run into each other.
    row = (2 * slots + 1) * bits
    product = _pack([comb(harmless, v) for v in range(slots + 1)], bits)
    for size, multiplicity in sorted(rivals.items()):
        factor = _pack([comb(size, v) for v in range(min(j - 1, slots) + 1)], bits)
        if j <= slots:
            factor += comb(size, j) << (row + j * bits)
        for square in range(multiplicity.bit_length()):  # its power, by repeated squaring
            if multiplicity >> square & 1:
                product = _truncate(product * factor, slots, ties, bits, row)
            if multiplicity >> (square + 1):
                factor = _truncate(factor * factor, slots, ties, bits, row)
    coefficient = (1 << bits) - 1
    return [(product >> (t * row + slots * bits)) & coefficient for t in range(ties + 1)]


def _pack(coefficients: list[int], bits: int) -> int:
    return sum(c << (v * bits) for v, c in enumerate(coefficients))


def _truncate(packed: int, slots: int, ties: int, bits: int, row: int) -> int:
    """Keep powers of x up to `slots` and powers of y up to `ties`."""
    keep = (1 << ((slots + 1) * bits)) - 1
    return sum(((packed >> (t * row)) & keep) << (t * row) for t in range(ties + 1))


def _votes(counts: Counter[int]) -> Votes:
    others = sorted(count for label, count in counts.items() if label not in (CORRECT, UNPARSABLE))
    return counts[CORRECT], tuple(others), counts[UNPARSABLE]


def _remove(votes: Votes, label: int, size: int) -> Votes:
    """The votes without one sample of an answer that has `size` of them."""
    right, others, unparsable = votes
    if label == CORRECT:
        return right - 1, others, unparsable
    if label == UNPARSABLE:
        return right, others, unparsable - 1
    rest = list(others)
    rest.remove(size)
    return right, tuple(sorted([*rest, size - 1] if size > 1 else rest)), unparsable
