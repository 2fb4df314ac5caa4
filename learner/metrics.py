"""Unbiased evaluation curves from one pool of n samples per prompt, with standard errors over prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf, nan, sqrt
from typing import Any, NamedTuple

import numpy as np

from learner.strategies import STRATEGIES, as_numbers, look_up, strategy_value
from learner.strategies.pass_at_k import pass_at_k_exact

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal
ROUNDING = 1e-9  # relative distance beyond the range of the rewards that counts as rounding error


class Bounds(NamedTuple):
    """The smallest and the largest value that a prompt can have.

    known: they hold for prompts that were not evaluated too, as 0 and 1 do for a probability. Otherwise they are the
    smallest and the largest reward of the pool.
    """

    least: float
    greatest: float
    known: bool


PROBABILITY = Bounds(0.0, 1.0, known=True)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A strategy's value with k answers over prompts: mean, its standard error, and a 95 % interval.

    The interval is the normal one, mean ± 1.96 standard errors, except near the smallest or largest possible value: see
    `probability_interval`. values_P: the value of each prompt, for paired comparisons. bounds: of these values; None if
    there are none, as for a strategy whose value is a sum of rewards.
    """

    k: int
    value: float
    standard_error: float
    low: float
    high: float
    values_P: np.ndarray = field(repr=False, compare=False)
    bounds: Bounds | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference of two policies, or of several runs of each, on the same prompts, with a 95 % interval."""

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


def strategy_curve(
    rewards_PN: np.ndarray,
    ks: Iterable[int] | None = None,
    *,
    strategy: str,
    scores: Any = None,
    answers: Any = None,
    correct: Any = None,
    responses: Any = None,
) -> list[CurvePoint]:
    """The curve of any strategy over P prompts with n samples each; arguments as in `strategy_value`.

    Default ks: 1, 2, 4 .. n, or the only k of the strategy.

    The standard error is over prompts (samples of one prompt are already averaged); it is NaN for a single prompt. The
    value is a probability if the rewards are 0 or 1 or if answers vote; otherwise the smallest and the largest reward
    of the pool take the place of 0 and 1, so that the interval scales with the rewards.

    Raises:
        ValueError: naming the argument: rewards not [prompts, samples], a k that is no whole number of 1..n.
    """
    rewards_PN = _rewards("rewards_PN", rewards_PN)
    found, n = look_up("strategy", strategy, STRATEGIES), rewards_PN.shape[1]
    probability = "correct" in found.required_inputs or bool(np.isin(rewards_PN, (0, 1)).all())
    bounds = PROBABILITY if probability else _reward_range(rewards_PN)
    if ks is None:
        ks = default_ks(n) if found.only_k is None else [found.only_k]
    points = []
    for k in _ks(ks):
        if not 1 <= k <= n:
            raise ValueError(f"k must be in 1..n = {n}, got {k}: no unbiased estimate exists beyond n")
        values_P = strategy_value(
            rewards_PN, scores=scores, answers=answers, correct=correct, responses=responses, strategy=strategy, k=k
        )
        points.append(_point(k, values_P, bounds))
    return points


def mean_probability(values_P: np.ndarray) -> CurvePoint:
    """The mean of P probabilities, one per prompt, with the interval of a curve."""
    return _point(1, np.asarray(values_P, np.float64), PROBABILITY)


def of_prompts(point: CurvePoint, prompts: np.ndarray) -> CurvePoint:
    """The point over some of its prompts (indices int[m])."""
    return with_values(point, point.values_P[prompts])


def with_values(point: CurvePoint, values_P: np.ndarray) -> CurvePoint:
    """The point that these values of prompts give."""
    return _point(point.k, values_P, point.bounds)


def weighted_sum(points: Iterable[tuple[float, CurvePoint]]) -> CurvePoint:
    """The weighted sum of points over the same prompts, as for a mixture of strategies.

    Its bounds are the sums of theirs. `k` of the result is the largest of the points.
    """
    pairs = list(points)
    values_P = np.sum([weight * point.values_P for weight, point in pairs], axis=0)
    scaled = [(weight, point.bounds) for weight, point in pairs if point.bounds is not None]
    bounds = None
    if len(scaled) == len(pairs):
        least, greatest = sum(w * b.least for w, b in scaled), sum(w * b.greatest for w, b in scaled)
        bounds = Bounds(least, greatest, known=all(b.known for _, b in scaled))
    return _point(max(point.k for _, point in pairs), values_P, bounds)


def _reward_range(rewards_PN: np.ndarray) -> Bounds:
    """Smallest and largest reward; if all are equal, 0 replaces one of them so that the range is not empty."""
    least, greatest = float(rewards_PN.min()), float(rewards_PN.max())
    if least == greatest:
        least, greatest = min(least, 0.0), max(greatest, 0.0)
    return Bounds(least, greatest, known=False)


def _point(k: int, values_P: np.ndarray, bounds: Bounds | None) -> CurvePoint:
    value = float(values_P.mean())
    if len(values_P) == 1:
        low, high = bounds[:2] if bounds is not None and bounds.known else (-inf, inf)
        return CurvePoint(k, value, nan, low, high, values_P, bounds)
    error = float(values_P.std(ddof=1)) / sqrt(len(values_P))
    if bounds is not None:
        width = bounds.greatest - bounds.least
        share_P = (values_P - bounds.least) / width
        if (share_P >= -ROUNDING).all() and (share_P <= 1 + ROUNDING).all():
            low, high = (bounds.least + width * share for share in probability_interval(share_P.clip(0.0, 1.0)))
            return CurvePoint(k, value, error, low, high, values_P, bounds)
    # A strategy of sums or costs has values beyond the rewards.
    return CurvePoint(k, value, error, value - Z_95 * error, value + Z_95 * error, values_P)


def probability_interval(values_P: np.ndarray) -> tuple[float, float]:
    """A 95 % interval for the mean of P >= 2 values in [0, 1], one per prompt, that does not collapse near 0 and 1.

    Wilson's interval (E. B. Wilson, JASA 22, 1927) for P / d prompts. The dispersion d = s^2 / (m (1 - m)) is 1 if
    every prompt is always right or always wrong, and near 0 if all prompts are alike. It is shrunk towards 1 with the
    weight (z^2 / (J + z^2))^2, where J = (sum x)^2 / sum x^2 is the effective number of prompts on the rarer side (x
    the values, or one minus them): if they are few, the sample variance underestimates what unseen prompts would add.
    Without shrinkage, 256 prompts whose pass@64 is 0.997 get an interval that covers the truth in 76 % of experiments.
    """
    P, mean, z2 = len(values_P), float(values_P.mean()), Z_95**2
    rarer_P = values_P if mean <= 0.5 else 1.0 - values_P
    squares, spread = float((rarer_P**2).sum()), mean * (1.0 - mean)
    if squares == 0.0 or spread <= 0.0:
        dispersion = 1.0
    else:
        measured = min(float(values_P.var(ddof=1)) / spread, 1.0)
        rare_prompts = float(rarer_P.sum()) ** 2 / squares
        dispersion = measured + (1.0 - measured) * (z2 / (rare_prompts + z2)) ** 2
    share = z2 * dispersion / P  # z^2 / effective number of prompts
    middle, half = mean + share / 2, sqrt(spread * share + share**2 / 4)
    return max(0.0, (middle - half) / (1 + share)), min(1.0, (middle + half) / (1 + share))


def paired_difference(before_P: Any, after_P: Any, *, resamples: int = 10_000, seed: int = 0) -> Difference:
    """after - before over the same P prompts: mean, and the percentile interval of a bootstrap over prompts.

    Resampling prompts keeps the pairs together, so the difficulty of the prompts cancels and the interval is
    narrower than that of two separate curves. If only a few prompts differ, as near pass@k = 1, a bootstrap interval is
    too narrow (at pass@k = 0.997 it covers the truth in 0.66 of experiments), and no difference at all gives [0, 0].

    Raises:
        ValueError: naming the argument that is not one finite value for each of the same 2 or more prompts.
    """
    before_P, after_P = _one_per_prompt("before_P", before_P), _one_per_prompt("after_P", after_P)
    if len(before_P) != len(after_P):
        raise ValueError(f"after_P has {len(after_P)} prompts, before_P {len(before_P)}: pairs need the same prompts")
    return _bootstrap(after_P - before_P, resamples, seed)


def paired_difference_of_runs(before_SP: Any, after_SP: Any) -> Difference:
    """after - before of S training runs over the same P prompts: mean and t interval over runs and prompts.

    The S x P differences are a crossed design with random effects of run and prompt. The variance of the mean is
    (MS_runs + MS_prompts - MS_rest) / (S P), at least MS_prompts / (S P), with the degrees of freedom of F. E.
    Satterthwaite (Biometrics Bulletin 2, 1946). ``benchmarks/frontier/power.py`` simulates for
    a measured spread how often the interval covers the truth.

    Args:
        before_SP, after_SP: the value of each prompt in each run, [S, P]. Runs at the same index (the same seed) are
            pairs; a single run (S = 1, as for the base model) is compared with all runs of the other. With a single
            run of both, the interval covers other prompts only, not repeated training.

    Raises:
        ValueError: naming the argument that is not [S, P] finite values, has other prompts or another number of runs.
    """
    difference_SP = _difference_of_runs(before_SP, after_SP)
    return Difference(*student_t_interval(float(difference_SP.mean()), *_crossed_error(difference_SP)))


def paired_p_value(before_SP: Any, after_SP: Any) -> float:
    """Two-sided p value of no difference, by the t statistic of `paired_difference_of_runs`; 1 if nothing differs."""
    from scipy.special import stdtr  # here, because it takes longer to import than all else

    difference_SP = _difference_of_runs(before_SP, after_SP)
    value, (error, freedom) = abs(float(difference_SP.mean())), _crossed_error(difference_SP)
    if error == 0.0:
        return float(value == 0.0)
    return 2.0 * float(stdtr(freedom, -value / error))


def _difference_of_runs(before_SP: Any, after_SP: Any) -> np.ndarray:
    before_SP, after_SP = _runs_by_prompt("before_SP", before_SP), _runs_by_prompt("after_SP", after_SP)
    (S, P), (other, prompts) = before_SP.shape, after_SP.shape
    if P != prompts:
        raise ValueError(f"after_SP has {prompts} prompts, before_SP {P}: pairs need the same prompts")
    if S != other and 1 not in (S, other):
        raise ValueError(f"after_SP has {other} runs, before_SP {S}: pass the same number of both, or a single one")
    return after_SP - before_SP


def student_t_interval(value: float, error: float, freedom: float) -> tuple[float, float, float]:
    """The value and its 95 % interval by Student's t with this standard error and degrees of freedom."""
    from scipy.special import stdtrit  # here, because it takes longer to import than all else

    half = float(stdtrit(freedom, 0.975)) * error
    return value, value - half, value + half


