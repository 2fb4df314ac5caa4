"""Calibration of logits to probabilities, and measures of their quality. NumPy only.

A logit ranks answers; a probability can also be compared across prompts and with a threshold. Platt scaling,
p = sigmoid(a z + b) with a > 0, keeps the ranking. All functions take float64 [M] logits or probabilities and bool
[M] labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

BINS = 10
_RIDGE = 1e-6  # keeps Newton's matrix regular if the labels are separable


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
    logits = np.asarray(logits, np.float64)
    right = int(np.sum(correct))
    wrong = len(logits) - right
    targets = np.where(correct, (right + 1) / (right + 2), 1 / (wrong + 2))
    design = np.stack([logits, np.ones_like(logits)], axis=1)
    parameters = np.array([1.0, 0.0])
    loss = _loss(design, targets, parameters)
    for _ in range(100):
        p = sigmoid(design @ parameters)
        gradient = design.T @ (p - targets)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (candidate := _loss(design, targets, parameters - size * step)) > loss and size > 1e-8:
            size /= 2
        parameters = parameters - size * step
        if loss - candidate < 1e-12 * len(logits):
            break
        loss = candidate
    return Platt(max(float(parameters[0]), 1e-6), float(parameters[1]))


def _loss(design: np.ndarray, targets: np.ndarray, parameters: np.ndarray) -> float:
    z = design @ parameters
    return float(np.sum(np.logaddexp(0.0, z) - targets * z))


def auc(scores: np.ndarray, correct: np.ndarray) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney), ties as half. NaN unless both labels occur."""
    scores, correct = np.asarray(scores, np.float64), np.asarray(correct, bool)
    right, wrong = int(correct.sum()), int((~correct).sum())
    if not right or not wrong:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2  # mean rank of equal scores, from 1
    return float((mid_ranks[inverse][correct].sum() - right * (right + 1) / 2) / (right * wrong))


def quality(logits: np.ndarray, correct: np.ndarray, prompt_ids: list[str], platt: Platt) -> Quality:
    """Computes :class:`Quality` for one set of labeled answers."""
    correct = np.asarray(correct, bool)
    p = platt.probability(logits)
    by_prompt: dict[str, list[int]] = {}
    for index, prompt_id in enumerate(prompt_ids):
        by_prompt.setdefault(prompt_id, []).append(index)
    within = [auc(p[rows], correct[rows]) for rows in by_prompt.values()]
    within = [value for value in within if not np.isnan(value)]
    bins = _bins(p, correct)
    clipped = np.clip(p, 1e-12, 1 - 1e-12)
    return Quality(
        samples=len(p),
        prompts=len(by_prompt),
        base_rate=float(correct.mean()),
        auc=auc(p, correct),
        auc_within=float(np.mean(within)) if within else None,
        accuracy=float(np.mean((p >= 0.5) == correct)),
        brier=float(np.mean((p - correct) ** 2)),
        log_loss=float(-np.mean(np.where(correct, np.log(clipped), np.log1p(-clipped)))),
        ece=sum(count * abs(mean - share) for mean, share, count in bins) / len(p),
        bins=bins,
    )


def _bins(p: np.ndarray, correct: np.ndarray) -> list[tuple[float, float, int]]:
    index = np.minimum((p * BINS).astype(int), BINS - 1)
    chosen = [index == b for b in range(BINS)]
    return [(float(p[c].mean()), float(correct[c].mean()), int(c.sum())) for c in chosen if c.any()]
