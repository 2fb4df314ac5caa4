"""Imitation learning (supervised fine-tuning): maximum likelihood of expert responses, given their prompts.

The steps are those of an engine (``Engine.accumulate_imitation`` and ``Engine.update``), so imitation uses the same
DeepSpeed ranks, micro-batches and optimizer as reinforcement learning. Examples are token ids; tasks and tokenizers
are not known here.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from learner.batching import TrainingSequence
from learner.section import Section


class ImitationSettings(Section):
    """Length, batch and learning-rate schedule of supervised fine-tuning."""

    steps: int = Field(800, ge=1, description="Optimizer steps.")
    batch_size: int = Field(128, ge=1, description="Examples per optimizer step, over all ranks.")
    learning_rate: float = Field(1e-3, gt=0.0, description="Peak AdamW learning rate, reached after the warm-up.")
    warmup_steps: int = Field(
        50, ge=0, description="Steps of linear warm-up from 0 to the peak; at most a quarter of all steps."
    )
    final_fraction: float = Field(
        0.05,
        ge=0.0,
        le=1.0,
        description="Learning rate at the last step as a fraction of the peak (cosine decay).",
    )
    seed: int = Field(0, ge=0, description="Seed of the examples drawn and of a fresh model's initial weights.")
    report_every: int = Field(50, ge=1, description="Most steps between two progress reports.")
    report_seconds: float = Field(30.0, gt=0.0, description="Most seconds between two reports, if a step is shorter.")


@dataclass(frozen=True, slots=True)
class Progress:
    """One progress report.

    step counts from 1 to steps. loss (mean, nats per response token) and examples_per_second are since the last
    report, seconds since the start.
    """

    step: int
    steps: int
    loss: float
    examples_per_second: float
    learning_rate: float
    seconds: float


def cosine_rate(step: int, settings: ImitationSettings) -> float:
    """Learning rate of a step (from 0): linear warm-up to the peak, half a cosine down to its final fraction."""
    warmup = min(settings.warmup_steps, settings.steps // 4)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    rest = max(settings.steps - warmup - 1, 1)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min((step - warmup) / rest, 1.0)))
    return settings.learning_rate * (settings.final_fraction + (1.0 - settings.final_fraction) * cosine)


def as_sequence(prompt_tokens: list[int], response_tokens: list[int]) -> TrainingSequence:
    """An example for the learner's batching. The response must end with EOS, or the model does not learn to stop.

    Raises:
        ValueError: An empty prompt or response.
    """
    if not prompt_tokens or not response_tokens:
        raise ValueError("an example for imitation needs at least one prompt token and one response token")
    return TrainingSequence(
        prompt_tokens=np.asarray(prompt_tokens, dtype=np.int32),
        response_tokens=np.asarray(response_tokens, dtype=np.int32),
        behaviour_logprobs=np.zeros(len(response_tokens), dtype=np.float32),
        advantage=1.0,
        fresh=False,
    )


def batches(examples: Iterable[TrainingSequence], batch_size: int) -> Iterator[list[TrainingSequence]]:
    """Consecutive full batches; an incomplete last batch is dropped."""
    source = iter(examples)
    while len(batch := list(itertools.islice(source, batch_size))) == batch_size:
        yield batch


class Reports:
    """Makes a progress report every `report_every` steps, or every `report_seconds` if steps are slow, and at the end.

    Args:
        settings: length and batch of the whole imitation.
        clock: seconds, monotonic.
    """

    def __init__(self, settings: ImitationSettings, clock: Callable[[], float] = time.perf_counter) -> None:
        self._settings = settings
        self._clock = clock
        self._start = self._last = clock()
        self._losses: list[float] = []

    def add(self, step: int, loss: float) -> Progress | None:
        """The report that is due after `step` (from 0), whose loss was `loss`; None if none is."""
        settings, now = self._settings, self._clock()
        self._losses.append(loss)
        slow = now - self._last >= settings.report_seconds
        done = step + 1
        if not (slow or done % settings.report_every == 0 or done == settings.steps):
            return None
        mean = sum(self._losses) / len(self._losses)
        speed = len(self._losses) * settings.batch_size / max(now - self._last, 1e-9)
        self._losses, self._last = [], now
        return Progress(done, settings.steps, mean, speed, cosine_rate(step, settings), now - self._start)
