"""What callers hand in: every kind of number that means the same gives the same, everything else is refused by name."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from learner import group_advantages, strategy_value
from learner.strategies.registry import STRATEGIES, Strategy

REWARDS = [0, 1, 1, 0]
ANSWERS = ["a", "b", "b", None]
CASES = {
    "pass_at_k": {},
    "max_at_k": {},
    "best_of_k": {"scores": [1, 3, 2, 2]},
    "majority_at_k": {"answers": ANSWERS, "correct": "b"},
    "weighted_vote": {"answers": ANSWERS, "correct": "b", "scores": [1, 3, 2, 2]},
}


@pytest.mark.parametrize("strategy", CASES)
def test_numpy_integers_are_integers(strategy: str) -> None:
    """n = 64, k = 32: binomials that fixed-width integers cannot hold. NumPy's first: a cache may remember them."""
    rng = np.random.default_rng(0)
    size, arguments = 64, {"strategy": strategy}
    rewards = rng.normal(size=size) if strategy in ("max_at_k", "best_of_k") else (rng.random(size) < 0.1).astype(float)
    if "scores" in CASES[strategy]:
        arguments["scores"] = rng.normal(size=size)
    if "answers" in CASES[strategy]:
        arguments |= {"answers": rng.choice(list("abc"), size=size), "correct": "b"}
    for k in (16, 32):
        for kind in (np.int64, np.int32, np.uint8, torch.tensor):
            values = [strategy_value(rewards, k=make(k), **arguments) for make in (kind, int)]
            assert values[0] == values[1]
            for estimator in ("loo", "loo1"):
                both = [group_advantages(rewards, k=make(k), estimator=estimator, **arguments) for make in (kind, int)]
                np.testing.assert_array_equal(*both)
        np.testing.assert_array_equal(
            *(group_advantages(rewards, k=k, subsets=make(9), **arguments) for make in (np.int64, int))
        )


def test_the_value_that_overflowed_once() -> None:
    rewards = np.random.default_rng(0).normal(size=64)
    assert strategy_value(rewards, strategy="max_at_k", k=np.int64(32)) == pytest.approx(1.83526, abs=1e-5)


def test_equal_numbers_are_equal_whatever_holds_them() -> None:
    expected = group_advantages(REWARDS, strategy="max_at_k", k=2)
    kinds = [
        torch.tensor(REWARDS),
        torch.tensor(REWARDS, dtype=torch.bfloat16),
        torch.tensor(REWARDS, dtype=torch.float32, requires_grad=True),
        np.array(REWARDS, dtype=bool),
        [Fraction(r) for r in REWARDS],
        tuple(REWARDS),
    ]
    for rewards in kinds:
        found = group_advantages(rewards, strategy="max_at_k", k=2)
        assert found.dtype == np.float64 and found.shape == (4,)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("answers", "correct"),
    [
        ([7, 8, 8, 9], 8),
        (torch.tensor([7, 8, 8, 9]), 8),
        (torch.tensor([7, 8, 8, 9]), torch.tensor(8)),
        (list(torch.tensor([7, 8, 8, 9])), torch.tensor([8])),
        (np.array([7, 8, 8, 9]), np.int64(8)),
        ((7, 8, 8, 9), [8]),
        ([(7, 1), (8, 1), (8, 1), (9, 1)], (8, 1)),
        (np.array(["7", "8", "8", None], dtype=object), "8"),
    ],
)
def test_equal_answers_are_equal_whatever_holds_them(answers: Any, correct: Any) -> None:
    """A tensor's hash is its identity, so that no two would be equal; a tuple is one answer."""
    arguments = {"strategy": "majority_at_k", "k": 2}
    expected = group_advantages(REWARDS, answers=["a", "b", "b", "c"], correct="b", **arguments)
    if None in list(answers):
        expected = group_advantages(REWARDS, answers=["a", "b", "b", None], correct="b", **arguments)
    assert expected.any()
    np.testing.assert_array_equal(group_advantages(REWARDS, answers=answers, correct=correct, **arguments), expected)


