"""Evaluation's curves: every strategy from one pool, and prompts without a verdict left out and counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actors.group_metrics import group_metrics
from actors.supervision import ActorFailure
from cluster.config import build_config
from cluster.evaluation import SHORT_NAMES, strategies_of, summarise
from cluster.metric_names import check_row
from tests.actors.test_learning_step import graded

GROUPS = [
    graded([1, 0, 0, 0], scores=[0.1, 0.9, 0.2, 0.3], answers=["a", "b", "b", "c"]),
    graded([1, 1, 1, 0], scores=[0.9, 0.2, 0.1, 0.3], answers=["a", "a", "0.5", None]),
]
FAILED = replace(
    GROUPS[0],
    verdict=["correct", "verifier_error", "wrong", "wrong"],
    reward=np.array([1, np.nan, 0, 0]),
    detail=["", "out of memory", "", ""],
)


def test_every_strategy_from_one_pool() -> None:
    found = summarise(GROUPS, 7, 1.0, 2.0, ["best_of_k", "majority_at_k", "max_at_k"])
    row = found.row()
    assert [row[f"eval/pass@{k}"] for k in (1, 2, 4)] == pytest.approx([0.5, 0.75, 1.0])
    assert row["eval/bo@4"] == 0.5, "the verifier ranks a wrong answer first in one of two groups"
    assert row["eval/maj@4"] == pytest.approx(0.5), "two b against one right answer; three right ones, however spelt"
    assert row["eval/max@4"] == 1.0 and row["eval/bo@4_low"] <= 0.5 <= row["eval/bo@4_high"]
    assert row["eval/set_aside"] == 0 and row["evaluation/step"] == 7


@pytest.mark.parametrize("strategy", SHORT_NAMES)
def test_every_strategy_can_be_logged(strategy: str) -> None:
    """A name that the table of metrics lacks would end a run at its first evaluation."""
    row = summarise(GROUPS, 7, 1.0, 2.0, [strategy]).row()
    assert f"eval/{SHORT_NAMES[strategy]}@2_low" in row
    check_row(row)


def test_prompts_without_a_verdict_are_left_out_and_counted() -> None:
    found = summarise([*GROUPS, FAILED], 0, 1.0, 2.0)
    assert found.set_aside == 1 and found.curve == summarise(GROUPS, 0, 1.0, 2.0).curve
    with pytest.raises(ActorFailure, match="the verifier failed on every prompt"):
        summarise([FAILED], 0, 1.0, 2.0)


def test_a_steps_metrics_count_what_was_set_aside() -> None:
    row = group_metrics(GROUPS, np.ones((2, 4)), 0, [FAILED])
    assert row["groups/set_aside"] == 1 and row["verifier/verifier_error_share"] == pytest.approx(1 / 12)
    assert row["reward/mean"] == 0.5 and row["groups/unique_answer_share"] == pytest.approx((3 / 4 + 3 / 4) / 2)


def test_the_objectives_strategies_are_always_evaluated() -> None:
    config = build_config(
        {
            "objective": {"strategy": "best_of_k", "mixture": [{"strategy": "mean", "k": 1}]},
            "evaluation": {"strategies": ["majority_at_k"]},
        }
    )
    assert strategies_of(config) == ["pass_at_k", "majority_at_k", "best_of_k"]
