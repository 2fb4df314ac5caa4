"""Advantages: vectors from an independent source, bad input, and the properties that the derivation promises."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import group_advantages, strategy_value
from learner.settings import ObjectiveSettings

# (rewards, k, U_k, advantages by estimator); every number was checked by enumerating subsets elsewhere.
VECTORS = [
    (
        "01001000",
        2,
        0.4642857143,
        {
            "loo": [
                -0.0595238095,
                0.1785714286,
                -0.0595238095,
                -0.0595238095,
                0.1785714286,
                -0.0595238095,
                -0.0595238095,
                -0.0595238095,
            ],
            "loo1": [0, 0.2142857143, 0, 0, 0.2142857143, 0, 0, 0],
        },
    ),
    (
        "01001000",
        4,
        0.7857142857,
        {
            "loo": [
                -0.0714285714,
                0.2142857143,
                -0.0714285714,
                -0.0714285714,
                0.2142857143,
                -0.0714285714,
                -0.0714285714,
                -0.0714285714,
            ],
            "loo1": [0, 0.2857142857, 0, 0, 0.2857142857, 0, 0, 0],
        },
    ),
    ("01001000", 8, 1.0, {"loo1": [0] * 8}),
    ("01000000", 8, 1.0, {"loo1": [0, 1, 0, 0, 0, 0, 0, 0]}),
]


@pytest.mark.parametrize(("bits", "k", "value", "advantages"), VECTORS)
def test_literal_vectors(bits: str, k: int, value: float, advantages: dict[str, list[float]]) -> None:
    rewards = [int(b) for b in bits]
    assert strategy_value(rewards, strategy="pass_at_k", k=k) == pytest.approx(value, abs=1e-9)
    for estimator, expected in advantages.items():
        found = group_advantages(rewards, strategy="pass_at_k", k=k, estimator=estimator)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_mean_vector() -> None:
    found = group_advantages([0.1, 0.7, 0.3, -0.2, 1.1], strategy="mean", k=1)
    np.testing.assert_allclose(found, (np.array([0.1, 0.7, 0.3, -0.2, 1.1]) - 0.4) / 4, atol=1e-15)


def test_shared_vectors() -> None:
    notes = Path(os.environ.get("BONRL_NOTES", Path(__file__).resolve().parents[3] / "shared" / "notes"))
    if not (notes / "vectors.json").is_file():
        pytest.skip("no vectors.json: set BONRL_NOTES to the directory that holds it")
    checked = 0
    for entry in json.loads((notes / "vectors.json").read_text())["group"]:
        rewards, k = entry["reward"], entry["N"]
        if k == 1:
            strategy = "mean"
        elif entry["score"] is None and set(rewards) <= {0, 1}:
            strategy = "pass_at_k"
        else:
            continue
        assert strategy_value(rewards, strategy=strategy, k=k) == pytest.approx(entry["U"], abs=1e-9)
        for estimator in ("loo", "loo1"):
            if f"adv_{estimator}" in entry and not (estimator == "loo" and k == len(rewards)):
                found = group_advantages(rewards, strategy=strategy, k=k, estimator=estimator)
                np.testing.assert_allclose(found, entry[f"adv_{estimator}"], atol=2e-10)
                checked += 1
    assert checked >= 20


groups = st.integers(2, 12).flatmap(
    lambda n: st.tuples(st.lists(st.integers(0, 1), min_size=n, max_size=n), st.integers(1, n))
)


@given(groups, st.sampled_from(["loo", "loo1"]))
def test_properties(group: tuple[list[int], int], estimator: str) -> None:
    rewards, k = group
    n, c = len(rewards), sum(rewards)
    if estimator == "loo" and k == n:
        return
    found = group_advantages(rewards, strategy="pass_at_k", k=k, estimator=estimator)
    order = np.random.default_rng(0).permutation(n)
    permuted = group_advantages(np.array(rewards)[order], strategy="pass_at_k", k=k, estimator=estimator)
    np.testing.assert_array_equal(permuted, found[order])
    assert np.abs(found).max() <= 1
    degenerate = c == 0 or (c == n and (estimator == "loo" or k >= 2))
    if degenerate:
        assert not found.any(), "groups that are all wrong or all right teach nothing"
    if estimator == "loo":
        assert abs(found.sum()) < 1e-12
    else:
        assert (found >= 0).all() and (k == 1 or not found[np.array(rewards) == 0].any())


def test_large_groups_are_exact() -> None:
    """n = 4096: equal to rational arithmetic to rounding, where float64 binomials would overflow."""
    n, c, k = 4096, 37, 512
    rewards = np.zeros(n)
    rewards[:c] = 1
    missed = Fraction(comb(n - c, k), comb(n, k))
    found = group_advantages(rewards, strategy="pass_at_k", k=k)
    assert found[0] == float(missed * Fraction(k, n - k))
    assert found[-1] == float(-missed * Fraction(c * k, (n - c) * (n - k)))


def test_batched_equals_single() -> None:
    rewards_GN = (np.random.default_rng(1).random((50, 8)) < 0.4).astype(float)
    for strategy, k in (("pass_at_k", 3), ("mean", 1)):
        both = group_advantages(rewards_GN, strategy=strategy, k=k)
        assert both.shape == (50, 8) and both.dtype == np.float64
        for row, rewards in zip(both, rewards_GN, strict=True):
            np.testing.assert_array_equal(row, group_advantages(rewards, strategy=strategy, k=k))
        values = strategy_value(rewards_GN, strategy=strategy, k=k)
        assert values.shape == (50,) and values[3] == strategy_value(rewards_GN[3], strategy=strategy, k=k)


@pytest.mark.parametrize(
    ("rewards", "changes", "message"),
    [
        ([0, 1, 1], {"k": 4}, "k = 4 is larger than the group, n = 3"),
        ([0, 1, 1], {"k": 3}, "needs k < n"),
        ([0, 1, 1], {"k": 0}, "k must be an integer >= 1"),
        ([0, 1, 1], {"k": 1.5}, "k must be an integer"),
        ([0, 0.5, 1], {}, "rewards must be 0 or 1"),
        ([0, float("nan"), 1], {}, "rewards contains NaN"),
        ([], {}, "rewards must be a non-empty"),
        ([[[0]]], {}, "rewards must be a non-empty array of shape"),
        (["a", "b"], {}, "rewards must be numbers"),
        ([0, None, 1], {}, "rewards contains NaN|rewards must be numbers"),
        ([0, 1, 1], {"strategy": "pas_at_k"}, "did you mean 'pass_at_k'"),
        ([0, 1, 1], {"estimator": "lo"}, "did you mean 'loo'"),
        ([0, 1, 1], {"strategy": "mean"}, "set k = 1"),
        ([0, 1, 1], {"scores": [1.0, 2.0]}, "scores has shape"),
        ([0, 1, 1], {"scores": [1.0, float("nan"), 2.0]}, "scores contains NaN"),
    ],
)
def test_bad_arguments_are_named(rewards: list, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, **({"strategy": "pass_at_k", "k": 2} | changes))


def test_settings_refuse_what_cannot_work() -> None:
    ObjectiveSettings(strategy="pass_at_k", k=8, estimator="loo").check_group_size(16)
    with pytest.raises(ValueError, match="needs k < n"):
        ObjectiveSettings(k=8).check_group_size(8)
    ObjectiveSettings(k=8, estimator="loo1").check_group_size(8)
    with pytest.raises(ValueError, match="set k = 1"):
        ObjectiveSettings(strategy="mean", k=8)
    with pytest.raises(ValueError, match="did you mean 'pass_at_k'"):
        ObjectiveSettings(strategy="pass_at_n")
