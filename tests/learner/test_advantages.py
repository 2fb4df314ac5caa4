"""Advantages: the properties that the derivation promises, and large groups against exact arithmetic."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import group_advantages, strategy_value
from learner.objective_settings import ObjectiveSettings
from learner.strategies.subsets import balanced_subsets

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


ranked = st.integers(2, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(-2, 2), min_size=n, max_size=n),
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
        st.integers(1, n - 1),
    )
)


@given(ranked, st.sampled_from(["loo", "loo1", "subset"]))
def test_best_of_k_properties(group: tuple[list[float], list[int], int], estimator: str) -> None:
    rewards, scores, k = np.array(group[0]), np.array(group[1]), group[2]
    n, spread = len(rewards), np.ptp(rewards)
    arguments = dict(strategy="best_of_k", k=k, estimator=estimator)
    found = group_advantages(rewards, scores=scores, **arguments)
    order = np.random.default_rng(0).permutation(n)
    permuted = group_advantages(rewards[order], scores=scores[order], **arguments)
    np.testing.assert_allclose(permuted, found[order], rtol=0, atol=1e-12)
    transformed = group_advantages(rewards, scores=np.exp(scores / 2.0) - 7, **arguments)
    np.testing.assert_array_equal(transformed, found, err_msg="only the ranking of the scores counts")
    if estimator == "loo":
        assert abs(found.sum()) < 1e-11
        assert np.abs(found).max() <= k / n * spread + 1e-11
        shifted = group_advantages(rewards + 5, scores=scores, **arguments)
        np.testing.assert_allclose(shifted, found, rtol=0, atol=1e-10)
    if estimator == "subset":
        assert found.sum() == pytest.approx(
            k * strategy_value(rewards, scores=scores, strategy="best_of_k", k=k), abs=1e-11
        )
    same = group_advantages(np.full(n, 0.3), scores=scores, **arguments)
    assert not same.any() or estimator == "subset" or (estimator == "loo1" and k == 1)


labels = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=3, max_size=8)


@given(labels, st.integers(1, 8))
def test_majority_is_the_mean_over_subsets(answers: list[str | None], k: int) -> None:
    k = min(k, len(answers))

    def wins(subset: tuple[str | None, ...]) -> Fraction:
        votes = Counter(a for a in subset if a is not None)
        leaders = [a for a in votes if votes[a] == max(votes.values())]
        return Fraction("a" in leaders, max(len(leaders), 1))

    every = [wins(subset) for subset in combinations(answers, k)]
    found = strategy_value([0] * len(answers), answers=answers, correct="a", strategy="majority_at_k", k=k)
    assert found == pytest.approx(float(sum(every) / len(every)), abs=1e-12)


def exact_vote(right: int, others: list[int], unparsable: int, k: int) -> Fraction:
    """majority@k by counting k-subsets answer by answer, in integers: (slots used, answers tied) -> ways."""
    n, won = right + sum(others) + unparsable, Fraction(0)
    for j in range(1, min(right, k) + 1):
        ways = Counter({(j, 0): comb(right, j)})
        for size, cap in [*((size, j) for size in others), (unparsable, k)]:
            longer: Counter[tuple[int, int]] = Counter()
            for (slots, tied), count in ways.items():
                for v in range(min(size, cap, k - slots) + 1):
                    longer[slots + v, tied + (v == j and cap == j)] += count * comb(size, v)
            ways = longer
        won += sum(Fraction(count, 1 + tied) for (slots, tied), count in ways.items() if slots == k)
    return won / comb(n, k)


@pytest.mark.parametrize(
    ("others", "unparsable", "k"), [(list(range(1, 11)), 3, 16), ([1] * 20 + [2] * 10 + [7], 0, 16), ([5, 5], 2, 18)]
)
def test_votes_of_large_groups_are_exact(others: list[int], unparsable: int, k: int) -> None:
    """Every answer's advantage against integers, relative to itself: one with 1 vote, and one with most of them."""
    right = 6
    answers = ["right"] * right + [None] * unparsable
    answers += [f"wrong {i}" for i, size in enumerate(others) for _ in range(size)]
    n, full = len(answers), exact_vote(right, others, unparsable, k)

    def without(answer: str | None, k: int) -> Fraction:
        rest = list(others)
        if answer is not None and answer != "right":
            rest[int(answer.split()[1])] -= 1
        return exact_vote(right - (answer == "right"), rest, unparsable - (answer is None), k)

    votes = dict(answers=answers, correct="right", strategy="majority_at_k", k=k)
    assert strategy_value(np.zeros(n), **votes) == pytest.approx(float(full), rel=1e-13)
    kinds = [answers.index(answer) for answer in dict.fromkeys(answers)]
    if k < n:
        expected = [float(full - without(answers[i], k)) for i in kinds]
        found = group_advantages(np.zeros(n), **votes)[kinds]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
    share = Fraction(k, n)
    expected = [
        float(full - (1 - share) * (without(answers[i], k) if k < n else 0) - share * without(answers[i], k - 1))
        for i in kinds
    ]
    found = group_advantages(np.zeros(n), estimator="loo1", **votes)[kinds]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)


def test_drawn_subsets_hold_every_sample_equally_often() -> None:
    for n, k, at_least in ((64, 16, 256), (7, 3, 10), (16, 16, 4)):
        design = balanced_subsets(n, k, at_least)
        counts = np.bincount(design.ravel(), minlength=n)
        assert (counts == len(design) * k / n).all() and len(design) >= min(at_least, comb(n, k))
        assert all(len(set(row)) == k for row in design.tolist())


