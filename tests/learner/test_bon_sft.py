"""BoN-SFT: on a group in the policy's own proportions the update is the exact gradient of log pi_bon(expert)."""

from __future__ import annotations

import numpy as np
import pytest

from learner.estimators.bon_paper import tilt
from learner.estimators.bon_sft import bon_sft_advantages

COUNTS = np.array([3, 1, 4, 2])
RIGHT = np.array([1.0, 0.0, 0.0, 1.0])
SCORES = np.array([0.2, 0.9, -0.4, 0.7])


def update(scores: np.ndarray, expert: int, k: int) -> np.ndarray:
    """Gradient with respect to the logits that the advantages give, the expert's own term included."""
    group = np.repeat(np.arange(4), COUNTS)
    pi = COUNTS / COUNTS.sum()
    advantages = bon_sft_advantages(scores[group][None], scores[[expert]], k, 1e-9)[0]
    return advantages @ (np.eye(4)[group] - pi) + np.eye(4)[expert] - pi


def numeric(objective, step: float = 1e-6) -> np.ndarray:
    logits = np.log(COUNTS / COUNTS.sum())
    return np.array([(objective(logits + e) - objective(logits - e)) / (2 * step) for e in step * np.eye(4)])


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize("k", [2, 4, 16])
@pytest.mark.parametrize("expert", [0, 1])
def test_binary_scores_follow_the_exact_best_of_n_policy(k: int, expert: int) -> None:
    def log_best_of_n(logits: np.ndarray) -> float:
        pi = softmax(logits)
        p = pi @ (1 - RIGHT)
        factor = (1 - p**k) / (1 - p) if RIGHT[expert] else p ** (k - 1)
        return float(np.log(pi[expert] * factor))

    np.testing.assert_allclose(update(RIGHT, expert, k), numeric(log_best_of_n), atol=1e-7)


@pytest.mark.parametrize("k", [2, 8])
@pytest.mark.parametrize("expert", [0, 2])
def test_other_scores_follow_the_tilted_policy(k: int, expert: int) -> None:
    lam = tilt(k)

    def log_tilted(logits: np.ndarray) -> float:
        pi = softmax(logits)
        weights = pi * np.exp(lam * ((SCORES[:, None] >= SCORES[None, :]) @ pi))
        return float(np.log(weights[expert] / weights.sum()))

    np.testing.assert_allclose(update(SCORES, expert, k), numeric(log_tilted), atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "expert", "message"),
    [
        ([[0.3, np.nan, 0.1]], [1.0], "scores_GN contains NaN"),
        ([[0.3, 0.2, 0.1]], [np.nan], "expert_scores_G contains NaN"),
    ],
)
def test_what_is_no_score_is_refused(scores: list, expert: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bon_sft_advantages(np.array(scores), np.array(expert), 4, 0.01)


def test_a_groups_form_is_its_own() -> None:
    """A score between 0 and 1 in another group of the step changes nothing in this one."""
    binary, other = np.array([0.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.5, 1.0, 0.0])
    alone = bon_sft_advantages(binary[None], np.array([1.0]), 8, 0.01)
    both = bon_sft_advantages(np.stack([binary, other]), np.array([1.0, 1.0]), 8, 0.01)
    np.testing.assert_array_equal(both[:1], alone)
    np.testing.assert_array_equal(both[1:], bon_sft_advantages(other[None], np.array([1.0]), 8, 0.01))
    assert not np.allclose(both[0], both[1])


def test_one_answer_is_plain_imitation() -> None:
    assert not bon_sft_advantages(np.ones((2, 4)), np.ones(2), 1, 0.01).any()