def test_true_and_false_are_answers_too() -> None:
    """Of a yes-or-no task, where a prompt may have no parsable answer at all."""
    value = strategy_value(
        np.zeros((2, 2)), answers=[[None, None], [True, False]], correct=[True, True], strategy="majority_at_k", k=1
    )
    np.testing.assert_array_equal(value, [0.0, 0.5])
    assert strategy_value([0, 0, 0], answers=[1, 0, 1], correct=True, strategy="majority_at_k", k=3) == 1.0
    assert strategy_value([0, 1], answers=["a", "b"], correct=True, strategy="pass_at_k", k=1) == 0.5, "not looked at"


@pytest.mark.parametrize("rows", [lambda a: a, lambda a: tuple(map(tuple, a)), torch.tensor, np.array])
def test_groups_of_answers_come_as_rows(rows: Any) -> None:
    answers, rewards = [[1, 2, 2], [3, 4, 4]], [[0, 1, 1], [1, 0, 0]]
    arguments = {"strategy": "majority_at_k", "k": 2}
    found = group_advantages(rewards, answers=rows(answers), correct=(2, 3), **arguments)
    each = [
        group_advantages(r, answers=a, correct=c, **arguments) for r, a, c in zip(rewards, answers, (2, 3), strict=True)
    ]
    np.testing.assert_array_equal(found, each)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": 5}, "answers must have the shape of rewards"),
        ({"answers": "abcd"}, "answers must have the shape of rewards"),
        ({"answers": {"a": 1, "b": 1, "c": 1, "d": 1}}, "answers must have the shape of rewards"),
        ({"answers": [["a", "b", "b", "c"]]}, "answers must have the shape of rewards"),
        ({"answers": ["a", "b", "b", float("nan")]}, "answers contains NaN"),
        ({"answers": np.ma.masked_array([1, 2, 2, 3], [0, 0, 0, 1])}, "answers is a masked array"),
        ({"correct": {}}, "correct must be hashable"),
        ({"correct": np.array(1)}, "correct must be one answer"),
        ({"correct": ["a", "b"]}, "correct must be one answer"),
        ({"correct": [None]}, "correct contains None"),
        ({"correct": ("b",)}, "correct is a tuple, .* but no answer is"),
        ({"correct": (False, True, True, False)}, "correct is a tuple"),
        ({"correct": float("nan")}, "correct contains NaN"),
        ({"answers": ["12", "7", "7", None], "correct": 12}, "correct is 12, a number, but every answer is text"),
        ({"answers": [12, 7.0, np.int64(7), None], "correct": "12"}, "'12', text, but every answer is a number"),
    ],
)
def test_bad_answers_are_named(changes: dict, message: str) -> None:
    arguments = {"answers": ["a", "b", "b", "c"], "correct": "b", "strategy": "majority_at_k", "k": 2}
    with pytest.raises(ValueError, match=message):
        group_advantages(REWARDS, **(arguments | changes))


def test_the_value_names_its_bad_arguments_as_well() -> None:
    for changes, message in (
        ({"k": 1.5}, "k must be"),
        ({"strategy": []}, "strategy must"),
        ({"subsets": 0}, "subsets"),
    ):
        with pytest.raises(ValueError, match=message):
            strategy_value(REWARDS, **({"strategy": "max_at_k", "k": 2} | changes))
    with pytest.raises(ValueError, match="the value overflowed float64"):
        strategy_value([1e308] * 9, strategy="mean", k=1)


def test_nan_of_a_strategy_is_not_blamed_on_the_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Strategy("odd", array_value=lambda groups, k: np.full(len(groups.rewards_GN), np.nan))
    monkeypatch.setitem(STRATEGIES, "odd", odd)
    for function in (strategy_value, group_advantages):
        with pytest.raises(ValueError, match="NaN or infinity, .*correct the function of the strategy"):
            function(REWARDS, strategy="odd", k=2)


