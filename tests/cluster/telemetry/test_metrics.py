"""Pins the table of metrics: names, axes, unknown names refused, docs/metrics.md up to date."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.records import metric_names
from cluster.records.metric_names import (
    AXES,
    METRICS,
    MetricError,
    check_row,
    find_metric,
    split_by_axis,
)
from cluster.telemetry.metrics_page import reference_page
from learner.backends.step_metrics import MAXIMA, SUMS, StepTotals
from learner.gap_bins import bin_names


def test_page_is_up_to_date() -> None:
    page = Path(__file__).parents[3] / "docs" / "metrics.md"
    remedy = "run: python -m cluster.telemetry.metrics_page > docs/metrics.md"
    assert page.read_text(encoding="utf-8") == reference_page(), remedy


def test_every_line_is_complete_and_unique() -> None:
    keys = [metric.key for metric in METRICS]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(AXES)
    for metric in METRICS:
        assert metric.axis in AXES
        assert metric.unit and metric.meaning and metric.watch
        example = metric.key.replace("<k>", "8").replace("<status>", "wrong").replace("<part>", "format")
        example = example.replace("<actor>", "sampler-0")
        if "<strategy>" in example:  # of a plugin; the others have a line of their own
            continue
        assert find_metric(example) == metric, "patterns must not shadow each other"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("eval/pass@16", "eval/pass@<k>"),
        ("eval/pass@16_low", "eval/pass@<k>_low"),
        ("pass_at_k/4", "pass_at_k/<k>"),
        ("verifier/verifier_error_share", "verifier/<status>_share"),
        ("reward/mean", "reward/mean"),
    ],
)
def test_names_find_their_line(name: str, key: str) -> None:
    assert find_metric(name).key == key


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("reward/men", "reward/mean"),
        ("eval/pass@0", "eval/pass@<k>"),
        ("eval/pas@8", "eval/pass@<k>"),
        ("policy/kl_behavior", "policy/kl_behaviour"),
        ("train/stp", "train/step"),
    ],
)
def test_unknown_name_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(MetricError, match="nearest") as caught:
        find_metric(name)
    assert repr(near) in str(caught.value)


def test_split_by_axis_keeps_clocks_apart() -> None:
    row = {
        "queue/depth": 3,
        "time/s": 1.5,
        "train/step": np.int64(7),
        "reward/mean": np.float32(0.5),
        "response/length_mean": 9.0,
        "rollout/step": 8,
        "evaluation/step": 7,
    }
    assert split_by_axis(row) == [
        {"train/step": 7, "reward/mean": 0.5},
        {"rollout/step": 8, "response/length_mean": 9.0},
        {"time/s": 1.5, "queue/depth": 3},
    ]
    assert all(type(value) in (int, float) for part in split_by_axis(row) for value in part.values())


def test_rows_are_refused_for_a_missing_axis_or_a_value_that_is_no_number() -> None:
    with pytest.raises(MetricError, match="'rollout/step'"):
        check_row({"train/step": 1, "response/length_mean": 2.0})
    with pytest.raises(MetricError, match=r"reward/mean.*one number"):
        check_row({"train/step": 1, "reward/mean": "high"})
    with pytest.raises(MetricError, match="one number"):
        check_row({"train/step": 1, "reward/mean": np.zeros(3)})
    with pytest.raises(MetricError, match="train/step"):
        check_row({"train/step": None})
    check_row({"train/step": 1, "reward/mean": float("nan"), "groups/mixed_share": True})


def test_issue_names_are_there() -> None:
    words = """reward/mean pass@ entropy kl clip_fraction ratio lag queue/depth tokens_per_s sync/seconds
        logprob_gap gradient_norm length truncated all_fail all_pass mixed"""
    page = " ".join(metric.key for metric in metric_names.METRICS)
    assert [word for word in words.split() if word not in page] == []


def test_the_learner_names_its_metrics_as_the_table_does() -> None:
    totals = StepTotals(dict.fromkeys(SUMS, 2.0), dict.fromkeys(MAXIMA, 1.0), dict.fromkeys(bin_names(), 0.1))
    assert set(bin_names()) <= totals.policy_metrics().keys()
    assert {find_metric(name).axis for name in totals.policy_metrics()} == {"train/step"}
    quiet = StepTotals(dict.fromkeys(SUMS, 2.0) | {"fresh_tokens": 0.0}, dict.fromkeys(MAXIMA, 1.0), {})
    gaps = {"logprob_gap/mean", "logprob_gap/max", *bin_names()}
    assert totals.policy_metrics().keys() - quiet.policy_metrics().keys() == gaps
