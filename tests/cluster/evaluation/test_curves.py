"""How evaluations are shown: the objective's own value first, differences on the same prompts in pairs."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from actors.sampling import Sampling
from cluster.config import build_config
from cluster.evaluation.curves import (
    comparison_table,
    differences,
    evaluation_line,
    named_points,
    objective_name,
    signed,
)
from cluster.evaluation.summary import objective_terms, strategies_of, summarize, trained_ks_of
from cluster.records.metric_names import check_row
from learner.metrics import paired_difference
from tests.actors.workers.test_learning_step import graded

MIXTURE = {"weight": 0.7, "k": 2, "mixture": [{"weight": 0.3, "strategy": "mean", "k": 1}]}


def groups_of(seed: int, prompts: int = 12) -> list[Any]:
    """Groups of four samples with random verdicts and scores."""
    rng = np.random.default_rng(seed)
    rows = [(rng.integers(0, 2, 4).tolist(), rng.random(4).tolist()) for _ in range(prompts)]
    return [
        replace(graded(right, scores=scores, answers=["a", "b", "b", None]), prompt_id=f"p{i}")
        for i, (right, scores) in enumerate(rows)
    ]


def evaluated(objective: dict[str, Any], seed: int, step: int, groups: list[Any] | None = None) -> tuple[Any, Any]:
    config = build_config({"objective": {"k": 2} | objective, "rollout": {"n": 16}})
    measured = strategies_of(config), trained_ks_of(config), objective_terms(config)
    return summarize(groups or groups_of(seed), step, Sampling(), 2.0, *measured), objective_terms(config)


def shown(table: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ({}, "pass@2"),
        ({"strategy": "best_of_k"}, "Best-of-2"),
        ({"strategy": "max_at_k"}, "max@2"),
        ({"strategy": "majority_at_k"}, "majority@2"),
        ({"strategy": "weighted_vote"}, "weighted vote@2"),
        ({"strategy": "mean", "k": 1}, "mean reward"),
        (MIXTURE, "0.7 pass@2 + 0.3 mean reward"),
    ],
)
def test_the_objective_is_named_evaluated_and_shown_first(objective: dict[str, Any], name: str) -> None:
    base, terms = evaluated(objective, 1, 0)
    final, _ = evaluated(objective, 2, 3)
    assert objective_name(terms) == name
    assert base.objective is not None
    expected = f"objective {name} {base.objective.value:.3f} ["
    assert evaluation_line(base, terms).startswith(f"evaluation of the base model: {expected}")
    assert evaluation_line(final, terms).startswith("evaluation after step 3: objective ")
    assert "pass@1" in evaluation_line(base, terms) and "12 prompts x 4 samples" in evaluation_line(base, terms)
    row = base.row()
    check_row(row)
    assert row["eval/objective"] == base.objective.value and row["eval/objective_low"] <= row["eval/objective"]
    text = shown(comparison_table(base, final, terms))
    assert f"{name} *" in text and "pass@4" in text
    change = differences(base, final, terms)[name]
    assert signed(change) in text


def test_a_mixture_is_the_weighted_sum_of_its_terms() -> None:
    found, _ = evaluated(MIXTURE, 1, 0)
    (pass_2,) = [point for point in found.curve if point.k == 2]
    assert found.objective.value == pytest.approx(0.7 * pass_2.value + 0.3 * found.reward_mean)
    assert found.objective.low < found.objective.value < found.objective.high


def test_differences_pair_the_prompts_that_both_evaluated() -> None:
    """The verifier failed on other prompts in each evaluation: only those that both hold are compared, by their ids."""
    before, after = groups_of(1), groups_of(2)
    base, terms = evaluated({}, 1, 0, before[:9])
    final, _ = evaluated({}, 2, 3, list(reversed(after[3:])))
    found = differences(base, final, terms)["pass@2"]
    old, _ = evaluated({}, 1, 0, before[3:9])
    new, _ = evaluated({}, 2, 3, after[3:9])
    points = named_points(old, terms)["pass@2"], named_points(new, terms)["pass@2"]
    expected = paired_difference(points[0].values_P, points[1].values_P)
    assert found.value == pytest.approx(expected.value)
    assert found.low == pytest.approx(expected.low, abs=0.05) and found.high == pytest.approx(expected.high, abs=0.05)
    other, _ = evaluated({}, 2, 3, [replace(group, prompt_id="new") for group in after])
    assert differences(base, other, terms) == {}


def test_the_same_samples_differ_by_nothing() -> None:
    base, terms = evaluated({}, 1, 0)
    assert signed(differences(base, base, terms)["pass@2"]) == "+0.000, no prompt differs"


def test_cut_samples_and_prompts_without_a_verdict_are_said() -> None:
    found, terms = evaluated({}, 1, 0)
    assert "cut at" not in evaluation_line(replace(found, truncated_share=0.05), terms)
    line = evaluation_line(replace(found, truncated_share=0.97, set_aside=2), terms)
    assert "97% of the samples cut at rollout.max_response_tokens, 2 prompts left out" in line


def test_one_evaluation_alone_has_no_differences() -> None:
    final, terms = evaluated({}, 1, 3)
    text = shown(comparison_table(None, final, terms))
    assert "difference" not in text and "base" not in text and f"{final.curve[0].value:.3f} [" in text


def test_an_objective_beyond_the_samples_of_a_prompt_is_not_shown() -> None:
    config = build_config({"objective": {"k": 8}})
    found = summarize(groups_of(1), 0, Sampling(), 2.0, terms=objective_terms(config))
    assert found.objective is None and "eval/objective" not in found.row()
    assert "objective" not in evaluation_line(found, objective_terms(config))


def test_a_scheduled_k_is_reported_at_its_last_value() -> None:
    config = build_config({"run": {"steps": 10}, "objective": {"k": 8}, "schedule": {"k": {"end": 2, "over": 4}}})
    assert [term.k for term in objective_terms(config)] == [2] and 2 in trained_ks_of(config)
