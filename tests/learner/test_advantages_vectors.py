"""Advantages and values against vectors from an independent source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from learner import group_advantages, strategy_value
from learner.estimators import Options
from learner.estimators.bon_paper import tilt
from tests.learner.best_of_n_weights import g_minus, g_plus

# (rewards, k, U_k, advantages by estimator); every number was checked by enumerating subsets elsewhere.
VECTORS = [
    (
        "01001000",
        2,
        0.4642857143,
        {
            "loo": [
                -0.0595238095,
                0.1785714286,
                -0.0595238095,
                -0.0595238095,
                0.1785714286,
                -0.0595238095,
                -0.0595238095,
                -0.0595238095,
            ],
            "loo1": [0, 0.2142857143, 0, 0, 0.2142857143, 0, 0, 0],
        },
    ),
    (
        "01001000",
        4,
        0.7857142857,
        {
            "loo": [
                -0.0714285714,
                0.2142857143,
                -0.0714285714,
                -0.0714285714,
                0.2142857143,
                -0.0714285714,
                -0.0714285714,
                -0.0714285714,
            ],
            "loo1": [0, 0.2857142857, 0, 0, 0.2857142857, 0, 0, 0],
        },
    ),
    ("01001000", 8, 1.0, {"loo1": [0] * 8}),
    ("01000000", 8, 1.0, {"loo1": [0, 1, 0, 0, 0, 0, 0, 0]}),
]


@pytest.mark.parametrize(("bits", "k", "value", "advantages"), VECTORS)
def test_literal_vectors(bits: str, k: int, value: float, advantages: dict[str, list[float]]) -> None:
    rewards = [int(b) for b in bits]
    assert strategy_value(rewards, strategy="pass_at_k", k=k) == pytest.approx(value, abs=1e-9)
    for estimator, expected in advantages.items():
        found = group_advantages(rewards, strategy="pass_at_k", k=k, estimator=estimator)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_mean_vector() -> None:
    found = group_advantages([0.1, 0.7, 0.3, -0.2, 1.1], strategy="mean", k=1)
    np.testing.assert_allclose(found, (np.array([0.1, 0.7, 0.3, -0.2, 1.1]) - 0.4) / 4, rtol=0, atol=1e-15)


@pytest.fixture(scope="module")
def vectors() -> dict:
    """The project's own test vectors, which were written independently of this code.

    Each was asserted when the file was made: against subset enumeration, exact rationals (pass@k, g weights) or the
    root equation (lambda). `adv_none_first_order` and `adv_passk_training_sigma` are values of published formulas.
    """
    return json.loads((Path(__file__).parent / "vectors.json").read_text())


ESTIMATOR_OF = {"adv_none": "subset", "adv_loo": "loo", "adv_loo1": "loo1", "adv_pkpo_loo": "pkpo_loo"}


def test_group_vectors(vectors: dict) -> None:
    checked = 0
    for entry in vectors["group"]:
        rewards, k = entry["reward"], entry["N"]
        binary = set(rewards) <= {0, 1}
        strategies = ["best_of_k"] if entry["score"] else ["max_at_k"] + ["pass_at_k"] * binary + ["mean"] * (k == 1)
        for strategy in strategies:
            arguments = dict(scores=entry["score"], strategy=strategy, k=k)
            assert strategy_value(rewards, **arguments) == pytest.approx(entry["U"], abs=1e-9)
            for key in [key for key in ESTIMATOR_OF if entry.get(key) is not None]:
                found = group_advantages(rewards, estimator=ESTIMATOR_OF[key], **arguments)
                np.testing.assert_allclose(found, entry[key], rtol=0, atol=2e-10)
                checked += 1
            # The group's mean as the baseline only scales `loo`, by 1 - k/n, and is 0 at k = n.
            n = len(rewards)
            scaled = (1 - k / n) * group_advantages(rewards, **arguments) if k < n else np.zeros(n)
            np.testing.assert_allclose(scaled, entry["adv_mean"], rtol=0, atol=2e-10)
        if entry.get("adv_passk_training_sigma") is not None:
            found = group_advantages(rewards, strategy="pass_at_k", k=k, estimator="passk_training")
            np.testing.assert_allclose(found * len(rewards), entry["adv_passk_training_sigma"], rtol=0, atol=2e-9)
            checked += 1
    assert checked >= 130


def test_vote_vectors(vectors: dict) -> None:
    for entry in vectors["maj"]:
        votes = dict(answers=entry["answers"], correct=entry["correct"], strategy="majority_at_k", k=entry["k"])
        rewards = [0] * len(entry["answers"])
        assert strategy_value(rewards, **votes) == pytest.approx(entry["U"], abs=1e-9)
        for key in ESTIMATOR_OF.keys() & entry.keys():
            found = group_advantages(rewards, estimator=ESTIMATOR_OF[key], **votes)
            np.testing.assert_allclose(found, entry[key], rtol=0, atol=2e-10)


def test_metric_vectors(vectors: dict) -> None:
    for entry in vectors["metrics"]:
        k = entry["k"]
        if entry["metric"] == "pass@k":
            rewards = [1] * entry["c"] + [0] * (entry["n"] - entry["c"])
            found = strategy_value(rewards, strategy="pass_at_k", k=k)
        elif entry["metric"] == "bon@k":
            found = strategy_value(entry["reward"], scores=entry["score"], strategy="best_of_k", k=k)
        else:
            answers = [str(i) for i, count in enumerate(entry["counts"]) for _ in range(count)]
            answers += [None] * entry["invalid"]
            right = str(entry["correct"])
            found = strategy_value([0] * len(answers), answers=answers, correct=right, strategy="majority_at_k", k=k)
        assert found == pytest.approx(entry["value"], abs=1e-9), entry


def test_off_policy_vectors(vectors: dict) -> None:
    for entry in vectors["offpolicy"]:
        for key, estimator in (("adv_none_exact", "subset"), ("adv_loo1_exact", "loo1")):
            found = group_advantages(
                entry["reward"], ratios=entry["rho"], strategy="max_at_k", k=entry["k"], estimator=estimator
            )
            np.testing.assert_allclose(found, entry[key], rtol=0, atol=1e-6)
        # The published first-order form is the exact one's linear part in rho - 1; farther off it drifts.
        deviation, step = np.array(entry["rho"]) - 1, 1e-4
        steps = (0.0, step, -step)
        at, above, below = (
            group_advantages(
                entry["reward"], ratios=1 + s * deviation, strategy="max_at_k", k=entry["k"], estimator="subset"
            )
            for s in steps
        )
        np.testing.assert_allclose(at + (above - below) / (2 * step), entry["adv_none_first_order"], rtol=0, atol=1e-6)


def test_paper_vectors(vectors: dict) -> None:
    for entry in vectors["lambda"]:
        assert tilt(entry["N"]) == pytest.approx(entry["lambda"], abs=1e-7)
    for entry in vectors["rlb"]:
        p, k = entry["p_fail"], entry["N"]
        assert g_plus(p, k) == pytest.approx(entry["g_plus"], rel=1e-9)
        assert g_minus(p, k) == pytest.approx(entry["g_minus"], rel=1e-9)
        assert g_plus(p, k) * (1 - p) == pytest.approx(entry["gbar_plus"], rel=1e-9)
        group = [1] * round(100 * (1 - p)) + [0] * round(100 * p)  # its own failure rate is p
        found = group_advantages(group, strategy="pass_at_k", k=k, estimator="bon_rlb_p", options=Options(0.0))
        assert found[0] * 100 == pytest.approx(entry["pi_weight_N_p^(N-1)"], rel=1e-9)
