"""Simulated experiments: what a plan can detect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.frontier.counts import Store
from benchmarks.frontier.plan import load
from benchmarks.frontier.power import Spread, components, power_of, simulate


def test_the_spread_of_simulated_differences_is_found_again() -> None:
    random, true = np.random.default_rng(0), Spread(0.05, 0.1, 0.2)
    found = [
        components(
            random.normal(0, true.run, (8, 1))
            + random.normal(0, true.prompt, 200)
            + random.normal(0, true.rest, (8, 200))
        )
        for _ in range(200)
    ]
    assert np.sqrt(np.mean(np.square(found), axis=0)) == pytest.approx(true, rel=0.06)
    assert components(np.arange(3.0)[:, None] * np.ones(5)) == pytest.approx(Spread(1.0, 0.0, 0.0))


def test_power_grows_with_the_difference_and_is_the_level_without_one() -> None:
    spread = Spread(0.01, 0.1, 0.2)
    power = [np.mean(simulate(spread, d, 6, 200, experiments=400).p_values < 0.05) for d in (0.0, 0.02, 0.06)]
    assert 0.02 < power[0] < 0.08 and power[0] < power[1] < 0.9 < power[2]
    assert 0.92 < simulate(spread, 0.02, 6, 200, experiments=400).covered < 0.985


def test_the_figures_of_the_small_plan_are_those_of_the_script(repository: Path) -> None:
    plan = load(repository / "benchmarks/frontier/countdown-small.yaml")
    page = " ".join((repository / "docs/evidence/plan.md").read_text().split())
    at_8 = power_of(Store(repository / "docs/evidence/frontier/counts.parquet", plan.digest), plan, plan.primary[0])
    assert "standard error 0.0069" in at_8 and "gave 0.007 at k = 8, and this power" in page
    for difference, loose, strict in (("0.02", "0.72", "0.53"), ("0.03", "0.97", "0.91"), ("0.04", "1.00", "0.99")):
        assert f"difference {difference}: power {loose}, {strict}" in at_8
    assert "| difference | 0.02 | 0.03 | 0.04 | |---|---|---|---| | at the level 0.05 | 0.72 | 0.97 | 1.00 |" in page
    assert "| at the strictest level of Holm's method, 0.017 | 0.53 | 0.91 | 0.99 |" in page
