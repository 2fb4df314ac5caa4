"""Rounding: groups without a signal have advantages of exactly 0, and small signals next to large constants survive."""

from __future__ import annotations

from itertools import accumulate
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import group_advantages, strategy_value
from learner.estimators import Options
from learner.estimators.bon_sft import bon_sft_advantages

EXACT = ("subset", "loo", "loo1", "pkpo_loo")
RNG = np.random.default_rng(5)
LARGE = {"normal": RNG.normal(size=4096), "uniform": RNG.random(4096), "uniform + 100": RNG.random(4096) + 100}


class ExactMax:
    """max@k of distinct rewards and everything its estimators are made of, in integers."""

    def __init__(self, rewards: np.ndarray, k: int) -> None:
        self.n, self.k = len(rewards), k
        self.unit = 2**80  # finer than the last bit of a float64 above 1e-8
        self.ranked = [
            numerator * self.unit // denominator for numerator, denominator in map(float.as_integer_ratio, rewards)
        ]
        assert all(self.unit % float(r).as_integer_ratio()[1] == 0 for r in rewards)

    def total(self, k: int) -> int:
        """C(n, k) U_k."""
        return sum(comb(rank, k - 1) * r for rank, r in enumerate(self.ranked))

    def totals_without(self, k: int) -> list[int]:
        """C(n-1, k) U_k(-i) by rank: those above i slide down by one rank."""
        ways = [comb(rank, k - 1) for rank in range(self.n)] if k else [0] * self.n
        below = list(accumulate((w * r for w, r in zip(ways, self.ranked, strict=True)), initial=0))
        sliding = [w * r for w, r in zip(ways[:-1], self.ranked[1:], strict=True)]
        above = list(accumulate(reversed(sliding), initial=0))[::-1]
        return [below[i] + above[i] for i in range(self.n)]

    def advantages(self, estimator: str) -> list[float]:
        n, k = self.n, self.k
        all_n, all_but = comb(n, k), comb(n - 1, k)
        total, without = self.total(k), self.totals_without(k)
        if estimator == "loo":
            return [(total * all_but - w * all_n) / (all_n * all_but * self.unit) for w in without]
        credit = [total - w for w in without]  # (1 - k/n) / C(n-1, k) is 1 / C(n, k)
        if estimator == "loo1":  # k/n / C(n-1, k-1) is 1 / C(n, k) as well
            credit = [c - f for c, f in zip(credit, self.totals_without(k - 1), strict=True)]
        if estimator == "pkpo_loo":
            part = k * all_n
            return [
                (c * (n - 1) * all_but - w * part) / (all_n * all_but * (n - 1) * self.unit)
                for c, w in zip(credit, without, strict=True)
            ]
        return [c / (all_n * self.unit) for c in credit]


@pytest.mark.parametrize(
    ("rewards", "k"),
    [*((name, k) for name in LARGE for k in (2, 64)), pytest.param("uniform + 100", 512, marks=pytest.mark.slow)],
)
def test_each_advantage_of_a_large_group_is_exact(rewards: str, k: int) -> None:
    """n = 4096: relative to each advantage, not to the largest one; what is less than 1e-12 of the spread is 0."""
    ranked = np.sort(LARGE[rewards])
    exact = ExactMax(ranked, k)
    for estimator in EXACT:
        expected = np.array(exact.advantages(estimator))
        found = group_advantages(ranked, strategy="max_at_k", k=k, estimator=estimator)
        significant = np.abs(expected) > 1.0001e-12 * np.ptp(ranked)
        error = np.abs(found - expected)[significant] / np.abs(expected)[significant]
        assert error.max() < 1e-9, (estimator, error.max())
        assert not found[np.abs(expected) < 0.9999e-12 * np.ptp(ranked)].any()


@pytest.mark.parametrize("strategy", ["mean", "max_at_k", "best_of_k"])
def test_a_constant_leaves_nothing_behind(strategy: str) -> None:
    """Equal rewards are no signal, however large; what a constant adds is known exactly."""
    n, scores = 7, [1, 2, 2, 3, 3, 3, 0]
    for constant in (1000.3, -1e9, 0.1, 1e-300, 1e300):
        for k in (1, 3, 7) if strategy != "mean" else (1,):
            arguments = dict(scores=scores, strategy=strategy, k=k)
            assert strategy_value(np.full(n, constant), **arguments) == pytest.approx(constant, rel=1e-15)
            gain = {"subset": k / n, "loo": 0, "loo1": k / n if k == 1 else 0, "pkpo_loo": -k / (n * (n - 1))}
            for estimator, factor in gain.items():
                if k < n or estimator in ("subset", "loo1"):
                    found = group_advantages(np.full(n, constant), estimator=estimator, **arguments)
                    np.testing.assert_allclose(found, constant * factor, rtol=1e-14, atol=0)


