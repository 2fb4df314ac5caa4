"""Promise 1: the expected update is the gradient of the objective. Proved by enumerating every group."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from learner import group_advantages
from learner.estimators import ESTIMATORS
from learner.schedule import EntropySchedule
from learner.strategies import STRATEGIES
from tests.learner import tabular

UNBIASED = [name for name, found in ESTIMATORS.items() if found.unbiased and found.strategies is None]
EXACT = 1e-10


@pytest.mark.parametrize("case", tabular.CASES)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, pytest.param(6, marks=pytest.mark.slow)])
def test_every_unbiased_estimator_is(case: str, n: int) -> None:
    check_every_unbiased_estimator(case, n)


def answer_counts(case: str, n: int) -> list[int]:
    """Every k that the strategy is defined for."""
    return [1] if tabular.CASES[case][0]["strategy"] == "mean" else list(range(1, n + 1))


def check_every_unbiased_estimator(case: str, n: int) -> None:
    groups, probabilities = tabular.groups_of(n)
    earned = tabular.CASES[case][3]
    for k in answer_counts(case, n):
        expected = tabular.gradient(earned, k)
        assert np.abs(expected).max() > 1e-3, "a case without a gradient would prove nothing"
        for estimator in UNBIASED:
            if k == n and not ESTIMATORS[estimator].allows_k_equal_n:
                continue
            found = tabular.update(tabular.advantages_of(case, groups, k, estimator), groups, probabilities)
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=EXACT, err_msg=f"{case}, {estimator}, n={n}, k={k}"
            )


def test_the_unbiased_estimators_are_these() -> None:
    assert set(UNBIASED) == {"loo", "loo1", "subset", "pkpo_loo"}


def test_rloo_is_loo_of_the_mean() -> None:
    rewards = np.random.default_rng(0).normal(size=(5, 6))
    found = group_advantages(rewards, strategy="mean", k=1, estimator="rloo")
    np.testing.assert_allclose(found, group_advantages(rewards, strategy="mean", k=1), rtol=0, atol=1e-15)
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / 5
    np.testing.assert_allclose(found, (rewards - others) / 6, rtol=0, atol=1e-15)


@pytest.mark.parametrize("case", ["pass@k", "best-of-k, ties", "majority@k"])
def test_groups_without_a_failed_verifier_follow_the_objective_among_judged_answers(case: str) -> None:
    """The verifier fails on answer 1 and its groups are left out. Only `loo`, whose advantages sum to 0, is exact."""
    n, k, judged = 4, 2, np.array([True, False, True, True])
    chance = tabular.policy() * judged / tabular.policy()[judged].sum()
    score = tabular.score_function() - chance @ tabular.score_function()  # of the policy given a verdict
    pairs = np.array(list(product(np.flatnonzero(judged), repeat=k)))
    earned = np.array([tabular.CASES[case][3](tuple(pair)) for pair in pairs])
    expected = np.einsum("g,g,giy->y", chance[pairs].prod(axis=1), earned, score[pairs])
    groups, _ = tabular.groups_of(n)
    for estimator in UNBIASED:
        found = tabular.update(tabular.advantages_of(case, groups, k, estimator), groups, chance[groups].prod(axis=1))
        assert (np.abs(found - expected).max() < EXACT) == (estimator == "loo"), estimator


OFF_POLICY = [case for case, (arguments, *_) in tabular.CASES.items() if STRATEGIES[arguments["strategy"]].best_by]


@pytest.mark.parametrize("case", OFF_POLICY)
@pytest.mark.parametrize("n", [1, 2, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 5))])
def test_off_policy_is_exact(case: str, n: int) -> None:
    """Groups of another policy, with every member's ratio: the expectation is still the gradient. Ties included."""
    groups, _ = tabular.groups_of(n)
    behaviour = np.array([0.4, 0.3, 0.2, 0.1])
    ratios, probabilities = (tabular.policy() / behaviour)[groups], behaviour[groups].prod(axis=1)
    for k in range(1, n + 1) if tabular.CASES[case][0]["strategy"] != "mean" else [1]:
        expected = tabular.gradient(tabular.CASES[case][3], k)
        for estimator in [name for name, found in ESTIMATORS.items() if found.off_policy]:
            if k < n or ESTIMATORS[estimator].allows_k_equal_n:
                advantages = tabular.advantages_of(case, groups, k, estimator, ratios=ratios)
                found = tabular.update(advantages, groups, probabilities)
                np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT, err_msg=f"{estimator}, k={k}")


