"""Estimators that do not claim to follow the objective's gradient are pinned to what they follow instead."""

from __future__ import annotations

import re
from itertools import combinations, permutations
from math import comb
from pathlib import Path

import numpy as np
import pytest

from learner import group_advantages, strategy_value
from learner.estimators import Options
from learner.estimators.bon_paper import tilt
from learner.estimators.bon_sft import bon_sft_advantages
from tests.learner import tabular
from tests.learner.best_of_n_weights import g_minus, g_plus

QS = [0.02, 0.1, 0.3, 0.6, 0.9]
EXACT = ("loo", "loo1", "subset", "pkpo_loo")


def gain(q: float, n: int, target_k: int, **arguments) -> float:
    """Expected update / gradient of pass@k for a prompt of success rate q, without Monte Carlo.

    With binary rewards both are multiples of grad q: E[grad log pi | right] = grad q / q, else - grad q / (1 - q).
    """
    total = 0.0
    for c in range(n + 1):
        rewards = [1] * c + [0] * (n - c)
        advantages = group_advantages(rewards, **arguments)
        chance = comb(n, c) * q**c * (1 - q) ** (n - c)
        total += chance * (advantages[:c].sum() / q - advantages[c:].sum() / (1 - q))
    return total / (target_k * (1 - q) ** (target_k - 1))


def test_the_oracle_finds_no_bias_where_there_is_none() -> None:
    for estimator in EXACT:
        assert gain(0.3, 16, 4, strategy="pass_at_k", k=4, estimator=estimator) == pytest.approx(1, abs=1e-12)


def test_grpo_without_std_follows_the_mean_reward() -> None:
    """Relative to pass@4 it pushes hard prompts a quarter as much, and easy ones 234 times as much."""
    found = [gain(q, 16, 4, strategy="mean", k=1, estimator="grpo_no_std") for q in QS]
    np.testing.assert_allclose(found, [0.25, 0.32, 0.68, 3.7, 234], rtol=0.02)
    assert [gain(q, 16, 1, strategy="mean", k=1, estimator="grpo_no_std") for q in QS] == pytest.approx([15 / 16] * 5)


def test_grpo_reweights_prompts_by_their_std() -> None:
    """The same prompt is pushed 1.9 times as hard as the mean reward says at 0.6, and 3.5 times at 0.02."""
    found = [gain(q, 16, 1, strategy="mean", k=1, estimator="grpo") for q in QS]
    assert found == pytest.approx([3.489, 2.757, 2.026, 1.908, 2.757], rel=1e-3)
    assert found[1] == pytest.approx(found[4], rel=1e-9), "success and failure are treated alike"


def test_passk_training_counts_easy_prompts_more() -> None:
    found = [gain(q, 16, 4, strategy="pass_at_k", k=4, estimator="passk_training") for q in (0.02, 0.9)]
    assert found == pytest.approx([0.422, 4.441], rel=1e-3)


def test_passk_training_without_sigma_is_a_multiple_of_loo() -> None:
    rewards = [1, 1, 0, 0, 0, 1, 0, 0]
    arguments = dict(strategy="pass_at_k", k=3)
    rho = strategy_value(rewards, **arguments)
    found = group_advantages(rewards, estimator="passk_training", **arguments) * np.sqrt(rho * (1 - rho))
    np.testing.assert_allclose(found, (8 - 3) / (8 * 3) * group_advantages(rewards, **arguments), rtol=0, atol=1e-15)


def test_bon_rlb_p_with_the_groups_own_failure_rate_is_biased() -> None:
    plain = Options(p_fail_clip=0.0)
    for k, first, last in ((4, 0.83, 2.6), (8, 0.65, 100)):
        arguments = dict(strategy="pass_at_k", k=k, estimator="bon_rlb_p", options=plain)
        assert gain(0.02, 16, k, **arguments) == pytest.approx(first, rel=0.02)
        assert gain(0.9, 16, k, **arguments) == pytest.approx(last, rel=0.03)


