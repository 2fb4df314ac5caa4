"""The difference between two groups of runs on the same prompts, with a 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from learner.metrics import paired_difference, student_t_interval

METHODS = {
    "prompts": "bootstrap over prompts, paired; it does not cover repeated training",
    "seeds": "t interval over seeds, paired by seed and prompt; it does not cover other prompts",
    "seeds of one": "t interval over the seeds of one group; the other's single run counts as fixed",
    "unpaired seeds": "Welch's t interval over runs (the groups have different seeds); it does not cover other prompts",
}


@dataclass(frozen=True, slots=True)
class Change:
    """after - before.

    Attributes:
        method: how the interval was made, a key of METHODS.
        runs: how many differences (or, unpaired, how many runs before and after) it rests on.
    """

    value: float
    low: float
    high: float
    method: str
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Seeded:
    """The values of one run: one for each prompt, [P]."""

    seed: int | None
    values_P: np.ndarray


def change(before: Sequence[Seeded], after: Sequence[Seeded]) -> Change:
    """The difference of two groups of runs over the same P >= 2 prompts."""
    if len(before) == len(after) == 1:
        found = paired_difference(before[0].values_P, after[0].values_P)
        return Change(found.value, found.low, found.high, "prompts", (1,))
    if 1 in (len(before), len(after)):
        differences = [new.values_P.mean() - old.values_P.mean() for old in before for new in after]
        return Change(*t_interval(differences), "seeds of one", (len(differences),))
    old, new = ({run.seed: float(run.values_P.mean()) for run in runs} for runs in (before, after))
    if len(old) == len(before) and len(new) == len(after) and old.keys() == new.keys():
        differences = [new[seed] - old[seed] for seed in old]
        return Change(*t_interval(differences), "seeds", (len(differences),))
    sides = [np.array([run.values_P.mean() for run in runs]) for runs in (before, after)]
    return Change(*_welch(*sides), "unpaired seeds", (len(before), len(after)))


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval of S >= 2 values by Student's t with S - 1 degrees of freedom."""
    array = np.asarray(values, dtype=np.float64)
    return student_t_interval(float(array.mean()), float(array.std(ddof=1)) / sqrt(len(array)), len(array) - 1)


def _welch(before_S: np.ndarray, after_S: np.ndarray) -> tuple[float, float, float]:
    """B. L. Welch, Biometrika 34 (1947): unequal variances, with the degrees of freedom of Satterthwaite."""
    parts = [float(side.var(ddof=1)) / len(side) for side in (before_S, after_S)]
    spread = sum(parts)
    freedom = 1.0
    if spread > 0:
        freedom = spread**2 / sum(
            part**2 / (len(side) - 1) for part, side in zip(parts, (before_S, after_S), strict=True)
        )
    return student_t_interval(float(after_S.mean() - before_S.mean()), sqrt(spread), freedom)
