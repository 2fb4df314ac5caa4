"""Figures by which a learned verifier is judged, against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.learned.calibration import Platt, auc, fit_platt, quality, sigmoid

LABELLED = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12)


@given(LABELLED)
def test_auc_is_the_chance_to_rank_a_pair_rightly(pairs) -> None:
    right = [score for score, correct in pairs if correct]
    wrong = [score for score, correct in pairs if not correct]
    found = auc(np.array([s for s, _ in pairs]), np.array([c for _, c in pairs]))
    if not right or not wrong:
        assert np.isnan(found)
        return
    wins = [1.0 if r > w else 0.5 if r == w else 0.0 for r, w in itertools.product(right, wrong)]
    assert found == pytest.approx(np.mean(wins))


def test_platt_recovers_the_model_that_drew_the_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 50_000)
    correct = rng.random(50_000) < sigmoid(0.5 * logits - 1)
    platt = fit_platt(logits, correct)
    assert platt.slope == pytest.approx(0.5, abs=0.02) and platt.intercept == pytest.approx(-1, abs=0.03)
    found = quality(logits, correct, ["p"] * 50_000, platt)
    assert found.ece < 0.01 < quality(logits, correct, ["p"] * 50_000, Platt()).ece


@given(LABELLED)
def test_platt_keeps_the_ranking_whatever_the_labels(pairs) -> None:
    logits = np.array([float(s) for s, _ in pairs])
    p = fit_platt(logits, np.array([c for _, c in pairs])).probability(logits)
    assert np.all((p > 0) & (p < 1))
    order = np.argsort(logits, kind="stable")
    assert np.all(np.diff(p[order]) >= 0)


def test_labels_that_are_separable_do_not_blow_up() -> None:
    platt = fit_platt(np.array([-1.0, 1.0]), np.array([False, True]))
    assert np.isfinite([platt.slope, platt.intercept]).all() and platt.slope > 0


def test_quality_by_hand() -> None:
    # Prompt a ranks its one pair rightly, b wrongly, c has no pair; over all prompts 5 of 6 pairs are right.
    logits = np.array([2.0, -2.0, -1.0, 1.0, 3.0])
    correct = np.array([True, False, True, False, True])
    found = quality(logits, correct, ["a", "a", "b", "b", "c"], Platt())
    p = sigmoid(logits)
    assert found.false_accepts is not None and 0 <= found.false_accepts <= 1
    assert found.auc_within == 0.5 and found.auc == pytest.approx(5 / 6)
    assert found.accuracy == 0.6 and found.base_rate == 0.6 and (found.samples, found.prompts) == (5, 3)
    assert found.brier == pytest.approx(np.mean((p - correct) ** 2))
    assert found.log_loss == pytest.approx(-np.mean(np.log(np.where(correct, p, 1 - p))))
    assert found.ece == pytest.approx(np.sum(np.abs(p - correct)) / 5), "every answer has its own bin"