def _crossed_error(values_SP: np.ndarray) -> tuple[float, float]:
    """Standard error of the mean of [runs, prompts] and its degrees of freedom."""
    S, P = values_SP.shape
    prompts_P = values_SP.mean(axis=0)
    by_prompt = S * float(prompts_P.var(ddof=1))
    if S == 1:
        return sqrt(by_prompt / P), P - 1
    runs_S1 = values_SP.mean(axis=1, keepdims=True)
    by_run = P * float(runs_S1.var(ddof=1))
    rest_SP = values_SP - prompts_P - runs_S1 + values_SP.mean()
    rest = float((rest_SP**2).sum()) / ((S - 1) * (P - 1))
    total = max(by_run + by_prompt - rest, by_prompt)
    squares = by_run**2 / (S - 1) + by_prompt**2 / (P - 1) + rest**2 / ((S - 1) * (P - 1))
    return sqrt(total / (S * P)), total**2 / squares if squares > 0 else float(P - 1)


def _bootstrap(difference_P: np.ndarray, resamples: int, seed: int) -> Difference:
    if _whole("resamples", resamples) < 1:
        raise ValueError(f"resamples must be >= 1, got {resamples}")
    P, rng, means = len(difference_P), np.random.default_rng(seed), []
    for done in range(0, resamples, 500):  # in parts, to bound memory
        means.append(difference_P[rng.integers(0, P, (min(500, resamples - done), P))].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
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


def _ks(ks: Any) -> list[int]:
    if not isinstance(ks, Iterable):
        raise ValueError(f"ks must be whole numbers, got {ks!r}")
    return [_whole("k", k) for k in ks]


def _rewards(name: str, values: Any) -> np.ndarray:
    array = as_numbers(name, values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must have shape [prompts, samples] and not be empty, got {array.shape}")
    return array


def _one_per_prompt(name: str, values: Any) -> np.ndarray:
    array = as_numbers(name, values)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{name} must be one value for each of at least 2 prompts, got shape {array.shape}")
    return _finite(name, array)


def _runs_by_prompt(name: str, values: Any) -> np.ndarray:
    array = as_numbers(name, values)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise ValueError(f"{name} must have shape [runs, prompts] with at least 2 prompts, got {array.shape}")
    return _finite(name, array)


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity; remove prompts without a value from both")
    return array
