"""Imitation learning: the schedule, the batches, and the progress reports."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.batching import TrainingSequence
from learner.imitation import ImitationSettings, Progress, Reports, as_sequence, batches, cosine_rate


def examples(count: int) -> list[TrainingSequence]:
    return [as_sequence([1, 2], [3 if i % 4 else 0]) for i in range(count)]


@given(
    steps=st.integers(1, 200),
    warmup=st.integers(0, 50),
    final=st.floats(0.0, 1.0),
)
def test_the_rate_rises_then_falls_and_never_leaves_its_range(steps: int, warmup: int, final: float) -> None:
    settings = ImitationSettings(steps=steps, warmup_steps=warmup, final_fraction=final, learning_rate=2.0)
    rates = [cosine_rate(step, settings) for step in range(steps)]
    assert all(0.0 <= rate <= 2.0 + 1e-12 for rate in rates)
    warmup = min(warmup, steps // 4)  # a short run must not end in its warm-up
    assert all(a < b for a, b in itertools.pairwise(rates[:warmup]))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(rates[warmup:]))


def test_the_ends_of_the_schedule() -> None:
    settings = ImitationSettings(steps=101, warmup_steps=10, learning_rate=1.0, final_fraction=0.1)
    assert cosine_rate(0, settings) == pytest.approx(0.1)
    assert cosine_rate(9, settings) == cosine_rate(10, settings) == 1.0
    assert cosine_rate(55, settings) == pytest.approx(0.55)  # half way down from 1 to 0.1
    assert cosine_rate(100, settings) == pytest.approx(0.1)


def test_batches_are_consecutive_and_full() -> None:
    source = examples(10)
    assert list(batches(source, 4)) == [source[:4], source[4:8]]
    endless = batches(itertools.cycle(source), 4)
    assert len(next(endless)) == 4


def test_an_example_without_prompt_or_response_is_refused() -> None:
    for prompt, response in (([], [1]), ([1], [])):
        with pytest.raises(ValueError, match="at least one prompt token and one response token"):
            as_sequence(prompt, response)
    sequence = as_sequence([1, 2], [3])
    assert sequence.prompt_tokens.dtype == sequence.response_tokens.dtype == np.int32
    assert not sequence.fresh


class Clock:
    """Each reading is `step_s` after the one before."""

    def __init__(self, step_s: float) -> None:
        self._step_s, self._now = step_s, 0.0

    def __call__(self) -> float:
        self._now += self._step_s
        return self._now


def reported(settings: ImitationSettings, step_s: float) -> list[Progress]:
    reports = Reports(settings, Clock(step_s))
    found = (reports.add(step, loss=float(step)) for step in range(settings.steps))
    return [progress for progress in found if progress is not None]


def test_a_report_has_the_mean_loss_and_the_speed_since_the_last_one() -> None:
    settings = ImitationSettings(steps=25, batch_size=8, warmup_steps=2, learning_rate=2.0, report_every=10)
    reports = reported(settings, step_s=0.5)
    assert [report.step for report in reports] == [10, 20, 25]
    assert [report.loss for report in reports] == [4.5, 14.5, 22.0]  # means of 0 to 9, 10 to 19, 20 to 24
    assert [report.examples_per_second for report in reports] == [16.0] * 3  # 8 examples in 0.5 s
    assert [report.seconds for report in reports] == [5.0, 10.0, 12.5]
    assert reports[1].learning_rate == cosine_rate(19, settings)


def test_slow_steps_are_reported_before_many_are_done() -> None:
    settings = ImitationSettings(steps=6, batch_size=4, report_every=50, report_seconds=30.0)
    assert [report.step for report in reported(settings, step_s=16.0)] == [2, 4, 6]
