"""Unbiased evaluation curves from one pool of n samples per prompt, with standard errors over prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np

from learner.strategies.pass_at_k import pass_at_k_exact

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal


@dataclass(frozen=True, slots=True)
class PassAtK:
    """pass@k over prompts: mean, its standard error, and a 95 % interval (normal, cut to [0, 1])."""

    k: int
    value: float
    standard_error: float
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


def pass_at_k_curve(correct_PN: np.ndarray, ks: Iterable[int] | None = None) -> list[PassAtK]:
    """The curve over P prompts with n samples each; `correct_PN` is boolean (or 0/1). Default ks: 1, 2, 4
    .. n.

    The standard error is over prompts (samples of one prompt are already averaged); it is NaN for a single
    prompt, with the interval [0, 1].
    """
    correct_PN = np.asarray(correct_PN)
    if correct_PN.ndim != 2 or correct_PN.size == 0:
        raise ValueError(f"correct_PN must have shape [prompts, samples] and not be empty, got {correct_PN.shape}")
    if not np.isin(correct_PN, (0, 1)).all():
        raise ValueError("correct_PN must be boolean or 0/1")
    P, n = correct_PN.shape
    counts_P = correct_PN.sum(axis=1).astype(int)
    curve = []
    for k in default_ks(n) if ks is None else ks:
        values_P = np.array([pass_at_k(n, int(c), k) for c in counts_P])
        value = float(values_P.mean())
        if P == 1:
            curve.append(PassAtK(k, value, nan, 0.0, 1.0))
            continue
        error = float(values_P.std(ddof=1)) / sqrt(P)
        curve.append(PassAtK(k, value, error, max(0.0, value - Z_95 * error), min(1.0, value + Z_95 * error)))
    return curve


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