@pytest.mark.parametrize("strategy", ["mean", "max_at_k", "best_of_k"])
@pytest.mark.parametrize("estimator", EXACT)
def test_advantages_scale_with_the_rewards(strategy: str, estimator: str) -> None:
    """What counts as zero is relative to the spread of the rewards: 1e-13 of them are a signal like any other."""
    rewards, scores = np.array([1.0, 3, 2, 7, 7, 5]), [1, 2, 2, 3, 0, 0]
    arguments = dict(scores=scores, strategy=strategy, k=1 if strategy == "mean" else 3, estimator=estimator)
    found = group_advantages(rewards, **arguments)
    assert found.any()
    for scale in (2.0**-44, 2.0**-900, 2.0**900):
        np.testing.assert_array_equal(group_advantages(rewards * scale, **arguments), found * scale)


def test_methods_without_a_formula_in_u_see_no_constant_either() -> None:
    for estimator, strategy in (("grpo", "mean"), ("grpo_no_std", "mean"), ("bon_rl_variational", "max_at_k")):
        assert not group_advantages([0.1] * 3, strategy=strategy, k=1, estimator=estimator).any()
        arguments = dict(strategy=strategy, k=1, estimator=estimator)
        found = group_advantages(np.array([1.0, 3, 2]) + 2.0**20, **arguments)
        np.testing.assert_array_equal(found, group_advantages([1.0, 3, 2], **arguments))


def test_off_policy_constants_are_no_signal_without_staleness() -> None:
    found = group_advantages([1000.3] * 6, ratios=np.ones(6), strategy="max_at_k", k=3)
    assert not found.any()


def test_a_clip_of_zero_has_a_limit_or_is_refused() -> None:
    """Only the two-sided forms weigh wrong samples of a group without a success, and theirs is unbounded."""
    plain, arguments = Options(p_fail_clip=0.0), dict(strategy="pass_at_k", k=3)
    for estimator in ("bon_rlb", "bon_rlb_minus"):
        with pytest.raises(ValueError, match="p_fail_clip = 0 leaves .* unbounded; set it above 0"):
            group_advantages([0, 0, 0, 0], estimator=estimator, options=plain, **arguments)
        assert not group_advantages([1, 1, 1, 1], estimator=estimator, options=plain, **arguments).any()
    assert not group_advantages([0, 0, 0, 0], estimator="bon_rlb_p", options=plain, **arguments).any()
    with pytest.raises(ValueError, match="p_fail_clip must be in"):
        Options(p_fail_clip="0.1")  # type: ignore[arg-type]


@pytest.mark.parametrize("expert", [0.0, 1.0])
def test_bon_sft_without_a_clip_is_the_limit_of_small_clips(expert: float) -> None:
    scores_GN = np.array([[0.0] * 4, [1.0] * 4, [0.0, 1.0, 1.0, 0.0]])
    found = bon_sft_advantages(scores_GN, np.full(3, expert), 4, 0.0)
    np.testing.assert_allclose(found, bon_sft_advantages(scores_GN, np.full(3, expert), 4, 1e-9), rtol=0, atol=1e-12)
    assert not found[:2].any() and found[2].all()


def test_groups_too_small_to_teach_are_refused() -> None:
    """Their advantages would be 0/0, or 0 whatever happened."""
    for estimator in ("grpo", "grpo_no_std", "maxrl", "rloo", "loo"):
        with pytest.raises(ValueError, match=f"estimator '{estimator}' needs k < n, got k = n = 1; raise n"):
            group_advantages([1.0], strategy="mean", k=1, estimator=estimator)
    for n in (1, 4):
        with pytest.raises(ValueError, match=f"estimator 'passk_training' needs k < n, got k = n = {n}"):
            group_advantages([1] + [0] * (n - 1), strategy="pass_at_k", k=n, estimator="passk_training")


graded = st.integers(2, 8).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([-1.5, 0.0, 0.1, 0.1, 1.0, 7.3]), min_size=n, max_size=n),
        st.lists(st.sampled_from(["a", "b", "c", None]), min_size=n, max_size=n),
        st.integers(1, n),
    )
)


@settings(max_examples=60)
@given(graded, st.sampled_from(EXACT), st.sampled_from(["max_at_k", "majority_at_k", "weighted_vote"]))
def test_every_strategy_is_symmetric_and_silent_without_a_choice(
    group: tuple[list[float], list[str | None], int], estimator: str, strategy: str
) -> None:
    """Permuting the samples permutes the advantages; where all samples are alike a baseline leaves nothing."""
    rewards, answers, k = np.array(group[0]), np.array(group[1], dtype=object), group[2]
    n = len(rewards)
    if k == n and estimator in ("loo", "pkpo_loo"):
        return
    arguments = dict(correct="a", strategy=strategy, k=k, estimator=estimator)
    found = group_advantages(rewards, answers=answers, scores=rewards + 2, **arguments)
    order = np.random.default_rng(n).permutation(n)
    permuted = group_advantages(rewards[order], answers=answers[order], scores=rewards[order] + 2, **arguments)
    np.testing.assert_allclose(permuted, found[order], rtol=0, atol=1e-12)
    if estimator == "loo" or (estimator == "loo1" and k > 1):
        for answer in ("a", "b", None):
            alike = group_advantages(np.full(n, 0.7), answers=[answer] * n, scores=np.full(n, 0.7), **arguments)
            assert not alike.any()