def test_bon_rlb_with_the_groups_own_failure_rate_points_away_from_the_gradient() -> None:
    """All-fail groups get large positive weights for every sample: with + g- the expected update is reversed."""
    plus = [gain(q, 16, 4, strategy="pass_at_k", k=4, estimator="bon_rlb") for q in QS]
    assert plus == pytest.approx([-66.78, -27.50, -2.748, 0.143, 1.030], rel=2e-3)
    minus = [gain(q, 16, 4, strategy="pass_at_k", k=4, estimator="bon_rlb_minus") for q in QS]
    assert minus == pytest.approx([90.25, 42.82, 9.879, 4.138, 5.568], rel=2e-3)


@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_two_signs_of_g_minus(k: int, p: float) -> None:
    """With the true failure rate: plus is the gradient of pass@k, minus is (1 + p) / (1 - p) times it."""
    q = 1 - p
    right = (1 - p**k) / q * g_plus(p, k)  # a policy sample's ratio to the Best-of-N policy, times the paper's weight
    wrong = p ** (k - 1) * g_minus(p, k)
    truth = k * p ** (k - 1)
    assert q * (right / q) + p * (wrong / -p) == pytest.approx(right - wrong)
    assert right - wrong == pytest.approx(truth)
    assert right + wrong == pytest.approx(truth * (1 + p) / (1 - p))
    group = [0] * round(10 * p) + [1] * round(10 * q)
    for estimator, sign in (("bon_rlb", 1), ("bon_rlb_minus", -1)):
        found = group_advantages(group, strategy="pass_at_k", k=k, estimator=estimator, options=Options(0.0))
        assert found[-1] * 10 == pytest.approx(right) and found[0] * 10 == pytest.approx(sign * wrong)


@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_an_exact_form_with_negative_weights(k: int, p: float) -> None:
    """N p^N (1-p) / (1-p^N) on right, -N (1-p) on wrong samples of Best-of-N: the gradient, and the limit of `loo`."""
    q = 1 - p
    right = k * p**k * q / (1 - p**k) * (1 - p**k) / q  # weight times the sample's ratio to the Best-of-N policy
    wrong = -k * q * p ** (k - 1)
    assert right - wrong == pytest.approx(k * p ** (k - 1)) and q * right + p * wrong == pytest.approx(0)
    n = 20_000
    group = [1] * round(n * q) + [0] * round(n * p)
    found = n * group_advantages(group, strategy="pass_at_k", k=k)
    assert (found[0], found[-1]) == (pytest.approx(right, rel=0.02), pytest.approx(wrong, rel=0.02))
    positive = k * p ** (k - 1) * q / (1 - p**k) * (1 - p**k) / q
    assert positive == pytest.approx(k * p ** (k - 1)), "BoN-RLB(P) with the true failure rate is exact"


