"""pass@k: exact values, and intervals that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest

from learner import default_ks, paired_difference, pass_at_k, pass_at_k_curve, strategy_curve, strategy_value
from learner.metrics import _point


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
    ("arguments", "message"), [((4, 5, 1), "c must"), ((4, 1, 5), "k must"), ((4, 1, 0), "k must")]
)
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
    assert (curve[0].low, curve[0].high) == pytest.approx((0.0, min(1, 1.25 / 3 + 1.959964 * spread)), abs=1e-6)
    assert pass_at_k_curve(correct, [3])[0].k == 3
    with pytest.raises(ValueError, match="k must"):
        pass_at_k_curve(correct, [8])
    with pytest.raises(ValueError, match="correct_PN"):
        pass_at_k_curve(correct[0])
    with pytest.raises(ValueError, match="0/1"):
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
    with pytest.raises(ValueError, match="at least 2 prompts"):
        paired_difference([0.1], [0.2])


@pytest.mark.parametrize("strategy", ["pass_at_k", "best_of_k", "max_at_k", "majority_at_k"])
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
    points = [_point(k, row, 0.0, 1.0) for row in values]
    covered = np.mean([p.low <= truth <= p.high for p in points])
    assert 0.93 <= covered <= 0.97
