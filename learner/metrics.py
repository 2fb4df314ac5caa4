"""Unbiased evaluation curves from one pool of n samples per prompt, with standard errors over prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, nan, sqrt
from typing import Any

import numpy as np

from learner.strategies import strategy_value
from learner.strategies.pass_at_k import pass_at_k_exact

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A strategy's value with k answers over prompts: mean, its standard error, and a 95 % interval (normal)."""

    k: int
    value: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference of two policies on the same prompts, with a 95 % interval by paired bootstrap."""

    value: float
    low: float
    high: float


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased pass@k of one prompt: 1 - C(n - c, k) / C(n, k) from n samples with c correct (arXiv
    2107.03374).
    """
    if not 0 <= c <= n:
        raise ValueError(f"c must be in 0..n = {n}, got {c}")
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..n = {n}, got {k}: no unbiased estimate exists beyond n")
    return float(pass_at_k_exact(int(n), int(c), int(k)))


def pass_at_k_curve(correct_PN: np.ndarray, ks: Iterable[int] | None = None) -> list[CurvePoint]:
    """The pass@k curve over P prompts with n samples each; `correct_PN` is boolean (or 0/1). Default ks: 1, 2, 4
    .. n.
    """
    correct_PN = np.asarray(correct_PN)
    if correct_PN.ndim != 2 or correct_PN.size == 0:
        raise ValueError(f"correct_PN must have shape [prompts, samples] and not be empty, got {correct_PN.shape}")
    if not np.isin(correct_PN, (0, 1)).all():
        raise ValueError("correct_PN must be boolean or 0/1")
    return strategy_curve(correct_PN.astype(np.float64), ks, strategy="pass_at_k")


def strategy_curve(
    rewards_PN: np.ndarray,
    ks: Iterable[int] | None = None,
    *,
    strategy: str,
    scores: Any = None,
    answers: Any = None,
    correct: Any = None,
) -> list[CurvePoint]:
    """The curve of any strategy over P prompts with n samples each; arguments as in `strategy_value`.

    The standard error is over prompts (samples of one prompt are already averaged); it is NaN for a single
    prompt. Intervals stay within the range of the rewards, and within [0, 1] where the value is a probability.
    """
    rewards_PN = np.asarray(rewards_PN, dtype=np.float64)
    votes = answers is not None and strategy in ("majority_at_k", "weighted_vote")
    low, high = (0.0, 1.0) if votes or np.isin(rewards_PN, (0, 1)).all() else (-inf, inf)
    points, n = [], rewards_PN.shape[1]
    for k in default_ks(n) if ks is None else ks:
        if not 1 <= k <= n:
            raise ValueError(f"k must be in 1..n = {n}, got {k}: no unbiased estimate exists beyond n")
        values_P = strategy_value(
            rewards_PN, scores=scores, answers=answers, correct=correct, strategy=strategy, k=int(k)
        )
        points.append(_point(int(k), values_P, low, high))
    return points


def _point(k: int, values_P: np.ndarray, low: float, high: float) -> CurvePoint:
    value = float(values_P.mean())
    if len(values_P) == 1:
        return CurvePoint(k, value, nan, low, high)
    error = float(values_P.std(ddof=1)) / sqrt(len(values_P))
    return CurvePoint(k, value, error, max(low, value - Z_95 * error), min(high, value + Z_95 * error))


def paired_difference(before_P: Any, after_P: Any, *, resamples: int = 10_000, seed: int = 0) -> Difference:
    """after - before over the same P prompts: mean, and the percentile interval of a bootstrap over prompts.

    Resampling prompts keeps the pairs together, so the difficulty of the prompts cancels and the interval is
    narrower than that of two separate curves.
    """
    difference_P = np.asarray(after_P, dtype=np.float64) - np.asarray(before_P, dtype=np.float64)
    if difference_P.ndim != 1 or len(difference_P) < 2:
        raise ValueError(f"before and after must be one value for each of at least 2 prompts, got {difference_P.shape}")
    P, rng = len(difference_P), np.random.default_rng(seed)
    means = np.concatenate(  # in parts, so that the indices of all resamples never stand in memory at once
        [difference_P[rng.integers(0, P, (min(500, resamples - i), P))].mean(axis=1) for i in range(0, resamples, 500)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(difference_P.mean()), float(low), float(high))


def default_ks(n: int) -> list[int]:
    """1, 2, 4 ... up to n, and n itself."""
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    ks = [1 << i for i in range(n.bit_length()) if 1 << i <= n]
    return ks if ks[-1] == n else [*ks, n]


# What the engine's steps return, and what it means. Names as they appear in metrics.jsonl and wandb.
LEARN_METRICS = {
    "learn/loss": "policy loss (or cross-entropy) of the global batch; its value means little, its gradient all",
    "learn/gradient_norm": "global L2 norm of the gradient before clipping",
    "learn/learning_rate": "AdamW learning rate of this step",
    "learn/clip_fraction": "share of response tokens whose gradient the importance-ratio clip stops",
    "learn/ratio_mean": "mean importance ratio policy / behaviour per token; 1 on fresh samples",
    "learn/ratio_max": "largest importance ratio of a token",
    "learn/kl": "k3 estimate of KL(behaviour || policy) per token, nats",
    "learn/kl_reference": "k3 estimate of KL(policy || reference) per token, nats; 0 where no KL term is set",
    "learn/entropy": "mean entropy of the policy per response token, nats, at the sampling temperature",
    "learn/logprob_gap_mean": "mean |learner - sampler| log-probability per fresh token, nats",
    "learn/logprob_gap_max": "largest such gap of one token, nats",
    "learn/fresh_tokens": "response tokens sampled wholly under the current weights",
    "learn/response_tokens": "response tokens trained on",
    "learn/tokens": "prompt and response tokens processed, without padding",
    "learn/sequences": "sequences trained on (those of zero advantage are left out)",
    "learn/micro_batches": "forward passes per rank",
    "learn/padding_share": "share of processed tokens that was padding",
    "learn/seconds": "wall time of the step, seconds",
    "learn/tokens_per_second": "learn/tokens / learn/seconds",
    "learn/skipped": "1 if no sample had an advantage and the optimiser did not step",
}
