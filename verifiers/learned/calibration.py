"""Calibration of logits to probabilities, and measures of their quality.

A logit ranks answers; a probability can also be compared across prompts and with a threshold. Platt scaling,
p = sigmoid(a z + b) with a > 0, keeps the ranking. All functions take float64 [M] logits or probabilities and bool
[M] labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

BINS = 10
_UNPENALIZED = 1e10  # inverse strength of the penalty, which only decides where all logits are equal


@dataclass(frozen=True, slots=True)
class Platt:
    """p = sigmoid(slope * logit + intercept)."""

    slope: float = 1.0
    intercept: float = 0.0

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of the logits, float64."""
        return sigmoid(self.slope * np.asarray(logits, np.float64) + self.intercept)


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of a verifier on held-out answers.

    Attributes:
        samples, prompts: Number of answers and prompts.
        base_rate: Share of right answers.
        auc: Probability that a right answer scores above a wrong one, ties as half, over all pairs.
        auc_within: The same over pairs of one prompt, averaged over prompts with both kinds; only this matters for
            Best-of-N. None if no prompt has both.
        accuracy: At probability 1/2.
        brier, log_loss: Mean squared error, and mean negative log-likelihood in nats.
        ece: Expected calibration error over ten bins of equal width.
        bins: Of each bin with answers: mean probability, share right, count.
        false_accepts: Share of the wrong answers with a probability of 1/2 or more; None if all are right.
    """

    samples: int
    prompts: int
    base_rate: float
    auc: float
    auc_within: float | None
    accuracy: float
    brier: float
    log_loss: float
    ece: float
    bins: list[tuple[float, float, int]]
    false_accepts: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        return asdict(self)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """Logistic function without overflow."""
    return np.exp(-np.logaddexp(0.0, -values))


def fit_platt(logits: np.ndarray, correct: np.ndarray) -> Platt:
    """Maximum-likelihood slope and intercept with smoothed targets (Platt 1999).

    A slope <= 0, which would reverse the ranking, becomes a very small positive number.
    """
    from sklearn.linear_model import LogisticRegression

    right = int(np.sum(correct))
    wrong = len(logits) - right
    targets = np.where(correct, (right + 1) / (right + 2), 1 / (wrong + 2))
    # A target between 0 and 1 is the answer once as right and once as wrong, with weights that sum to 1.
    design = np.tile(np.asarray(logits, np.float64), 2)[:, None]
    labels = np.repeat([True, False], len(targets))
    model = LogisticRegression(C=_UNPENALIZED, solver="newton-cholesky", tol=1e-10, max_iter=200)
    model.fit(design, labels, sample_weight=np.concatenate([targets, 1 - targets]))
    return Platt(max(float(model.coef_[0, 0]), 1e-6), float(model.intercept_[0]))


def auc(scores: np.ndarray, correct: np.ndarray) -> float:
    """Area under the ROC curve, ties as half. NaN unless both labels occur."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(correct, scores)) if 0 < np.sum(correct) < len(correct) else float("nan")


def quality(logits: np.ndarray, correct: np.ndarray, prompt_ids: list[str], platt: Platt) -> Quality:
    """Computes :class:`Quality` for one set of labeled answers."""
    from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

    correct = np.asarray(correct, bool)
    p = platt.probability(logits)
    by_prompt: dict[str, list[int]] = {}
    for index, prompt_id in enumerate(prompt_ids):
        by_prompt.setdefault(prompt_id, []).append(index)
    within = [auc(p[rows], correct[rows]) for rows in by_prompt.values()]
    within = [value for value in within if not np.isnan(value)]
    bins = _bins(p, correct)
    return Quality(
        samples=len(p),
        prompts=len(by_prompt),
        base_rate=float(correct.mean()),
        auc=auc(p, correct),
        auc_within=float(np.mean(within)) if within else None,
        accuracy=float(accuracy_score(correct, p >= 0.5)),
        brier=float(brier_score_loss(correct, p)),
        log_loss=float(log_loss(correct, p, labels=[False, True])),
        ece=sum(count * abs(mean - share) for mean, share, count in bins) / len(p),
        bins=bins,
        false_accepts=None if correct.all() else float((p[~correct] >= 0.5).mean()),
    )


def _bins(p: np.ndarray, correct: np.ndarray) -> list[tuple[float, float, int]]:
    index = np.minimum((p * BINS).astype(int), BINS - 1)
    chosen = [index == b for b in range(BINS)]
    return [(float(p[c].mean()), float(correct[c].mean()), int(c.sum())) for c in chosen if c.any()]
