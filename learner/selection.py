"""Chooses the prompts to train: those with large expected gradients more often, with importance weights.

Of C candidates P are trained: candidate i with probability π_i, and then with the weight P / (C π_i). So the mean of
weight × gradient over the trained groups has the mean over all candidates as its expectation (Horvitz and Thompson
1952), with any π_i > 0 that do not depend on the candidate's new samples. Its noise is least where π_i is in proportion
to the root of the expected squared gradient (Neyman 1934).

Systematic sampling (Madow 1949) chooses exactly P different candidates with exactly these probabilities, because the
probabilities are integers here, in units of 1 / UNITS.
"""

from __future__ import annotations

import numpy as np

UNITS = 1 << 32


def selection_units(norms_C: np.ndarray, chosen: int, max_weight: float) -> np.ndarray:
    """UNITS × π, int64[C], in proportion to `norms_C` as far as 1 and `max_weight` allow; the sum is UNITS × `chosen`.

    Args:
        norms_C: roots of the expected squared gradients, ≥ 0; if all are 0, all candidates are equally likely.
        chosen: P, candidates to be chosen; at most C.
        max_weight: of the importance weights, ≥ 1.
    """
    candidates = len(norms_C)
    least = chosen / (candidates * max_weight)
    top = norms_C.max(initial=0.0)
    # A small positive norm lets every probability reach 1, so that the sum can always be reached.
    norms_C = np.maximum(norms_C / top, 1e-6) if top > 0 else np.ones(candidates)
    low, high = 0.0, 1.0 / norms_C.min()
    for _ in range(100):  # bisection; the sum grows with the factor, and at `low` it is at most `chosen`
        middle = (low + high) / 2
        if (norms_C * middle).clip(least, 1.0).sum() <= chosen:
            low = middle
        else:
            high = middle
    units_C = np.floor((norms_C * low).clip(least, 1.0) * UNITS).astype(np.int64)
    rounded = chosen * UNITS - int(units_C.sum())
    order = np.argsort(units_C, kind="stable")
    room = UNITS - units_C[order]
    units_C[order] += np.minimum(room, np.maximum(rounded - (np.cumsum(room) - room), 0))
    return units_C


def systematic_sample(units_C: np.ndarray, start: int) -> np.ndarray:
    """Indices int64 of the chosen candidates in order; each is chosen with the probability units_C / UNITS.

    Args:
        start: uniform in 0 .. UNITS - 1, independent of everything else.
    """
    ends_C = np.cumsum(units_C)
    return np.searchsorted(ends_C, np.arange(start, ends_C[-1], UNITS), side="right")


def selection_weights(units_C: np.ndarray) -> np.ndarray:
    """Importance weights float64[C]; 1 where all candidates are equally likely."""
    return units_C.sum() / (len(units_C) * units_C)
