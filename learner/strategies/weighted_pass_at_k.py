"""Sums of pass@1 .. pass@k with fixed weights. Binary rewards.

`weighted_pass_at_k` has weights proportional to 1/j: with k = 1 it is the mean, and for large k its gradient approaches
that of the logarithm of the success rate, whose expansion is the sum of (pass@j - 1) / j (as in `maxrl`). Other sums of
a few terms are mixtures of `pass_at_k` (`objective.mixture`).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from learner.strategies.pass_at_k import pass_at_k_exact
from learner.strategies.registry import count_strategy


@count_strategy("weighted_pass_at_k", short="weighted_pass")
@lru_cache(maxsize=1 << 16)
def weighted_pass_at_k(n: int, correct: int, k: int) -> Fraction:
    """Sum of pass@j / j over j = 1 .. k, divided by the sum of 1 / j, so that it is a probability."""
    weights = {j: Fraction(1, j) for j in range(1, k + 1)}
    return sum((w * pass_at_k_exact(n, correct, j) for j, w in weights.items()), Fraction(0)) / sum(weights.values())
