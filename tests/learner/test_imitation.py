"""Imitation learning: the schedule, the batches, and the loop around an engine."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.batching import TrainingSequence
from learner.imitation import ImitationSettings, Progress, as_sequence, batches, cosine_rate, run_sft


class SmallEngine:
    """An engine in miniature: learns the frequency of each response token, whatever the prompt."""

    def __init__(self) -> None:
        self.logits = torch.zeros(4, requires_grad=True)
        self.calls: list[tuple[int, float, int]] = []
        self.exported: list[Path] = []

    def sft_step(self, sequences: list[TrainingSequence], step: int, *, rate: float) -> float:
        self.calls.append((step, rate, len(sequences)))
        tokens = torch.from_numpy(np.concatenate([s.response_tokens for s in sequences])).long()
        loss = -self.logits.log_softmax(-1)[tokens].mean()
        (gradient,) = torch.autograd.grad(loss, self.logits)
        with torch.no_grad():
            self.logits -= rate * gradient
        return loss.item()

    def export_huggingface(self, directory: str | Path) -> None:
        self.exported.append(Path(directory))


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


def test_the_loop_learns_reports_and_exports_once_at_the_end(tmp_path: Path) -> None:
    engine, reports = SmallEngine(), list[Progress]()
    settings = ImitationSettings(steps=25, batch_size=8, warmup_steps=2, learning_rate=2.0, report_every=10)
    final = run_sft(engine, examples(200), settings, output=tmp_path / "out", report=reports.append)
    assert [step for step, _, _ in engine.calls] == list(range(25))
    assert [rate for _, rate, _ in engine.calls] == [cosine_rate(step, settings) for step in range(25)]
    assert {size for _, _, size in engine.calls} == {8}
    assert [report.step for report in reports] == [10, 20, 25]
    assert reports[0].loss > reports[-1].loss == final
    # Three quarters of the responses are token 3 and one quarter token 0: the loss ends near their entropy.
    assert final == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=0.05)
    assert engine.exported == [tmp_path / "out"]


def test_slow_steps_are_reported_before_many_are_done(tmp_path: Path) -> None:
    reports = list[Progress]()
    settings = ImitationSettings(steps=3, batch_size=4, report_seconds=1e-9)
    run_sft(SmallEngine(), examples(12), settings, output=tmp_path, report=reports.append)
    assert [report.step for report in reports] == [1, 2, 3]


def test_too_few_examples_end_with_the_remedy_and_no_export(tmp_path: Path) -> None:
    engine = SmallEngine()
    with pytest.raises(ValueError, match="ran out after 2 steps of 4; lower the number of steps"):
        run_sft(engine, examples(11), ImitationSettings(steps=3, batch_size=4), output=tmp_path)
    assert not engine.exported