def test_only_strategies_that_select_by_scores_see_them() -> None:
    """BoN-RL-S: the environment's reward selects, though a run passes the verifier's scores to every strategy."""
    for strategy in ("pass_at_k", "max_at_k"):
        arguments = dict(strategy=strategy, k=2, estimator="bon_rl_variational")
        found = group_advantages([0, 1, 0, 0], scores=[9, 1, 1, 1], **arguments)
        np.testing.assert_allclose(found, [-0.078, 0.367, -0.078, -0.078], atol=5e-4)
        np.testing.assert_array_equal(found, group_advantages([0, 1, 0, 0], **arguments))
    by_score = group_advantages([0, 1, 0, 0], scores=[9, 1, 1, 1], **(arguments | {"strategy": "best_of_k"}))
    assert np.abs(by_score - found).max() > 0.1


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
        ([0, 1, 1], {"strategy": "best_of_k"}, "scores is missing"),
        ([0, 1, 1], {"strategy": "majority_at_k"}, "answers is missing"),
        ([0, 1, 1], {"strategy": "majority_at_k", "answers": ["1", "2", "2"]}, "correct is missing"),
        (
            [0, 1, 1],
            {"strategy": "majority_at_k", "answers": ["1", "2"], "correct": "2"},
            "answers must have the shape",
        ),
        (
            [0, 1, 1],
            {"strategy": "majority_at_k", "answers": ["1", {}, "2"], "correct": "2"},
            "answers must be hashable",
        ),
        ([[0, 1, 1]], {"answers": [["1", "2", "2"]], "correct": ["1", "2"]}, "correct must be one answer for each"),
        ([0, 1, 1], {"subsets": 0}, "subsets must be an integer >= 1"),
        ([0, 1, 1], {"scores": [1.0, float("nan"), 2.0]}, "scores contains NaN"),
        ([0, 1, 1], {"scores": [[1, 2, 3]]}, "scores has shape"),
        ([[0, 1, 1]], {"answers": [["1", "2", "2"]], "correct": "2"}, "correct must be one answer for each"),
        ([0, 1, 1], {"strategy": None}, "strategy must be a name"),
        ([0, 1, 1], {"strategy": ["pass_at_k"]}, "strategy must be a name"),
        ([0, 1, 1], {"estimator": None}, "estimator must be a name"),
        ([0, 1, 1], {"k": True}, "k must be an integer"),
        ([0, 1, 1], {"k": "2"}, "k must be an integer"),
        ([0, 1, 1], {"subsets": None}, "subsets must be an integer"),
        ([0, 1, 1], {"options": {"p_fail_clip": 0.1}}, "options must be"),
        ([0, 1, 1], {"ratios": ["a", "b", "c"]}, "ratios must be numbers"),
        ([0, 1, 1], {"ratios": [1, float("inf"), 1]}, "ratios contains NaN or infinity"),
        ([0, 1, 1], {"ratios": [1, 1, 1], "ratio_cap": None}, "ratio_cap must be a number > 0"),
        ([0, 1, 1], {"ratios": [1, 1, 1], "ratio_cap": float("nan")}, "ratio_cap must be a number > 0"),
        (5, {}, "rewards must be a non-empty array of shape"),
        (np.array(1), {}, "rewards must be a non-empty array of shape"),
        ({0, 1}, {}, "rewards must be numbers"),
        ([[0, 1], [1]], {}, "rewards must be numbers"),
        (["1", "0"], {}, "rewards must be numbers"),
        (np.array(["1", None], dtype=object), {}, "rewards must be numbers"),
        (np.array([1j, 0]), {}, "rewards must be numbers"),
        ([10**400, 1], {"strategy": "max_at_k"}, "rewards must be numbers"),
        (np.ma.masked_array([0, 1.0, 1], [0, 1, 0]), {}, "rewards is a masked array"),
        ([np.ma.masked_array([0, 1.0, 1], [0, 1, 0])], {}, "rewards is a masked array"),
        (
            [0, 0, 0],
            {"strategy": "majority_at_k", "answers": ["a", "b", "a"], "correct": True},
            "correct is True, but the answers are not true or false",
        ),
        (
            [[0, 0], [0, 0]],
            {"strategy": "majority_at_k", "answers": [["a", "b"], ["a", "a"]], "correct": [np.False_, "a"]},
            "correct is False, but the answers are not true or false",
        ),
        ([1], {"k": 1, "estimator": "bon_rl_variational"}, "'bon_rl_variational' compares the samples of a group"),
        ([1e308, -1e308, 0, 1], {"strategy": "max_at_k"}, "the advantages overflowed float64: rewards reach 1e"),
    ],
)
def test_bad_arguments_are_named(rewards: Any, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_advantages(rewards, **({"strategy": "pass_at_k", "k": 2} | changes))
