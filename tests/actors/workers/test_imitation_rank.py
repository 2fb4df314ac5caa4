"""A rank of `bonrl sft`: the examples that reach it, and the learning rate of each step."""

from __future__ import annotations

from typing import Any

import pytest

from actors.workers.imitation_rank import EXAMPLE_SCHEMA, ImitationRank, as_examples, as_record_batch
from learner.batching import TrainingSequence
from learner.imitation import ImitationSettings, as_sequence, cosine_rate

EXAMPLES = [as_sequence([1, 2, 3], [4]), as_sequence([5], [6, 7])]


def tokens(examples: list[TrainingSequence]) -> list[tuple[list[int], list[int]]]:
    return [(one.prompt_tokens.tolist(), one.response_tokens.tolist()) for one in examples]


def test_examples_travel_as_arrow() -> None:
    batch = as_record_batch(EXAMPLES)
    assert batch.schema == EXAMPLE_SCHEMA and batch.num_rows == 2
    assert tokens(as_examples(batch)) == tokens(EXAMPLES)
    assert not as_examples(batch)[0].fresh


class Engine:
    """Notes what the rank asks of its engine."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def accumulate_imitation(self, sequences: list[TrainingSequence], rate: float) -> dict[str, float]:
        self.asked.append((tokens(sequences), rate))
        return {"loss": 1.5}

    def update(self, figures: dict[str, float]) -> dict[str, float]:
        return figures | {"optimizer/gradient_norm": 2.0}


def test_a_step_imitates_all_examples_at_the_rate_of_the_schedule() -> None:
    rank: Any = object.__new__(ImitationRank)
    settings = ImitationSettings(steps=10, warmup_steps=2, learning_rate=1.0)
    rank._imitation, rank._engine, rank._version = settings, Engine(), 0
    rank._accumulate([as_record_batch(EXAMPLES[:1]), as_record_batch(EXAMPLES[1:])], 7)
    assert rank._version == 0, "the weights have not changed yet"
    assert rank._update(7, []) == {"loss": 1.5, "optimizer/gradient_norm": 2.0}
    assert rank._version == 8
    assert rank._engine.asked == [(tokens(EXAMPLES), pytest.approx(cosine_rate(7, settings)))]
