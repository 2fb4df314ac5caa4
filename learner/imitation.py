"""Imitation learning (supervised fine-tuning): maximum likelihood of expert responses, given their prompts.

The steps are those of an engine, so imitation uses the same DeepSpeed ranks, micro-batches and optimizer as
reinforcement learning. Examples are token ids; tasks and tokenizers are not known here.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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


class ImitationEngine(Protocol):
    """The part of ``learner.engine.Engine`` that imitation uses."""

    def sft_step(self, sequences: list[TrainingSequence], step: int, *, rate: float) -> float: ...

    def export_huggingface(self, directory: str | Path) -> None: ...


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


def run_sft(
    engine: ImitationEngine,
    examples: Iterable[TrainingSequence],
    settings: ImitationSettings,
    *,
    output: str | Path,
    report: Callable[[Progress], None] | None = None,
) -> float:
    """Fine-tune on expert examples and write a Hugging Face directory.

    Args:
        engine: A learner engine; every rank runs this function with the same examples in the same order.
        examples: Prompt and response tokens; at least ``steps * batch_size``.
        settings: Length, batch size and schedule.
        output: Directory to write.
        report: Called every ``report_every`` steps, or every ``report_seconds`` if steps are slow, and at the end.

    Returns:
        Mean loss over the last report's steps, in nats per response token.

    Raises:
        ValueError: The examples ran out before the last step.
    """
    start = last = time.perf_counter()
    source = batches(examples, settings.batch_size)
    losses: list[float] = []
    mean = math.nan
    for step in range(settings.steps):
        batch = next(source, None)
        if batch is None:
            raise ValueError(
                f"the expert examples ran out after {step} steps of {settings.batch_size}; lower the number "
                "of steps or the batch size, or give more examples"
            )
        rate = cosine_rate(step, settings)
        losses.append(engine.sft_step(batch, step, rate=rate))
        now = time.perf_counter()
        slow = now - last >= settings.report_seconds
        if slow or (step + 1) % settings.report_every == 0 or step + 1 == settings.steps:
            mean = sum(losses) / len(losses)
            if report is not None:
                speed = len(losses) * settings.batch_size / (now - last)
                report(Progress(step + 1, settings.steps, mean, speed, rate, now - start))
            losses, last = [], now
    engine.export_huggingface(output)
    return mean