def weighted_value(rewards: np.ndarray, scores: np.ndarray, ratios: np.ndarray, samples: list[int], k: int) -> float:
    """U_k of these samples, from its definition: each k-subset weighed with the product of its ratios."""
    earned = tabular.best(rewards, scores)
    return float(np.mean([ratios[list(s)].prod() * earned(s) for s in combinations(samples, k)])) if k else 0.0


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_off_policy_ties_equal_enumeration(n: int) -> None:
    """Every group of its own: tied scores with different rewards, as verdict and lenient scorers give them."""
    rng = np.random.default_rng(n)
    for rewards in (rng.normal(size=n), (rng.random(n) < 0.5).astype(float)):
        scores, ratios = rng.integers(0, 2, n), np.exp(rng.normal(size=n))
        for k in range(1, n + 1):
            arguments = dict(scores=scores, ratios=ratios, strategy="best_of_k", k=k)
            rest = [[j for j in range(n) if j != i] for i in range(n)]
            value, share = weighted_value(rewards, scores, ratios, list(range(n)), k), k / n
            without = np.array([weighted_value(rewards, scores, ratios, r, k) if k < n else 0.0 for r in rest])
            fewer = np.array([weighted_value(rewards, scores, ratios, r, k - 1) for r in rest])
            credit = value - (1 - share) * without
            expected = {"subset": credit, "loo1": credit - share * ratios * fewer}
            if k < n:
                expected["loo"] = credit - share * ratios * without
            for estimator, advantages in expected.items():
                found = group_advantages(rewards, estimator=estimator, **arguments)
                np.testing.assert_allclose(found, advantages, rtol=0, atol=1e-12, err_msg=f"{estimator}, k={k}")


def test_off_policy_with_ratios_of_one_is_on_policy() -> None:
    rng = np.random.default_rng(0)
    rewards, scores = rng.normal(size=(3, 64)), rng.normal(size=(3, 64))
    for estimator in ("loo", "loo1", "subset"):
        for k in (1, 5, 32):
            both = [
                group_advantages(rewards, scores=scores, strategy="best_of_k", k=k, estimator=estimator, **more)
                for more in ({}, {"ratios": np.ones((3, 64))})
            ]
            np.testing.assert_allclose(both[0], both[1], rtol=0, atol=1e-11)


def test_capped_ratios_are_truncated() -> None:
    arguments = dict(strategy="max_at_k", k=2, estimator="loo")
    rewards = [0.1, 0.7, 0.3, -0.2]
    capped = group_advantages(rewards, ratios=[9.0, 0.5, 1.5, 3.0], ratio_cap=2.0, **arguments)
    np.testing.assert_array_equal(capped, group_advantages(rewards, ratios=[2.0, 0.5, 1.5, 2.0], **arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(ratios=[1, 1, 0, 1]), "ratios must be positive"),
        (dict(ratios=[1, 1]), "ratios has shape"),
        (dict(ratios=[1, 1, 1, 1], estimator="pkpo_loo"), "has no off-policy form"),
        (dict(ratios=[1e200] * 4), "ratios reach 1e.200; truncate them with ratio_cap"),
        (dict(ratios=[1, 1, 1, 1], ratio_cap=0.0), "ratio_cap must be a number > 0"),
        (dict(ratio_cap=2.0), "ratio_cap = 2.0 truncates ratios, but no ratios are given"),
    ],
)
def test_what_off_policy_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_advantages([0.1, 0.7, 0.3, -0.2], **({"strategy": "max_at_k", "k": 2} | arguments))


def test_k_by_the_entropy_of_earlier_steps_leaves_no_bias_and_by_the_steps_own_does() -> None:
    """The earlier group is enumerated too: the update is the gradient at each k, weighted with the chance of that k."""
    schedule, n = EntropySchedule(points=((1.0, 3), (1.6, 1)), window=1), 4
    groups, probabilities = tabular.groups_of(n)
    entropies = -np.log(tabular.policy())[groups].mean(axis=1)
    ks = np.array([schedule.k(1, 2, {0: entropy}) for entropy in entropies])
    assert set(ks) == {1, 2, 3}
    for case in ("pass@k", "weighted pass@k"):
        gradients = {k: tabular.gradient(tabular.CASES[case][3], k) for k in (1, 2, 3)}
        expected = sum(probabilities[ks == k].sum() * gradients[k] for k in gradients)
        advantages = {k: tabular.advantages_of(case, groups, k, "loo") for k in gradients}
        earlier = sum(
            chance * tabular.update(advantages[k], groups, probabilities)
            for k, chance in zip(ks, probabilities, strict=True)
        )
        np.testing.assert_allclose(earlier, expected, rtol=0, atol=EXACT)
        own = np.stack([advantages[k][g] for g, k in enumerate(ks)])
        assert np.abs(tabular.update(own, groups, probabilities) / expected - 1).max() > 0.04
