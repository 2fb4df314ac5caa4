"""Values at equal cost: equal numbers of answers, and the best within tokens and seconds."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.frontier.budgets import equal_answers_tables, equal_cost_tables
from benchmarks.frontier.counts import Counts, Key, Store
from benchmarks.frontier.plan import Plan

RIGHT = {"mean": {2: 4, 4: 6, 6: 2}, "pass4": {2: 3, 4: 5, 6: 7}}  # of 8 answers, by step


def trained(path: Path, plan: Plan, seconds_of_pass4: float) -> Store:
    """Every step of the mean costs a second; only the smaller rate is good."""
    store = Store(path, plan.digest)
    for name, seed, rate, step in product(RIGHT, plan.seeds, plan.rates, (2, 4, 6)):
        right = RIGHT[name][step] if rate == min(plan.rates) else 1
        seconds = float(step if name == "mean" else step * seconds_of_pass4)
        counts = Counts(8, np.full(24, right), 1e6 * step, seconds)
        store.add({Key(name, rate, seed, step, "curve", 1.0): counts})
    return store


def cells(table: str, first: str) -> list[str]:
    (row,) = (line for line in table.split("\n\n")[0].splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_equal_steps_are_compared_with_an_interval(plan: Plan, tmp_path: Path) -> None:
    table = equal_answers_tables(trained(tmp_path / "counts.parquet", plan, 1.0), plan, ["mean", "pass4"])
    assert cells(table, "0.0 thousand answers (step 6)") == [
        "0.250 (1e-05; 6.00 M; 6 s)",
        "0.875 (1e-05; 6.00 M; 6 s)",
        "**+0.625** [+0.625, +0.625]",
    ]


@pytest.mark.parametrize(("seconds", "label"), [(1.0, "6.00 M tokens or 6 s"), (2.0, "6.00 M tokens or 12 s")])
def test_within_a_budget_each_side_stops_at_its_best_step(
    seconds: float, label: str, plan: Plan, tmp_path: Path
) -> None:
    table = equal_cost_tables(trained(tmp_path / "counts.parquet", plan, seconds), plan, ["mean", "pass4"])
    assert cells(table, label) == [
        "0.750 (1e-05; step 4)",  # it is worse at step 6
        "0.875 (1e-05; step 6)",
        "**+0.125** [+0.125, +0.125]",
    ]


def test_a_contender_that_is_faster_may_train_longer_within_the_same_time(plan: Plan, tmp_path: Path) -> None:
    table = equal_cost_tables(trained(tmp_path / "counts.parquet", plan, 2.0), plan, ["mean", "pass4"])
    assert cells(table, "2.00 M tokens")[:2] == ["0.500 (1e-05; step 2)", "0.375 (1e-05; step 2)"]
    assert cells(table, "4 s")[:2] == ["0.750 (1e-05; step 4)", "0.375 (1e-05; step 2)"]
