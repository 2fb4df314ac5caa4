"""The verifier that errs at known rates, as a reward of a run."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.frontier.simulated_verifier import accepted, corrected

RATES = dict(false_positive=0.05, false_negative=0.4)


def test_the_rates_are_those_that_were_asked_for() -> None:
    """Many ways to write a right and a wrong expression, over many prompts."""
    verdicts: dict[float, list[float]] = {0.0: [], 1.0: []}
    rewards: dict[float, list[float]] = {0.0: [], 1.0: []}
    for prompt, (a, b, c) in itertools.product(range(700), itertools.permutations((3, 5, 7))):
        arguments = (f"prompt {prompt}", f"{a}+{b}+{c}", [3, 5, 7], 15 if prompt % 2 else 16)
        parts = accepted(*arguments, **RATES)
        assert parts["correct"] == prompt % 2 and parts == accepted(*arguments, **RATES)
        verdicts[parts["correct"]].append(parts["verdict"])
        rewards[parts["correct"]].append(corrected(*arguments, **RATES)["verdict"])
    assert sum(verdicts[1.0]) / len(verdicts[1.0]) == pytest.approx(0.6, abs=0.04)
    assert sum(verdicts[0.0]) / len(verdicts[0.0]) == pytest.approx(0.05, abs=0.02)
    assert sum(rewards[1.0]) / len(rewards[1.0]) == pytest.approx(1.0, abs=0.08)
    assert sum(rewards[0.0]) / len(rewards[0.0]) == pytest.approx(0.0, abs=0.04)
