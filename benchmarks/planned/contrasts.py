"""Tests of the contrasts that a plan names before the test split is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.markdown import counted, interval, markdown
from learner import paired_difference_of_runs
from learner.metrics import paired_p_value

LEVEL = 0.05


class Primary(NamedTuple):
    """A named contrast: the values of both sides by run and prompt, float64 [S, P]; None: not measured yet."""

    name: str
    before_after: tuple[np.ndarray, np.ndarray] | None
    scale: float = 1.0  # of the numbers in the table
    digits: int = 3


def primary_table(contrasts: Sequence[Primary]) -> str:
    """Differences with their intervals, and p values by Holm's method over all contrasts of the plan."""
    pairs = [one.before_after for one in contrasts if one.before_after is not None]
    adjusted = iter(holm([paired_p_value(*pair) for pair in pairs], tests=len(contrasts)))
    rows = [["contrast", "difference, 95 % interval", "p, Holm", f"at the level {LEVEL:g}"]]
    for one in contrasts:
        if one.before_after is None:
            rows.append([one.name, "not measured yet", "", ""])
            continue
        difference, p = paired_difference_of_runs(*one.before_after), next(adjusted)
        verdict = "no difference found" if p >= LEVEL else "higher" if difference.value > 0 else "lower"
        shown = interval(difference, one.scale, one.digits).replace("**", "")
        rows.append([one.name, shown, "< 0.001" if p < 0.001 else f"{p:.3f}", verdict])
    note = (
        f"{counted(len(contrasts), 'contrast')}, named in the plan before the test split was used. The "
        "intervals are not adjusted; the p values are, for the contrasts of this plan."
    )
    return f"{markdown(rows)}\n\n{note}"


def holm(p_values: Sequence[float], tests: int) -> list[float]:
    """P values adjusted for `tests` tests by S. Holm's step-down method (Scand. J. Statistics 6, 1979).

    Tests without a result yet count with the largest p value.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (tests - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
