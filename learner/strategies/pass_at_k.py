"""pass@k: k answers are drawn, and one correct answer among them is enough. Binary rewards."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import comb

from learner.strategies.registry import count_strategy


@count_strategy("pass_at_k", best_by="rewards_GN", short="pass")
@lru_cache(maxsize=1 << 16)
def pass_at_k_exact(n: int, correct: int, k: int) -> Fraction:
    """Probability that k of n samples, drawn without replacement, contain a correct one (arXiv 2107.03374, eq. 1)."""
    return 1 - Fraction(comb(n - correct, k), comb(n, k))