def test_large_groups_are_exact() -> None:
    """n = 4096: equal to rational arithmetic to rounding, where float64 binomials would overflow."""
    n, c, k = 4096, 37, 512
    rewards = np.zeros(n)
    rewards[:c] = 1
    missed = Fraction(comb(n - c, k), comb(n, k))
    found = group_advantages(rewards, strategy="pass_at_k", k=k)
    assert found[0] == float(missed * Fraction(k, n - k))
    assert found[-1] == float(-missed * Fraction(c * k, (n - c) * (n - k)))


def test_large_groups_of_continuous_rewards_are_exact() -> None:
    """n = 4096 in float32: best-of-k equals rational arithmetic to 1e-9 of the largest advantage."""
    rng = np.random.default_rng(3)
    n, k = 4096, 64
    rewards = rng.normal(size=n).astype(np.float32)
    order = np.argsort(rewards)
    ranked = [Fraction(float(r)) for r in rewards[order]]
    found = group_advantages(rewards, strategy="max_at_k", k=k)[order]
    weights = [comb(j, k - 1) for j in range(n)]
    value = sum(w * r for w, r in zip(weights, ranked, strict=True)) / comb(n, k)
    largest = np.abs(found).max()
    for i in (0, 1000, 4000, 4094, 4095):
        rest = ranked[:i] + ranked[i + 1 :]
        without = sum(w * r for w, r in zip(weights, rest, strict=False)) / comb(n - 1, k)
        assert abs(found[i] - float(value - without)) < 1e-9 * largest


def test_batched_equals_single() -> None:
    rewards_GN = (np.random.default_rng(1).random((50, 8)) < 0.4).astype(float)
    for strategy, k in (("pass_at_k", 3), ("mean", 1)):
        both = group_advantages(rewards_GN, strategy=strategy, k=k)
        assert both.shape == (50, 8) and both.dtype == np.float64
        for row, rewards in zip(both, rewards_GN, strict=True):
            np.testing.assert_array_equal(row, group_advantages(rewards, strategy=strategy, k=k))
        values = strategy_value(rewards_GN, strategy=strategy, k=k)
        assert values.shape == (50,) and values[3] == strategy_value(rewards_GN[3], strategy=strategy, k=k)


def test_settings_refuse_what_cannot_work() -> None:
    ObjectiveSettings(strategy="pass_at_k", k=8, estimator="loo").check_group_size(16)
    with pytest.raises(ValueError, match="needs k < n"):
        ObjectiveSettings(k=8).check_group_size(8)
    ObjectiveSettings(k=8, estimator="loo1").check_group_size(8)
    with pytest.raises(ValueError, match="set k = 1"):
        ObjectiveSettings(strategy="mean", k=8)
    with pytest.raises(ValueError, match="did you mean 'pass_at_k'"):
        ObjectiveSettings(strategy="pass_at_n")


def test_the_memory_of_a_vote_does_not_grow_with_the_groups() -> None:
    def peak(groups: int) -> int:
        rng = np.random.default_rng(0)
        scores, answers = rng.random((groups, 128)), rng.integers(0, 9, (groups, 128))
        arguments = dict(scores=scores, answers=answers, correct=[0] * groups, strategy="weighted_vote", k=64)
        tracemalloc.start()
        strategy_value(np.zeros((groups, 128)), **arguments)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(16) < 1.2 * peak(4)


def test_a_strategys_function_that_returns_another_shape_is_named() -> None:
    from learner.strategies import STRATEGIES, subset_strategy

    @subset_strategy("one_number")
    def one_number(group):
        return 1.0

    try:
        with pytest.raises(ValueError, match=r"function one_number returned shape \(\); it must return one number"):
            strategy_value([0, 1, 1], strategy="one_number", k=2)
    finally:
        del STRATEGIES["one_number"]


def test_a_strategys_function_gets_every_input_that_it_declares() -> None:
    from learner.strategies import STRATEGIES, subset_strategy

    @subset_strategy("different_responses", required_inputs=("responses", "scores"))
    def different_responses(group):
        return np.array([len(set(row)) for row in group.responses_GN.tolist()]) + group.scores_GN.max(axis=1)

    try:
        arguments = dict(responses=["a", "a", "b"], scores=[0.0, 0.25, 0.5], strategy="different_responses", k=2)
        assert strategy_value([0, 0, 0], **arguments) == pytest.approx((1.25 + 2.5 + 2.5) / 3)
        advantages = group_advantages([0, 0, 0], **arguments)
        np.testing.assert_allclose(advantages, (1.25 + 2.5 + 2.5) / 3 - np.array([2.5, 2.5, 1.25]))
    finally:
        del STRATEGIES["different_responses"]


@pytest.mark.parametrize("scale", [1e-200, 1e-10, 1.0, 1e10, 1e200])
def test_a_weighted_vote_does_not_depend_on_the_scale_of_the_scores(scale: float) -> None:
    """What counts as a tie is relative to what was added: the order of addition makes none, small scores neither."""
    arguments = dict(correct="a", strategy="weighted_vote")
    found = [
        strategy_value([0] * 3, scores=scale * np.array(scores), answers=["a", "a", "b"], k=3, **arguments)
        for scores in ([0.1, 0.2, 0.3], [0.1, 0.2, 0.30001], [0.1, 0.2, 0.29999])
    ]
    assert found == [0.5, 0.0, 1.0]
    far_behind = dict(scores=scale * np.array([2.0, 1.0, -1e12]), answers=["a", "b", "c"])
    assert strategy_value([0] * 3, k=3, **far_behind, **arguments) == 1.0