def test_pass_at_k_weighs_prompts_by_their_success_rate() -> None:
    """k (1-p)^(k-1) times the gradient of the success rate p: the numbers of docs/objectives.md."""
    assert 8 * (1 - 0.257) ** 7 == pytest.approx(1, abs=0.005) and 8 * (1 - 0.6) ** 7 == pytest.approx(0.013, abs=5e-4)
    for q in (0.257, 0.6):
        found = gain(q, 16, 1, strategy="pass_at_k", k=8)  # expected update / gradient of the success rate
        assert found == pytest.approx(8 * (1 - q) ** 7, rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_leave_two_out_is_loo_times_n_over_k(k: int) -> None:
    """MaxPO (arXiv 2606.06080): i and each other j are added in turn to the (k-1)-subsets of the remaining samples."""
    n, rng = 6, np.random.default_rng(k)
    for rewards, scores in (
        (rng.normal(size=n), rng.normal(size=n)),
        (rng.integers(0, 2, n).astype(float), rng.integers(0, 3, n).astype(float)),  # ties, verifier not the reward
    ):
        earned = tabular.best(rewards, scores)
        expected = np.zeros(n)
        for i, j in permutations(range(n), 2):
            rest = [m for m in range(n) if m not in (i, j)]
            subsets = list(combinations(rest, k - 1))
            expected[i] += np.mean([earned((*s, i)) - earned((*s, j)) for s in subsets]) / (n - 1)
        found = n / k * group_advantages(rewards, scores=scores, strategy="best_of_k", k=k)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
        assert abs(expected.sum()) < 1e-14


def test_the_plug_in_for_k_above_n_is_far_from_the_gradient() -> None:
    """k p^(k-1) with p from the other n - 1 samples, at n = 16 and k = 32: why k > n is refused."""
    n, k = 16, 32

    def factor(q: float) -> float:
        chances = [comb(n - 1, c) * q**c * (1 - q) ** (n - 1 - c) for c in range(n)]
        return sum(p * (1 - c / (n - 1)) ** (k - 1) for c, p in enumerate(chances)) / (1 - q) ** (k - 1)

    assert [factor(q) for q in (0.02, 0.1, 0.3)] == pytest.approx([1.43, 6.54, 609], rel=2e-3)
    with pytest.raises(ValueError, match="no unbiased estimate exists"):
        group_advantages([0, 1], strategy="pass_at_k", k=3)


def test_p_fail_is_clipped() -> None:
    all_wrong = group_advantages([0] * 8, strategy="pass_at_k", k=4, estimator="bon_rlb", options=Options(0.1))
    assert all_wrong == pytest.approx(np.full(8, 4 * 0.9**4 / 0.1 / 8))
    with pytest.raises(ValueError, match="p_fail_clip must be in"):
        Options(0.5)


def test_maxrl_is_the_gradient_of_the_truncated_log_likelihood() -> None:
    n = 5
    groups, probabilities = tabular.groups_of(n)
    advantages = group_advantages(tabular.BINARY[groups], strategy="mean", k=1, estimator="maxrl")
    earned = tabular.best(tabular.BINARY, tabular.BINARY)
    expected = sum(tabular.gradient(earned, j) / j for j in range(1, n))
    np.testing.assert_allclose(tabular.update(advantages, groups, probabilities), expected, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="rewards must be 0 or 1 for estimator 'maxrl'"):
        group_advantages([0.5, 1], strategy="mean", k=1, estimator="maxrl")


@pytest.mark.parametrize("k", [2, 4, 8, 16, 32, 64, 128])
def test_tilt_solves_its_equation(k: int) -> None:
    lam = tilt(k)
    left = ((lam - 1) * np.exp(lam) + 1) / np.expm1(lam) - np.log(np.expm1(lam) / lam)
    assert left == pytest.approx(np.log(k) - (k - 1) / k, abs=1e-10)
    assert tilt(1) == 0.0


@pytest.mark.parametrize("scores", [tabular.SCORES, tabular.TIED_SCORES])
def test_the_variational_form_is_the_gradient_of_the_tilted_objective(scores: np.ndarray) -> None:
    """On a group that has every answer in the policy's own proportion it equals the exact gradient of E_tilted R."""
    counts = np.array([3, 1, 4, 2])
    logits = np.log(counts / counts.sum())
    lam = tilt(4)

    def objective(theta: np.ndarray) -> float:
        pi = np.exp(theta) / np.exp(theta).sum()
        quantile = (scores[:, None] >= scores[None, :]) @ pi
        tilted = pi * np.exp(lam * quantile)
        return float(tilted @ tabular.CONTINUOUS / tilted.sum())

    step = 1e-5
    expected = [(objective(logits + e) - objective(logits - e)) / (2 * step) for e in step * np.eye(4)]
    group = np.repeat(np.arange(4), counts)
    advantages = group_advantages(
        tabular.CONTINUOUS[group], scores=scores[group], strategy="best_of_k", k=4, estimator="bon_rl_variational"
    )
    found = advantages @ (np.eye(4)[group] - counts / counts.sum())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("estimator", "strategy"),
    [("grpo", "pass_at_k"), ("maxrl", "pass_at_k"), ("bon_rlb", "mean"), ("rloo", "max_at_k")],
)
def test_methods_refuse_strategies_they_do_not_define(estimator: str, strategy: str) -> None:
    with pytest.raises(ValueError, match=f"estimator '{estimator}' is defined for strategy"):
        group_advantages([0, 1, 1], strategy=strategy, k=1, estimator=estimator)


