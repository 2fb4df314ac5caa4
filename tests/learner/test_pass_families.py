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


@pytest.mark.parametrize("n", [2, 3])
def test_errors_that_are_the_same_for_equal_responses_leave_no_bias(n: int) -> None:
    """Every group of answers and every verdict for each *different* answer, as a verifier that judges it once gives."""
    accepts = np.where(tabular.BINARY == 1, 1 - FALSE_NEGATIVE, FALSE_POSITIVE)
    outcomes = np.array(list(product(*[range(4)] * n, *[(0, 1)] * 4)))
    answers, by_answer = outcomes[:, :n], outcomes[:, n:]
    verdicts = np.take_along_axis(by_answer, answers, axis=1)
    of_verdicts = np.where(by_answer == 1, accepts, 1 - accepts).prod(axis=1)
    found, group = np.unique(np.concatenate([answers, verdicts], axis=1), axis=0, return_inverse=True)
    chances = np.bincount(group.reshape(-1), tabular.policy()[answers].prod(axis=1) * of_verdicts)
    answers, verdicts = found[:, :n], found[:, n:]
    rewards = corrected_rewards(verdicts, false_positive=FALSE_POSITIVE, false_negative=FALSE_NEGATIVE)
    for k in range(1, n + 1):
        true_value = 1 - (1 - tabular.policy() @ tabular.BINARY) ** k
        value = strategy_value(rewards, strategy="soft_pass_at_k", k=k, responses=answers)
        assert chances @ value == pytest.approx(true_value, abs=1e-12)
        expected = tabular.gradient(tabular.best(tabular.BINARY, tabular.BINARY), k)
        for estimator in UNBIASED:
            if k < n or ESTIMATORS[estimator].allows_k_equal_n:
                advantages = group_advantages(
                    rewards, strategy="soft_pass_at_k", k=k, estimator=estimator, responses=answers
                )
                found = tabular.update(advantages, answers, chances)
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10, err_msg=f"{estimator}, n={n}, k={k}")
    independent = chances @ strategy_value(rewards, strategy="soft_pass_at_k", k=n)
    assert abs(independent - true_value) > 0.003, "without the responses, copies would be counted as independent"


def test_copies_of_a_response_are_one_event() -> None:
    rng = np.random.default_rng(3)
    responses = np.array([0, 1, 0, 2, 1, 0, 3, 4])
    rewards = rng.normal(0.3, 0.6, 5)[responses]

    def earned(samples: tuple[int, ...]) -> float:
        different = {responses[i]: 1 - rewards[i] for i in samples}
        return 1 - float(np.prod(list(different.values())))

    arguments = dict(strategy="soft_pass_at_k", responses=[f"response {r}" for r in responses])
    for k in range(1, 9):
        expected = np.mean([earned(samples) for samples in combinations(range(8), k)])
        assert strategy_value(rewards, k=k, **arguments) == pytest.approx(expected, abs=1e-13)
    for k in range(1, 8):
        without = [np.mean([earned(s) for s in combinations(set(range(8)) - {i}, k)]) for i in range(8)]
        value = strategy_value(rewards, k=k, **arguments)
        found = group_advantages(rewards, k=k, estimator="loo", **arguments)
        np.testing.assert_allclose(found, value - np.array(without), rtol=0, atol=1e-13)
    other = rewards + np.array([0, 0, 0.1, 0, 0, 0.2, 0, 0])  # equal responses with different rewards are two events
    apart = [0, 1, 5, 2, 1, 6, 3, 4]
    assert strategy_value(other, k=3, **arguments) == pytest.approx(
        strategy_value(other, k=3, strategy="soft_pass_at_k", responses=apart), abs=1e-13
    )


@pytest.mark.parametrize("estimator", UNBIASED)
def test_groups_with_and_without_copies_do_not_touch_each_other(estimator: str) -> None:
    rng = np.random.default_rng(4)
    responses = rng.integers(0, 12, (20, 6))
    rewards = np.take_along_axis(rng.normal(0.3, 0.6, (20, 12)), responses, axis=1)
    arguments = dict(strategy="soft_pass_at_k", k=3, estimator=estimator)
    together = group_advantages(rewards, responses=responses, **arguments)
    repeats = np.array([len(set(row)) < 6 for row in responses.tolist()])
    assert 3 < repeats.sum() < 17
    for row, reward, response in zip(together, rewards, responses, strict=True):
        np.testing.assert_array_equal(row, group_advantages(reward, responses=response, **arguments))
    plain = group_advantages(rewards, **arguments)
    np.testing.assert_array_equal(together[~repeats], plain[~repeats])


def test_copies_in_large_groups_lose_no_precision() -> None:
    rng = np.random.default_rng(5)
    responses = rng.integers(0, 40, (3, 96))
    rewards = np.take_along_axis((rng.random((3, 40)) < 0.1).astype(float), responses, axis=1)
    for k in (2, 32, 95):
        found = group_advantages(rewards, strategy="soft_pass_at_k", k=k, responses=responses)
        expected = group_advantages(rewards, strategy="pass_at_k", k=k)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("estimator", UNBIASED)
def test_groups_of_zeros_give_no_signal(estimator: str) -> None:
    responses = np.random.default_rng(7).integers(0, 12, (30, 16))
    for given in (None, responses):
        advantages = group_advantages(
            np.zeros((30, 16)), strategy="soft_pass_at_k", k=5, estimator=estimator, responses=given
        )
        np.testing.assert_array_equal(advantages, 0.0)


def test_without_false_rejections_the_correction_only_scales_pass_at_k() -> None:
    verdicts = (np.random.default_rng(6).random((6, 16)) < 0.3).astype(float)
    rewards = corrected_rewards(verdicts, false_positive=0.2, false_negative=0.0)
    for k in (1, 4, 15):
        corrected = group_advantages(rewards, strategy="soft_pass_at_k", k=k)
        uncorrected = group_advantages(verdicts, strategy="pass_at_k", k=k)
        np.testing.assert_allclose(corrected * 0.8**k, uncorrected, rtol=0, atol=1e-13)


def test_false_rejections_make_pass_at_k_act_like_a_smaller_k() -> None:
    """pass@k of the verdicts has the gradient of pass@k at the success rate p (1 - fn / (1 - fp)), up to a factor."""
    false_positive, false_negative, n, k = 0.05, 0.4, 5, 3
    ratio = []
    for p in (0.05, 0.3, 0.6):
        accepted = p * (1 - false_negative) + (1 - p) * false_positive
        chances = np.array([p * (1 - false_negative), p * false_negative, (1 - p) * false_positive, 0.0])
        chances[3] = 1 - chances.sum()
        verdict, right = np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0])
        groups = np.array(list(product(range(4), repeat=n)))
        advantages = group_advantages(verdict[groups], strategy="pass_at_k", k=k)
        score = np.where(right[groups] == 1, 1 / p, -1 / (1 - p))  # d log-probability / dp
        update = (chances[groups].prod(axis=1)[:, None] * advantages * score).sum()
        assert update == pytest.approx((1 - false_positive - false_negative) * k * (1 - accepted) ** (k - 1))
        ratio.append(update / (1 - p * (1 - false_negative / (1 - false_positive))) ** (k - 1))
    np.testing.assert_allclose(ratio, ratio[0])


def test_responses_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="responses must have the shape of rewards"):
        group_advantages([1, 0, 0], strategy="soft_pass_at_k", k=2, responses=["a", "b"])
    with pytest.raises(ValueError, match="responses must be hashable"):
        group_advantages([1, 0, 0], strategy="soft_pass_at_k", k=2, responses=[[], "a", "b"])


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
