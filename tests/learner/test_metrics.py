"""pass@k: exact values, and intervals with their stated coverage."""

from __future__ import annotations

from math import lgamma, sqrt

import numpy as np
import pytest

from learner import (
    default_ks,
    paired_difference,
    paired_difference_of_runs,
    pass_at_k,
    strategy_curve,
    strategy_value,
)
from learner.metrics import PROBABILITY, CurvePoint, _point, _reward_range, of_prompts, weighted_sum


def pass_at_k_curve(correct: object, ks: list[int] | None = None) -> list[CurvePoint]:
    return strategy_curve(np.asarray(correct), ks, strategy="pass_at_k")


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [
        (10, 3, 1, 0.3),
        (10, 3, 5, 0.916666666667),
        (16, 1, 8, 0.5),
        (64, 2, 32, 0.753968253968),
        (256, 5, 32, 0.489981551219),
        (200, 0, 10, 0.0),
        (20, 18, 4, 1.0),
        (1024, 1, 256, 0.25),
        (32, 1, 32, 1.0),
    ],
)
def test_values(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((4, 5, 1), "c must"), ((4, 1, 5), "k must"), ((4, 1, 0), "k must"), ((10, 2.9, 1), "c must be a whole number"),
     ((10, 2, 1.5), "k must be a whole number"), ((True, 1, 1), "n must be a whole number")],
)  # fmt: skip
def test_bad_arguments(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_at_k(*arguments)


def test_curve() -> None:
    correct = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=bool)
    curve = pass_at_k_curve(correct)
    assert [p.k for p in curve] == [1, 2, 4]
    assert [p.value for p in curve] == pytest.approx([1.25 / 3, 0.5, 2 / 3])
    spread = np.std([0.25, 1, 0], ddof=1) / np.sqrt(3)
    assert curve[0].standard_error == pytest.approx(spread)
    assert 0 < curve[0].low < 1.25 / 3 < curve[0].high < 1
    assert pass_at_k_curve(correct, [3])[0].k == 3
    with pytest.raises(ValueError, match="k must"):
        pass_at_k_curve(correct, [8])
    with pytest.raises(ValueError, match="rewards_PN"):
        pass_at_k_curve(correct[0])
    with pytest.raises(ValueError, match="0 or 1"):
        pass_at_k_curve(correct * 0.5)


def test_one_prompt_has_no_standard_error() -> None:
    point = pass_at_k_curve(np.array([[1, 0]]))[0]
    assert np.isnan(point.standard_error) and (point.low, point.high) == (0.0, 1.0)


def test_default_ks() -> None:
    assert default_ks(32) == [1, 2, 4, 8, 16, 32] and default_ks(12) == [1, 2, 4, 8, 12] and default_ks(1) == [1]
    with pytest.raises(ValueError, match="n must"):
        default_ks(0)


def test_curves_of_other_strategies() -> None:
    rewards = np.array([[0.2, 0.9, 0.1, 0.5], [0.0, 0.3, 0.8, 0.1]])
    scores = np.array([[1.0, 2.0, 3.0, 0.0], [5.0, 1.0, 1.0, 0.0]])
    best = strategy_curve(rewards, [1, 4], strategy="best_of_k", scores=scores)
    assert [p.value for p in best] == pytest.approx([rewards.mean(), (0.1 + 0.0) / 2])
    assert strategy_curve(rewards, [4], strategy="max_at_k")[0].value == pytest.approx(0.85)
    answers = [["a", "a", "b", None], ["b", "b", "a", "a"]]
    assert [p.k for p in strategy_curve(rewards, strategy="mean")] == [1]
    vote = strategy_curve(rewards, [4], strategy="majority_at_k", answers=answers, correct=["a", "a"])[0]
    assert vote.value == pytest.approx(0.75) and vote.high <= 1.0