def imitation_gain(q: float, n: int, k: int, expert: float) -> float:
    """Expected update of BoN-SFT's samples / the exact one, for scores of 0 and 1, both as multiples of grad q."""
    total, p = 0.0, 1 - q
    for c in range(n + 1):
        scores = np.array([1.0] * c + [0.0] * (n - c))
        advantages = bon_sft_advantages(scores[None], np.array([expert]), k, 0.01)[0]
        total += comb(n, c) * q**c * p ** (n - c) * (advantages[:c].sum() / q - advantages[c:].sum() / p)
    log_factor_by_p = 1 / (1 - p) - k * p ** (k - 1) / (1 - p**k) if expert else (k - 1) / p
    return total / -log_factor_by_p


def tilted_gain(q: float, k: int) -> float:
    """The gradient of the tilted policy's success rate / that of pass@k, for binary scores."""
    lam = tilt(k)

    def success(q: float) -> float:  # quantiles are 1 for right and 1 - q for wrong answers
        return q / (q + (1 - q) * np.exp(-lam * q))

    return (success(q + 1e-6) - success(q - 1e-6)) / 2e-6 / (k * (1 - q) ** (k - 1))


def pass_gain(estimator: str, n: int = 16) -> list[float]:
    return [gain(q, n, 4, strategy="pass_at_k", k=4, estimator=estimator) for q in QS]


TABLES = {
    "`bon_rlb` (+)": lambda: pass_gain("bon_rlb"),
    "`bon_rlb_minus` (−)": lambda: pass_gain("bon_rlb_minus"),
    "`loo`, `loo1`, `subset`, `pkpo_loo`": lambda: np.mean([pass_gain(name) for name in EXACT], axis=0),
    "n = 16": lambda: pass_gain("bon_rl_variational"),
    "n = 256": lambda: pass_gain("bon_rl_variational", 256),
    "n → ∞": lambda: [tilted_gain(q, 4) for q in QS],
    "N = 4, n = 16, expert right": lambda: [imitation_gain(q, 16, 4, 1.0) for q in QS],
    "N = 16, n = 16, expert right": lambda: [imitation_gain(q, 16, 16, 1.0) for q in QS],
    "N = 4 or 16, n = 16, expert wrong": lambda: [
        np.mean([imitation_gain(q, 16, k, 0.0) for k in (4, 16)]) for q in QS
    ],
    "N = 4, n = 256, expert right": lambda: [imitation_gain(q, 256, 4, 1.0) for q in QS],
}


def assert_as_printed(found: float, printed: str) -> None:
    decimals = len(printed.partition(".")[2])
    assert abs(found - float(printed.replace("−", "-"))) <= 0.501 * 10.0**-decimals, (found, printed)


def test_the_docs_page_states_the_numbers(repository: Path) -> None:
    """Every table by success rate in docs/objectives.md, row by row, to its last digit."""
    page = (repository / "docs" / "objectives.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \|" + r" ([−\d.]+) \|" * 5 + "$", page, re.MULTILINE)
    printed = {name: cells for name, *cells in rows if cells != [str(q) for q in QS]}
    assert printed.keys() == TABLES.keys()
    for name, cells in printed.items():
        for found, cell in zip(TABLES[name](), cells, strict=True):
            assert_as_printed(found, cell)


def test_the_docs_page_states_the_odds_of_the_tilt(repository: Path) -> None:
    """A ratio of weights is not yet the odds: multiply it by the policy's own odds."""
    page = (repository / "docs" / "objectives.md").read_text()
    text = page[page.index("**The tilt.**") :].partition("\n\n")[0].replace("\n", " ")
    number = r"(\d+\.\d+)"
    at = rf"{number} under Best-of-N and {number} under the tilt at p = {number}, and "
    at += rf"{number} and {number} at p = {number}"
    best, tilted, p, best_too, tilted_too, p_too = re.search(at, text).groups()
    for exact, approximate, fail in ((best, tilted, float(p)), (best_too, tilted_too, float(p_too))):
        assert_as_printed((1 - fail**32) / fail**32, exact)
        assert_as_printed((1 - fail) / fail * np.exp(tilt(32) * (1 - fail)), approximate)
