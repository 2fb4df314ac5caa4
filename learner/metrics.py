"""Unbiased evaluation curves from one pool of n samples per prompt, with standard errors over prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, nan, sqrt
from typing import Any

import numpy as np

from learner.strategies import STRATEGIES, look_up, strategy_value
from learner.strategies.pass_at_k import pass_at_k_exact

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A strategy's value with k answers over prompts: mean, its standard error, and a 95 % interval.

    The interval is the normal one, mean ± 1.96 standard errors, except where the value is a probability: see
    `probability_interval`.
    """

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
    n, c, k = _whole("n", n), _whole("c", c), _whole("k", k)
    if not 0 <= c <= n:
        raise ValueError(f"c must be in 0..n = {n}, got {c}")
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..n = {n}, got {k}: no unbiased estimate exists beyond n")
    return float(pass_at_k_exact(n, c, k))


def pass_at_k_curve(correct_PN: np.ndarray, ks: Iterable[int] | None = None) -> list[CurvePoint]:
    """The pass@k curve over P prompts with n samples each; `correct_PN` is boolean (or 0/1). Default ks: 1, 2, 4
    .. n.
    """
    correct_PN = _matrix("correct_PN", correct_PN)
    if not np.isin(correct_PN, (0, 1)).all():
        raise ValueError("correct_PN must be boolean or 0/1")
    return strategy_curve(correct_PN, ks, strategy="pass_at_k")


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

    Default ks: 1, 2, 4 .. n, or the one that the strategy is defined for.

    The standard error is over prompts (samples of one prompt are already averaged); it is NaN for a single
    prompt. The value is a probability where the rewards are 0 or 1 and where answers vote.

    Raises:
        ValueError: naming the argument: rewards not [prompts, samples], a k that is no whole number of 1..n.
    """
    rewards_PN = _matrix("rewards_PN", rewards_PN)
    votes = answers is not None and strategy in ("majority_at_k", "weighted_vote")
    probability = votes or bool(np.isin(rewards_PN, (0, 1)).all())
    points, n = [], rewards_PN.shape[1]
    if ks is None:
        only = look_up("strategy", strategy, STRATEGIES).only_k
        ks = default_ks(n) if only is None else [only]
    for k in [_whole("k", k) for k in ks]:
        if not 1 <= k <= n:
            raise ValueError(f"k must be in 1..n = {n}, got {k}: no unbiased estimate exists beyond n")
        values_P = strategy_value(rewards_PN, scores=scores, answers=answers, correct=correct, strategy=strategy, k=k)
        points.append(_point(k, values_P, probability))
    return points


def _point(k: int, values_P: np.ndarray, probability: bool) -> CurvePoint:
    value = float(values_P.mean())
    if len(values_P) == 1:
        return CurvePoint(k, value, nan, *((0.0, 1.0) if probability else (-inf, inf)))
    error = float(values_P.std(ddof=1)) / sqrt(len(values_P))
    low, high = probability_interval(values_P) if probability else (value - Z_95 * error, value + Z_95 * error)
    return CurvePoint(k, value, error, low, high)


def probability_interval(values_P: np.ndarray) -> tuple[float, float]:
    """A 95 % interval for the mean of P >= 2 values in [0, 1], one of each prompt, that cannot collapse near 0 and 1.

    Wilson's interval (E. B. Wilson, JASA 22, 1927) for P / d prompts. The dispersion d = s^2 / (m (1 - m)) is 1 where
    every prompt is all right or all wrong, and near 0 where all are alike. It is drawn towards 1 with the weight
    (z^2 / (J + z^2))^2, J = (sum x)^2 / sum x^2 being the number of prompts that carry the rarer side (x the values,
    or one minus them): where few do, the sample is silent about what the prompts that it did not meet would add.
    Without that, 256 prompts whose pass@64 is 0.997 get an interval that holds the truth in 76 % of experiments.
    """
    P, mean, z2 = len(values_P), float(values_P.mean()), Z_95**2
    rarer_P = values_P if mean <= 0.5 else 1.0 - values_P
    squares, spread = float((rarer_P**2).sum()), mean * (1.0 - mean)
    if squares == 0.0 or spread <= 0.0:
        dispersion = 1.0
    else:
        measured = min(float(values_P.var(ddof=1)) / spread, 1.0)
        carriers = float(rarer_P.sum()) ** 2 / squares
        dispersion = measured + (1.0 - measured) * (z2 / (carriers + z2)) ** 2
    share = z2 * dispersion / P  # z^2 / effective number of prompts
    middle, half = mean + share / 2, sqrt(spread * share + share**2 / 4)
    return max(0.0, (middle - half) / (1 + share)), min(1.0, (middle + half) / (1 + share))


def paired_difference(before_P: Any, after_P: Any, *, resamples: int = 10_000, seed: int = 0) -> Difference:
    """after - before over the same P prompts: mean, and the percentile interval of a bootstrap over prompts.

    Resampling prompts keeps the pairs together, so the difficulty of the prompts cancels and the interval is
    narrower than that of two separate curves.

    Raises:
        ValueError: naming the argument: not one finite value for each of the same 2 or more prompts.
    """
    before_P, after_P = _one_per_prompt("before_P", before_P), _one_per_prompt("after_P", after_P)
    if len(before_P) != len(after_P):
        raise ValueError(f"after_P has {len(after_P)} prompts, before_P {len(before_P)}: pairs need the same prompts")
    if _whole("resamples", resamples) < 1:
        raise ValueError(f"resamples must be >= 1, got {resamples}")
    difference_P = after_P - before_P
    P, rng = len(difference_P), np.random.default_rng(seed)
    means = np.concatenate(  # in parts, so that the indices of all resamples never stand in memory at once
        [difference_P[rng.integers(0, P, (min(500, resamples - i), P))].mean(axis=1) for i in range(0, resamples, 500)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(difference_P.mean()), float(low), float(high))


def default_ks(n: int) -> list[int]:
    """1, 2, 4 ... up to n, and n itself."""
    n = _whole("n", n)
    if n < 1:
        raise ValueError(f"n must be >= 1, got {n}")
    ks = [1 << i for i in range(n.bit_length()) if 1 << i <= n]
    return ks if ks[-1] == n else [*ks, n]


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers: {error}") from error


def _matrix(name: str, values: Any) -> np.ndarray:
    array = _numbers(name, values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must have shape [prompts, samples] and not be empty, got {array.shape}")
    return array


def _one_per_prompt(name: str, values: Any) -> np.ndarray:
    array = _numbers(name, values)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{name} must be one value for each of at least 2 prompts, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity; leave prompts without a value out of both")
    return array


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
