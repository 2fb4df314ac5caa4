"""BoN-SFT: on a group in the policy's own proportions the update is the exact gradient of log pi_bon(expert).

On random groups it is biased, and every group is enumerated: the bias falls with the size of the group.
"""

from __future__ import annotations

from itertools import product
from math import factorial

import numpy as np
import pytest

from learner.estimators.bon_paper import tilt
from learner.estimators.bon_sft import BonSftForm, bon_sft_advantages

COUNTS = np.array([3, 1, 4, 2])
RIGHT = np.array([1.0, 0.0, 0.0, 1.0])
SCORES = np.array([0.2, 0.9, -0.4, 0.7])
TIED = np.array([0.2, 0.9, 0.2, 0.7])


def update(scores: np.ndarray, expert: int, k: int, form: BonSftForm = "exact") -> np.ndarray:
    """Gradient with respect to the logits that the advantages give, the expert's own term included."""
    group = np.repeat(np.arange(4), COUNTS)
    pi = COUNTS / COUNTS.sum()
    advantages = bon_sft_advantages(scores[group][None], scores[[expert]], k, 1e-9, form)[0]
    return advantages @ (np.eye(4)[group] - pi) + np.eye(4)[expert] - pi


def numeric(objective, step: float = 1e-6) -> np.ndarray:
    logits = np.log(COUNTS / COUNTS.sum())
    return np.array([(objective(logits + e) - objective(logits - e)) / (2 * step) for e in step * np.eye(4)])


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def log_best_of_n(logits: np.ndarray, scores: np.ndarray, expert: int, k: int) -> float:
    """From the definition: every tuple of k answers, and one of those with the highest score is picked uniformly."""
    pi, chance = softmax(logits), 0.0
    for answers in product(range(4), repeat=k):
        best = [y for y in answers if scores[y] == max(scores[z] for z in answers)]
        chance += pi[list(answers)].prod() * best.count(expert) / len(best)
    return float(np.log(chance))


def log_tilted(logits: np.ndarray, scores: np.ndarray, expert: int, k: int) -> float:
    pi = softmax(logits)
    weights = pi * np.exp(tilt(k) * ((scores[:, None] >= scores[None, :]) @ pi))
    return float(np.log(weights[expert] / weights.sum()))


@pytest.mark.parametrize("k", [2, 4, 5])
@pytest.mark.parametrize("expert", [0, 1, 2, 3])
@pytest.mark.parametrize("scores", [RIGHT, SCORES, TIED], ids=["binary", "continuous", "ties"])
def test_the_exact_form_follows_best_of_n(scores: np.ndarray, expert: int, k: int) -> None:
    expected = numeric(lambda logits: log_best_of_n(logits, scores, expert, k))
    np.testing.assert_allclose(update(scores, expert, k), expected, atol=1e-7)


@pytest.mark.parametrize("expert", [0, 1])
def test_the_exact_form_of_binary_scores_is_the_closed_form(expert: int) -> None:
    def closed_form(logits: np.ndarray) -> float:
        pi = softmax(logits)
        p = pi @ (1 - RIGHT)
        return float(np.log(pi[expert] * ((1 - p**64) / (1 - p) if RIGHT[expert] else p**63)))

    np.testing.assert_allclose(update(RIGHT, expert, 64), numeric(closed_form), atol=1e-7)


@pytest.mark.parametrize("k", [2, 8, 64])
@pytest.mark.parametrize("expert", [0, 1, 2, 3])
@pytest.mark.parametrize("scores", [RIGHT, SCORES, TIED], ids=["binary", "continuous", "ties"])
def test_the_variational_form_follows_the_tilted_policy(scores: np.ndarray, expert: int, k: int) -> None:
    expected = numeric(lambda logits: log_tilted(logits, scores, expert, k))
    np.testing.assert_allclose(update(scores, expert, k, "variational"), expected, atol=1e-6)


def expected_update(scores: np.ndarray, expert: int, k: int, n: int, form: BonSftForm) -> np.ndarray:
    """Over every group of n samples: the update of the samples, with respect to the logits."""
    pi = COUNTS / COUNTS.sum()
    counts = np.array([c for c in product(range(n + 1), repeat=4) if sum(c) == n])
    groups = np.array([np.repeat(np.arange(4), c) for c in counts])
    ways = factorial(n) / np.vectorize(factorial)(counts).astype(float).prod(axis=1)
    chances = ways * (pi**counts).prod(axis=1)
    assert chances.sum() == pytest.approx(1)
    advantages = bon_sft_advantages(scores[groups], np.full(len(groups), scores[expert]), k, 0.01, form)
    return np.einsum("g,gi,giy->y", chances, advantages, (np.eye(4) - pi)[groups])


@pytest.mark.parametrize(
    ("form", "printed"),
    [
        ("exact", {4: [0.205, 0.252, 0.216, 0.198], 16: [0.050, 0.060, 0.000, 0.049]}),
        ("variational", {4: [0.190, 1.252, 0.224, 0.067], 16: [0.056, 0.413, 0.060, 0.012]}),
    ],
)
def test_the_bias_of_small_groups_falls_with_their_size(form: BonSftForm, printed: dict[int, list[float]]) -> None:
    """Distance of the expected update from the exact one, relative to its length, by the expert's answer; N = 4."""
    for n, distances in printed.items():
        for expert, distance in enumerate(distances):
            exact = update(SCORES, expert, 4, form) - (np.eye(4)[expert] - COUNTS / COUNTS.sum())
            found = np.linalg.norm(expected_update(SCORES, expert, 4, n, form) - exact) / np.linalg.norm(exact)
            assert found == pytest.approx(distance, abs=6e-4), (n, expert)


@pytest.mark.parametrize("form", ["exact", "variational"])
@pytest.mark.parametrize(
    ("scores", "expert", "message"),
    [
        ([[0.3, np.nan, 0.1]], [1.0], "scores_GN contains NaN"),
        ([[0.3, 0.2, 0.1]], [np.nan], "expert_scores_G contains NaN"),
    ],
)
def test_what_is_no_score_is_refused(scores: list, expert: list, message: str, form: BonSftForm) -> None:
    with pytest.raises(ValueError, match=message):
        bon_sft_advantages(np.array(scores), np.array(expert), 4, 0.01, form)


@pytest.mark.parametrize("form", ["exact", "variational"])
def test_other_groups_of_the_step_change_nothing(form: BonSftForm) -> None:
    scores, experts = np.array([[0.0, 1.0, 1.0, 0.0], [0.0, 0.5, 1.0, 0.0]]), np.array([1.0, 0.7])
    both = bon_sft_advantages(scores, experts, 8, 0.01, form)
    for g in range(2):
        alone = bon_sft_advantages(scores[[g]], experts[[g]], 8, 0.01, form)
        np.testing.assert_array_equal(both[[g]], alone)


def test_an_expert_outside_of_the_groups_scores() -> None:
    """Above all samples, or below all, the group says nothing about the expert's place among them: plain imitation."""
    scores = np.array([[0.2, 0.9, -0.4, 0.7]])
    for expert in (2.0, -2.0):
        assert not bon_sft_advantages(scores, np.array([expert]), 8, 0.01).any()
    assert bon_sft_advantages(scores, np.array([2.0]), 8, 0.01, "variational").any(), (
        "it lowers the tilted policy's own"
    )


def test_one_answer_is_plain_imitation() -> None:
    for form in ("exact", "variational"):
        assert not bon_sft_advantages(np.ones((2, 4)), np.ones(2), 1, 0.01, form).any()
