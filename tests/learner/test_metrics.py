"""pass@k: exact values, and intervals that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest

from learner import default_ks, pass_at_k, pass_at_k_curve


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [
        (10, 3, 1, 0.3),
        (10, 3, 5, 0.916666666667),
        (16, 1, 8, 0.5),
        (64, 2, 32, 0.753968253968),
        (256, 5, 32, 0.489981551219),
        (200, 0, 10, 0.0),
        (20, 18, 4, 1.0),
        (1024, 1, 256, 0.25),
        (32, 1, 32, 1.0),
    ],
)
def test_values(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"), [((4, 5, 1), "c must"), ((4, 1, 5), "k must"), ((4, 1, 0), "k must")]
)
def test_bad_arguments(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_at_k(*arguments)


def test_curve() -> None:
    correct = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=bool)
    curve = pass_at_k_curve(correct)
    assert [p.k for p in curve] == [1, 2, 4]
    assert [p.value for p in curve] == pytest.approx([1.25 / 3, 0.5, 2 / 3])
    spread = np.std([0.25, 1, 0], ddof=1) / np.sqrt(3)
    assert curve[0].standard_error == pytest.approx(spread)
    assert (curve[0].low, curve[0].high) == pytest.approx((0.0, min(1, 1.25 / 3 + 1.959964 * spread)), abs=1e-6)
    assert pass_at_k_curve(correct, [3])[0].k == 3
    with pytest.raises(ValueError, match="k must"):
        pass_at_k_curve(correct, [8])
    with pytest.raises(ValueError, match="correct_PN"):
        pass_at_k_curve(correct[0])
    with pytest.raises(ValueError, match="0/1"):
        pass_at_k_curve(correct * 0.5)


def test_one_prompt_has_no_standard_error() -> None:
    point = pass_at_k_curve(np.array([[1, 0]]))[0]
    assert np.isnan(point.standard_error) and (point.low, point.high) == (0.0, 1.0)


def test_default_ks() -> None:
    assert default_ks(32) == [1, 2, 4, 8, 16, 32] and default_ks(12) == [1, 2, 4, 8, 12] and default_ks(1) == [1]
    with pytest.raises(ValueError, match="n must"):
        default_ks(0)


def test_intervals_cover_the_truth() -> None:
    """95 % intervals over prompts hold the true pass@4 in about 95 % of repeated experiments."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 20001)[1:-1]
    density = grid * (1 - grid) ** 3
    truth = ((1 - (1 - grid) ** 4) * density).sum() / density.sum()
    hits = 0
    for _ in range(400):
        chances_P = rng.beta(2, 4, size=128)
        point = pass_at_k_curve(rng.random((128, 16)) < chances_P[:, None], [4])[0]
        hits += point.low <= truth <= point.high
    assert 0.92 <= hits / 400 <= 0.98
