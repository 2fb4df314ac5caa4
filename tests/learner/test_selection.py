"""Prompts chosen by earlier results: exact probabilities, and importance weights that leave no bias."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.allocation import ExpectedNoise
from learner.objective import Objective
from learner.objective_settings import ObjectiveSettings
from learner.selection import UNITS, selection_units, selection_weights, systematic_sample
from tests.learner.test_allocation import expected_update

NORMS = st.lists(st.floats(0, 100), min_size=1, max_size=8)


def samples_of(units: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Every sample with its probability: the sample is constant between the starts at which a candidate ends."""
    edges = np.unique([0, UNITS, *(np.cumsum(units) % UNITS)])
    for first, end in zip(edges[:-1], edges[1:], strict=True):
        chosen = systematic_sample(units, int(first))
        np.testing.assert_array_equal(chosen, systematic_sample(units, int(end) - 1))
        yield (end - first) / UNITS, chosen


@given(NORMS, st.data(), st.floats(1, 10))
def test_probabilities_follow_the_norms_within_their_bounds(norms: list[float], data, max_weight: float) -> None:
    chosen = data.draw(st.integers(1, len(norms)))
    units = selection_units(np.array(norms), chosen, max_weight)
    assert units.sum() == chosen * UNITS and units.max() <= UNITS
    assert (selection_weights(units) <= max_weight * (1 + 1e-6)).all()
    least, share = chosen / (len(norms) * max_weight), units / UNITS
    inner = (share > least * (1 + 1e-6)) & (share < 1 - 1e-6)
    if max(norms):
        floor = 1e-6 * max(norms)
        ratios = share[inner] / np.maximum(np.array(norms)[inner], floor)
        np.testing.assert_allclose(ratios, ratios[:1].repeat(len(ratios)), rtol=1e-5)


@given(NORMS, st.data(), st.floats(1, 10))
def test_every_candidate_is_chosen_with_exactly_its_probability(norms: list[float], data, max_weight: float) -> None:
    chosen = data.draw(st.integers(1, len(norms)))
    units = selection_units(np.array(norms), chosen, max_weight)
    found = np.zeros(len(norms))
    for chance, sample in samples_of(units):
        assert len(sample) == chosen == len(set(sample.tolist()))
        found[sample] += chance
    np.testing.assert_allclose(found, units / UNITS, rtol=1e-12)


def test_equal_norms_give_equal_chances_and_weights_of_one() -> None:
    for norms in (np.zeros(6), np.full(6, 0.3)):
        units = selection_units(norms, 3, 4.0)
        assert units.tolist() == [UNITS // 2] * 6 and selection_weights(units).tolist() == [1.0] * 6
    assert selection_units(np.array([0.0, 1.0, 2.0]), 3, 4.0).tolist() == [UNITS] * 3, "all are needed"


@pytest.mark.parametrize("k", [1, 2])
def test_two_epochs_with_chosen_prompts_follow_the_exact_gradient(k: int) -> None:
    """Every outcome of the first epoch decides which prompts the second trains; its expected update stays exact."""
    start, n = (0.1, 0.5, 0.95), 3
    expected = ExpectedNoise(Objective(ObjectiveSettings(strategy="pass_at_k", k=k)), k, n, n)
    found = wanted = unweighted = 0.0
    seen = set()
    for counts in product(range(n + 1), repeat=3):
        chance = np.prod([comb(n, c) * p**c * (1 - p) ** (n - c) for c, p in zip(counts, start, strict=True)])
        norms = np.sqrt([expected(0.5 + c, 0.5 + n - c)[0] for c in counts])
        units = selection_units(norms, 2, max_weight=4.0)
        weights = selection_weights(units)
        seen.add(units.argmax())
        trained = [min(p + 0.015 * c, 0.99) for c, p in zip(counts, start, strict=True)]  # from the same groups
        for share, sample in samples_of(units):
            updates = np.array([expected_update(trained[i], n, k) for i in sample])
            found += chance * share * (weights[sample] * updates).mean()
            unweighted += chance * share * updates.mean()
        wanted += chance * sum(k * (1 - p) ** (k - 1) * p * (1 - p) for p in trained) / 3
    assert len(seen) > 1, "the choice differs with the outcomes"
    assert found == pytest.approx(wanted, rel=1e-9)
    assert abs(unweighted - wanted) > 0.01 * wanted, "without the weights there is a bias"


def test_refilling_groups_without_signal_only_rescales_the_gradient() -> None:
    """Other systems sample prompts until P groups have signal. The dropped groups had no gradient, so the expected
    update of a group that is kept is the exact one / the share of groups with signal."""
    n, prompts = 3, (0.1, 0.5, 0.95)
    signal = np.array([1 - p**n - (1 - p) ** n for p in prompts])  # the chance of a mixed group
    kept = [expected_update(p, n, 1, used=lambda correct: 0 < correct < n) for p in prompts]
    found = np.sum(kept) / np.sum(signal)  # prompts are kept in proportion to `signal`
    np.testing.assert_allclose(found, np.mean([p * (1 - p) for p in prompts]) / signal.mean())