def test_paired_difference() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.random(200)
    after = difficulty + 0.03 + rng.normal(0, 0.05, 200)
    found = paired_difference(difficulty, after)
    assert found.low < 0.03 < found.high and found.low > 0.0, "the pairs cancel the spread of difficulty"
    assert found.high - found.low < 0.02
    assert paired_difference(difficulty, after) == found, "the same seed gives the same interval"
    for before, after, message in (
        ([0.1], [0.2], "before_P must be one value for each of at least 2 prompts"),
        (0.5, [0.1, 0.2], "before_P must be one value"),
        ([0.1, 0.2], [[0.1, 0.2]], "after_P must be one value"),
        ([0.1, 0.2], [0.1, 0.2, 0.3], "after_P has 3 prompts, before_P 2"),
        ([0.1, 0.2], [0.1, np.nan], "after_P contains NaN"),
        ([0.1, "x"], [0.1, 0.2], "before_P must be numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            paired_difference(before, after)
    with pytest.raises(ValueError, match="resamples"):
        paired_difference([0.1, 0.2], [0.1, 0.2], resamples=0)


@pytest.mark.slow
def test_paired_differences_cover_the_truth_in_2000_experiments() -> None:
    """Two policies on the same 128 prompts; the second is better where the first is weak."""
    rng = np.random.default_rng(3)
    experiments, prompts, n, k = 2000, 128, 16, 4
    chances = rng.beta(2, 3, size=(experiments, prompts))
    improved = chances + 0.2 * (1 - chances) ** 2
    table = np.array([pass_at_k(n, c, k) for c in range(n + 1)])
    before, after = table[rng.binomial(n, chances)], table[rng.binomial(n, improved)]
    truth = ((1 - chances) ** k - (1 - improved) ** k).mean()
    found = [paired_difference(b, a, resamples=400, seed=i) for i, (b, a) in enumerate(zip(before, after, strict=True))]
    assert 0.93 <= np.mean([d.low <= truth <= d.high for d in found]) <= 0.97


def test_a_difference_of_runs_covers_repeated_training() -> None:
    """Three and six runs of each of two trainings, which differ by seed, by prompt, and by both."""
    rng = np.random.default_rng(5)
    experiments, P, truth = 600, 64, 0.05

    def coverage(S: int, spread_of_runs: float) -> float:
        runs, prompts = rng.normal(0, spread_of_runs, (experiments, S, 1)), rng.normal(0, 0.1, (experiments, 1, P))
        after = truth + runs + prompts + rng.normal(0, 0.1, (experiments, S, P))
        found = [paired_difference_of_runs(np.zeros((1, P)), a) for a in after]
        return float(np.mean([d.low <= truth <= d.high for d in found]))

    for S, lowest in ((3, 0.91), (6, 0.92)):
        for spread in (0.0, 0.06):  # the standard error over prompts is 0.013 to 0.015
            assert lowest <= coverage(S, spread) <= 0.975, f"{S} runs, spread {spread}"


def test_a_difference_of_runs_is_a_t_interval() -> None:
    P, rng = 128, np.random.default_rng(6)
    apart = paired_difference_of_runs(np.zeros((1, P)), np.arange(3.0)[:, None] * np.ones(P))
    assert (apart.low, apart.high) == pytest.approx((1 - 4.302653 / sqrt(3), 1 + 4.302653 / sqrt(3))), "t with 2 df"
    one = rng.random((1, P))
    found, bootstrap = paired_difference_of_runs(np.zeros((1, P)), one), paired_difference(np.zeros(P), one[0])
    assert (found.low, found.high) == pytest.approx((bootstrap.low, bootstrap.high), abs=0.003), "over prompts alone"
    pairs = rng.random((3, 1)) + rng.random((3, P)) / 100
    assert paired_difference_of_runs(pairs, pairs + 0.1).low == pytest.approx(0.1), "the same seed is a pair"
    same = paired_difference_of_runs(pairs, pairs)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_runs_that_cannot_be_compared_are_refused() -> None:
    for before, other, message in (
        (np.zeros(4), np.zeros((1, 4)), r"before_SP must have shape \[runs, prompts\]"),
        (np.zeros((1, 4)), np.zeros((0, 4)), r"after_SP must have shape \[runs, prompts\]"),
        (np.zeros((2, 4)), np.zeros((3, 4)), "after_SP has 3 runs, before_SP 2"),
        (np.zeros((2, 4)), np.zeros((2, 5)), "after_SP has 5 prompts, before_SP 4"),
        (np.zeros((2, 4)), np.full((2, 4), np.nan), "after_SP contains NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            paired_difference_of_runs(before, other)


@pytest.mark.parametrize(
    ("rewards", "ks", "message"),
    [
        ([[1, 0, 1, 0]], [2.7], "k must be a whole number"),
        ([[1, 0, 1, 0]], [True], "k must be a whole number"),
        ([[1, 0, 1, 0]], [5], "k must be in 1..n = 4"),
        ([1, 0, 1], [1], "rewards_PN must have shape"),
        (np.empty((0, 4)), [1], "rewards_PN must have shape"),
        ([[1, 0], [1]], [1], "rewards_PN must be numbers"),
        ([["1", "0"]], [1], "rewards_PN must be numbers"),
        ([[1, 1j]], [1], "rewards_PN must be numbers"),
        (np.ma.masked_array([[1, 0]], [[True, False]]), [1], "rewards_PN is a masked array"),
        ([[1, 0, 1, 0]], 2, "ks must be whole numbers, got 2"),
    ],
)
def test_bad_curves_are_refused(rewards, ks: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        strategy_curve(rewards, ks, strategy="mean" if ks == [1] else "pass_at_k")


def test_an_interval_never_collapses() -> None:
    """Prompts that are all alike, all right or all wrong say little about prompts that were not sampled."""
    for value in (0.0, 0.5, 1.0):
        point = pass_at_k_curve(np.full((64, 2), 1.0) if value == 1 else [[value > 0, 0]] * 64, [1])[0]
        assert point.value == value and point.standard_error == 0 and point.high - point.low > 0.005
    assert point.high == 1.0 and point.low == pytest.approx(64 / (64 + 1.959964**2), abs=1e-6)
    assert point.low == pytest.approx(1 - pass_at_k_curve(np.zeros((64, 2)), [1])[0].high, abs=1e-12)


@pytest.mark.parametrize(("scale", "offset"), [(1.1, 0.0), (0.5, 0.0), (2.0, -1.0), (1.0, 100.0)])
def test_an_interval_goes_with_the_scale_of_the_rewards(scale: float, offset: float) -> None:
    """A bonus for the format makes a right answer worth 1.1: the interval is that of 0 and 1, times 1.1."""
    rng = np.random.default_rng(0)
    right = (rng.random((64, 16)) < rng.beta(3, 1, size=(64, 1))).astype(float)
    for k in (1, 4, 16):
        plain = pass_at_k_curve(right, [k])[0]
        scaled = strategy_curve(scale * right + offset, [k], strategy="max_at_k")[0]
        assert (scaled.low, scaled.high) == pytest.approx((scale * plain.low + offset, scale * plain.high + offset))
    graded = strategy_curve(scale * rng.random((64, 8)) + offset, [4], strategy="max_at_k")[0]
    assert graded.high - graded.low == pytest.approx(2 * 1.96 * graded.standard_error, rel=0.1)


def test_equal_rewards_do_not_prove_that_all_are() -> None:
    best = strategy_curve(np.full((64, 8), 1.1), [8], strategy="max_at_k")[0]
    assert best.low == pytest.approx(1.1 * 64 / (64 + 1.959964**2)) and best.high == pytest.approx(1.1)
    worst = strategy_curve(np.full((64, 8), -1.0), [8], strategy="max_at_k")[0]
    assert worst.low == -1 and worst.high > -0.95


def test_a_strategy_that_earns_sums_or_pays_for_answers_has_the_normal_interval() -> None:
    from learner.strategies import STRATEGIES, array_strategy

    array_strategy("two_best")(lambda group, k: np.sort(group.rewards_GN)[:, -2:].sum(axis=1))
    array_strategy("paid")(lambda group, k: group.rewards_GN.max(axis=1) - 0.5 * k)
    try:
        for name in ("two_best", "paid"):
            for rewards in (np.random.default_rng(0).random((32, 4)), np.ones((8, 4))):
                point = strategy_curve(rewards, [4], strategy=name)[0]
                half = 1.959964 * point.standard_error
                assert (point.low, point.high) == pytest.approx((point.value - half, point.value + half))
    finally:
        del STRATEGIES["two_best"], STRATEGIES["paid"]


def test_intervals_of_continuous_rewards_cover_the_truth_near_the_greatest() -> None:
    rng = np.random.default_rng(1)
    experiments, prompts, n, k = 800, 64, 64, 32
    solved = rng.random((experiments, prompts, n)) < rng.beta(2, 3, size=(experiments, prompts, 1))
    values = strategy_value((solved * rng.random(solved.shape)).reshape(-1, n), strategy="max_at_k", k=k)
    values = values.reshape(experiments, prompts)
    points = [_point(k, row, _reward_range(np.array([[0.0, 1.0]]))) for row in values]
    assert np.mean([p.low <= values.mean() <= p.high for p in points]) > 0.92


def test_rewards_below_zero_keep_their_range_over_some_prompts_and_in_a_mixture() -> None:
    """A prompt that earns -1 as often as 1 is worth 0, which is not the least that it can earn."""
    rewards = np.array([[1, -1, 1, -1]] * 4 + [[-1] * 4] * 4, dtype=float)
    (mean,) = strategy_curve(rewards, strategy="mean")
    for few in (of_prompts(mean, np.arange(4)), strategy_curve(rewards[:4], strategy="mean")[0]):
        assert few.value == 0.0 and few.low == pytest.approx(-0.4328, abs=1e-4) and few.high == -few.low
    (best,) = strategy_curve(rewards[:4], [2], strategy="max_at_k")
    (mean,) = strategy_curve(rewards[:4], strategy="mean")
    mixed = weighted_sum([(0.5, best), (0.5, mean)])
    assert mixed.value == pytest.approx(1 / 3) and mixed.low < 0 < mixed.high
    assert of_prompts(mean, np.array([0])).low == -np.inf


def test_probabilities_stay_probabilities_over_some_prompts_and_in_a_mixture() -> None:
    curve = pass_at_k_curve(np.array([[1, 1], [1, 1], [1, 0]]))
    one, mixed = of_prompts(curve[0], np.array([0])), weighted_sum([(0.7, curve[0]), (0.3, curve[1])])
    assert (one.low, one.high) == (0.0, 1.0)
    assert 0 < mixed.low < mixed.value < mixed.high <= 1.0
    alone = weighted_sum([(1.0, curve[1])])
    assert (alone.low, alone.high) == (curve[1].low, curve[1].high)


def test_a_vote_of_ones_own_has_the_interval_of_a_probability() -> None:
    from learner.strategies import STRATEGIES, array_strategy

    array_strategy("my_vote", required_inputs=("answers", "correct"))(lambda group, k: np.ones(len(group.rewards_GN)))
    try:
        point = strategy_curve(
            np.full((8, 2), 0.5), [1], strategy="my_vote", answers=[["a", "a"]] * 8, correct=["a"] * 8
        )
    finally:
        del STRATEGIES["my_vote"]
    assert point[0].low < 0.8 and point[0].high == 1.0


def test_paired_intervals_are_too_narrow_where_a_handful_of_prompts_differs() -> None:
    """A documented limit of the bootstrap: it knows nothing about prompts that were not sampled."""
    same = paired_difference([1.0] * 64, [1.0] * 64)
    assert (same.low, same.high) == (0.0, 0.0)
    rng, n, k, prompts, experiments = np.random.default_rng(1), 128, 64, 256, 300
    chances = rng.beta(2, 3, size=(experiments, prompts))
    better = chances + 0.1 * (1 - chances)
    table = np.array([pass_at_k(n, c, k) for c in range(n + 1)])
    many = rng.beta(2, 3, size=1_000_000)
    truth = ((1 - many) ** k - (0.9 * (1 - many)) ** k).mean()
    pairs = zip(table[rng.binomial(n, chances)], table[rng.binomial(n, better)], strict=True)
    found = [paired_difference(b, a, resamples=300, seed=i) for i, (b, a) in enumerate(pairs)]
    assert 0.6 < np.mean([d.low <= truth <= d.high for d in found]) < 0.75


# Beta distribution of success rates, samples n, k, prompts; the lowest and highest coverage that is promised. Where a
# few prompts carry what is missing to 0 or 1, and where there are few prompts, intervals are wide rather than wrong.
EXTREMES = [
    ((2, 3), 128, 64, 256, 0.93, 0.99),  # pass@64 is 0.997; the normal interval holds it in 0.70 of experiments
    ((3, 2), 128, 64, 256, 0.93, 1.0),  # 0.99992; 0.22
    ((3, 2), 128, 8, 256, 0.93, 0.97),  # 0.98; 0.92
    ((2, 3), 128, 16, 256, 0.93, 0.97),  # 0.97
    ((0.5, 20), 32, 1, 256, 0.93, 0.97),  # 0.024
    ((0.5, 20), 128, 1, 64, 0.93, 0.99),
    ((1e-3, 1), 32, 1, 256, 0.93, 1.0),  # one prompt in a thousand can be solved: nearly always none is seen
    ((2, 3), 32, 1, 8, 0.93, 1.0),  # eight prompts
    ((2, 3), 32, 8, 1024, 0.93, 0.97),
]


@pytest.mark.parametrize(("beta", "n", "k", "prompts", "lowest", "highest"), EXTREMES)
def test_intervals_cover_the_truth_at_the_extremes_too(beta, n: int, k: int, prompts: int, lowest, highest) -> None:
    rng = np.random.default_rng(0)
    chances = rng.beta(*beta, size=(2000, prompts))
    table = np.array([pass_at_k(n, c, k) for c in range(n + 1)])
    truth = 1 - np.exp(lgamma(beta[1] + k) + lgamma(sum(beta)) - lgamma(beta[1]) - lgamma(sum(beta) + k))
    points = [_point(k, values, PROBABILITY) for values in table[rng.binomial(n, chances)]]
    assert lowest <= np.mean([p.low <= truth <= p.high for p in points]) <= highest


@pytest.mark.parametrize(
    "strategy", ["pass_at_k", "best_of_k", "max_at_k", pytest.param("majority_at_k", marks=pytest.mark.slow)]
)
def test_intervals_cover_the_truth_in_2000_experiments(strategy: str) -> None:
    """95 % intervals over 128 prompts hold the true value in 93 to 97 % of simulated experiments."""
    rng = np.random.default_rng(5)
    experiments, prompts, n, k = 2000, 128, 8, 3
    chances = rng.beta(2, 3, size=(experiments, prompts, 1))
    rewards = (rng.random((experiments, prompts, n)) < chances).astype(float)
    arguments: dict = {}
    if strategy == "best_of_k":  # a verifier that is right about three samples in four
        right = rng.random(rewards.shape) < 0.75
        arguments["scores"] = np.where(right, rewards, 1 - rewards).reshape(-1, n)
    if strategy == "max_at_k":
        rewards = rewards * rng.random(rewards.shape)
    if strategy == "majority_at_k":
        arguments["answers"] = np.where(rewards == 1, "a", rng.choice(["b", "c"], rewards.shape)).reshape(-1, n)
        arguments["correct"] = ["a"] * experiments * prompts
    values = strategy_value(rewards.reshape(-1, n), strategy=strategy, k=k, **arguments).reshape(experiments, prompts)
    truth = values.mean()  # of 256,000 prompts: its own error is a 45th of an experiment's
    points = [_point(k, row, PROBABILITY) for row in values]
    covered = np.mean([p.low <= truth <= p.high for p in points])
    assert 0.93 <= covered <= 0.97
