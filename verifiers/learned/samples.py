"""Labeled answers for training a verifier, and their split by prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verifiers.tasks.datasets import Row, read_checked


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to a prompt, and whether it is right. Answers with the same `prompt_id` are in the same part."""

    prompt_id: str
    prompt: str
    response: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Parts:
    """Samples for training, for calibration and model selection, and for the report; each prompt is in one part."""

    train: list[Sample]
    calibration: list[Sample]
    test: list[Sample]


def read_jsonl(path: Path) -> list[Sample]:
    """Samples of a JSON Lines file: `prompt`, `response`, `correct`, and `id` of the prompt if there is one.

    Raises:
        ValueError: The file cannot be read or is empty, or lines are no such objects (the message has file, lines
        and remedy).
    """
    samples = read_checked(path, _sample)
    if not samples:
        raise ValueError(f"{path} contains no samples; write one JSON object per line")
    return samples


def _sample(row: Row) -> Sample:
    fields = row.fields
    for name in ("prompt", "response"):
        if not isinstance(fields.get(name), str):
            raise ValueError(f"{row.place}: the field {name!r} is missing or not text; add it to the line")
    correct = fields.get("correct")
    if correct not in (True, False):  # 0 and 1 too
        raise ValueError(f"{row.place}: the field 'correct' is {correct!r}; it must be true or false")
    return Sample(str(fields.get("id", fields["prompt"])), fields["prompt"], fields["response"], bool(correct))


def split_by_prompt(samples: Sequence[Sample], *, calibration: float = 0.1, test: float = 0.1) -> Parts:
    """Split by a hash of the prompt's id, independent of seed and other prompts; repeated answers count once.

    Repeated answers would weight the loss by how likely the sampler was to produce them.

    Raises:
        ValueError: A part has no right or no wrong answer.
    """
    parts = Parts([], [], [])
    unique = {(sample.prompt_id, sample.response): sample for sample in samples}
    for sample in unique.values():
        place = int.from_bytes(hashlib.sha256(sample.prompt_id.encode()).digest()[:8], "big") / 2**64
        chosen = parts.test if place < test else parts.calibration if place < test + calibration else parts.train
        chosen.append(sample)
    for name in ("train", "calibration", "test"):
        part: list[Sample] = getattr(parts, name)
        right = sum(sample.correct for sample in part)
        if right in (0, len(part)):
            raise ValueError(
                f"{right} of the {len(part)} different answers in the {name} part are right: right and wrong "
                "answers are needed; "
                "add samples of more prompts"
            )
    return parts
