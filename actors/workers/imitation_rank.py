"""Learner rank (Ray actor) of `bonrl sft`: its steps imitate examples instead of training on graded groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from actors.workers.learner_rank import LearnerRank
from learner.batching import TrainingSequence
from learner.imitation import ImitationSettings, as_sequence, cosine_rate

_TOKENS = pa.list_(pa.int32())
EXAMPLE_SCHEMA = pa.schema([pa.field("prompt_tokens", _TOKENS), pa.field("response_tokens", _TOKENS)])


def as_record_batch(examples: Sequence[TrainingSequence]) -> pa.RecordBatch:
    """The token ids of examples, one row each, in :data:`EXAMPLE_SCHEMA`."""
    columns = ([example.prompt_tokens for example in examples], [example.response_tokens for example in examples])
    return pa.RecordBatch.from_arrays([pa.array(column, _TOKENS) for column in columns], schema=EXAMPLE_SCHEMA)


def as_examples(batch: pa.RecordBatch) -> list[TrainingSequence]:
    """The inverse of :func:`as_record_batch`."""
    columns = (batch.column(name).to_pylist() for name in EXAMPLE_SCHEMA.names)
    return [as_sequence(prompt, response) for prompt, response in zip(*columns, strict=True)]


class ImitationRank(LearnerRank):
    """One DeepSpeed rank that imitates; :meth:`accumulate` takes the examples of a step.

    Args:
        imitation: length and learning-rate schedule.
        rank: those of :class:`LearnerRank`.
    """

    def __init__(self, *, imitation: ImitationSettings, **rank: Any) -> None:
        super().__init__(**rank)
        self._imitation = imitation
        self._figures: dict[str, float] = {}

    def _accumulate(self, batches: list[pa.RecordBatch], step: int) -> None:
        examples = [example for batch in batches for example in as_examples(batch)]
        self._figures = self._engine.accumulate_imitation(examples, cosine_rate(step, self._imitation))

    def _update(self, step: int, probes: Sequence[pa.RecordBatch]) -> dict[str, float]:
        learned = self._engine.update(self._figures)
        self._version = step + 1
        return learned
