"""Strategies of the family of pass@k: rewards that are probabilities, verifiers with known errors, weighted sums."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from learner import corrected_rewards, group_advantages, strategy_value
from learner.estimators import ESTIMATORS
from tests.learner import tabular

UNBIASED = [name for name, found in ESTIMATORS.items() if found.unbiased and found.strategies is None]
FALSE_POSITIVE, FALSE_NEGATIVE = 0.2, 0.1


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_known_verifier_errors_leave_no_bias(n: int) -> None:
    """Every group of answers with every combination of verdicts: the expectation is the gradient of the true pass@k."""
    accepts = np.where(tabular.BINARY == 1, 1 - FALSE_NEGATIVE, FALSE_POSITIVE)
    outcomes = np.array(list(product(product(range(4), (0, 1)), repeat=n)))  # [groups, n, (answer, verdict)]
    answers, verdicts = outcomes[..., 0], outcomes[..., 1]
    chances = tabular.policy()[answers] * np.where(verdicts == 1, accepts[answers], 1 - accepts[answers])
    rewards = corrected_rewards(verdicts, false_positive=FALSE_POSITIVE, false_negative=FALSE_NEGATIVE)
    for k in range(1, n + 1):
        true_value = 1 - (1 - tabular.policy() @ tabular.BINARY) ** k
        value = strategy_value(rewards, strategy="soft_pass_at_k", k=k)
        assert chances.prod(axis=1) @ value == pytest.approx(true_value, abs=1e-12)
        expected = tabular.gradient(tabular.best(tabular.BINARY, tabular.BINARY), k)
        for estimator in UNBIASED:
            if k < n or ESTIMATORS[estimator].allows_k_equal_n:
                advantages = group_advantages(rewards, strategy="soft_pass_at_k", k=k, estimator=estimator)
                found = tabular.update(advantages, answers, chances.prod(axis=1))
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10, err_msg=f"{estimator}, n={n}, k={k}")
    if n == 4:
        naive = group_advantages(verdicts, strategy="pass_at_k", k=3)
        biased = tabular.update(naive, answers, chances.prod(axis=1))
        exact = tabular.gradient(tabular.best(tabular.BINARY, tabular.BINARY), 3)
        assert np.abs(biased / exact - 1).max() > 0.3, "the verdicts themselves follow another gradient"


def test_soft_pass_at_k_of_zeros_and_ones_is_pass_at_k() -> None:
    rewards = (np.random.default_rng(1).random((6, 48)) < 0.2).astype(float)
    for k in (1, 7, 24, 47):
        for estimator in UNBIASED:
            both = [
                group_advantages(rewards, strategy=name, k=k, estimator=estimator)
                for name in ("soft_pass_at_k", "pass_at_k")
            ]
            np.testing.assert_allclose(*both, rtol=0, atol=1e-12)
        values = [strategy_value(rewards, strategy=name, k=k) for name in ("soft_pass_at_k", "pass_at_k")]
        np.testing.assert_allclose(*values, rtol=0, atol=1e-12)


def test_soft_pass_at_k_equals_enumeration() -> None:
    rewards = np.random.default_rng(2).normal(0.3, 0.6, 7)
    for k in range(1, 8):
        expected = np.mean([1 - np.prod(1 - rewards[list(s)]) for s in combinations(range(7), k)])
        assert strategy_value(rewards, strategy="soft_pass_at_k", k=k) == pytest.approx(expected, abs=1e-13)
    large = np.full(1024, 0.01)
    assert strategy_value(large, strategy="soft_pass_at_k", k=256) == pytest.approx(1 - 0.99**256, abs=1e-12)


def test_weighted_pass_at_k_is_a_mixture_with_weights_of_one_over_j() -> None:
    rewards, k = [1, 0, 0, 1, 0, 0, 0, 0], 4
    total = sum(1 / j for j in range(1, k + 1))
    parts = [group_advantages(rewards, strategy="pass_at_k", k=j) / j for j in range(1, k + 1)]
    found = group_advantages(rewards, strategy="weighted_pass_at_k", k=k)
    np.testing.assert_allclose(found, sum(parts) / total, rtol=0, atol=1e-15)
    mean = group_advantages(rewards, strategy="mean", k=1)
    np.testing.assert_allclose(group_advantages(rewards, strategy="weighted_pass_at_k", k=1), mean, rtol=0, atol=1e-15)


def test_weighted_pass_at_k_has_the_expected_update_of_maxrl() -> None:
    n = 5
    groups, probabilities = tabular.groups_of(n)
    rewards = tabular.BINARY[groups]
    maxrl = tabular.update(group_advantages(rewards, strategy="mean", k=1, estimator="maxrl"), groups, probabilities)
    found = tabular.update(group_advantages(rewards, strategy="weighted_pass_at_k", k=n - 1), groups, probabilities)
    np.testing.assert_allclose(found * sum(1 / j for j in range(1, n)), maxrl, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("accepted", "rates", "message"),
    [
        ([1, 0.5], (0.1, 0.1), "accepted must be 0 or 1"),
        ([1, 0], (-0.1, 0.1), "false_positive must be in"),
        ([1, 0], (0.1, 1.0), "false_negative must be in"),
        ([1, 0], (0.6, 0.4), "must be below 1"),
        (["yes"], (0.1, 0.1), "accepted must be numbers"),
    ],
)
def test_impossible_error_rates_are_refused(accepted: list, rates: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        corrected_rewards(accepted, false_positive=rates[0], false_negative=rates[1])
