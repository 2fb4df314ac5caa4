"""An inference strategy: k answers are drawn, and they are used only if two of them are right."""

from fractions import Fraction
from math import comb

from bonrl import count_strategy


@count_strategy("two_right")
def two_right(n, correct, k):
    """Probability that k of n samples, drawn without replacement, contain at least two correct ones."""
    wrong = n - correct
    return 1 - Fraction(comb(wrong, k) + correct * comb(wrong, k - 1), comb(n, k))
