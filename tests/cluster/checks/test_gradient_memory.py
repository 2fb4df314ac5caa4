"""Gradients on the device of a rank; tests/learner/test_engine.py compares the same figures with DeepSpeed."""

from __future__ import annotations

import pytest

from cluster.checks.memory.gradients import GradientMemory, gradient_memory
from learner.settings import LearnerSettings

P, LARGEST = 1000, 100


def of(dtype: str, trained: int = P, **settings: object) -> GradientMemory:
    return gradient_memory(LearnerSettings(ranks=4, **settings), dtype, trained, LARGEST)


@pytest.mark.parametrize(
    ("dtype", "stage", "offload", "expected"),
    [
        ("float32", 0, "none", (0, 4 * P, 4 * P)),
        ("float32", 1, "none", (0, 4 * P, P)),
        ("float32", 2, "none", (0, P, P)),
        ("float32", 3, "none", (P, 0, P)),
        ("bfloat16", 0, "none", (4 * P, 0, 4 * P)),
        ("bfloat16", 1, "none", (4 * P, 0, 4 * P)),
        ("bfloat16", 2, "none", (0, P, 0)),
        ("bfloat16", 3, "none", (P, 0, P)),
        ("float32", 1, "optimizer", (4 * LARGEST, 4 * P, 0)),
        ("float32", 2, "optimizer", (4 * LARGEST, 0, 0)),
        ("bfloat16", 1, "optimizer", (2 * LARGEST, 4 * P + P, 0)),
        ("bfloat16", 2, "optimizer", (2 * LARGEST, P, 0)),
        ("bfloat16", 3, "all", (0, 0, 0)),
    ],
)
def test_every_stage_over_four_ranks(dtype: str, stage: int, offload: str, expected: tuple[int, int, int]) -> None:
    found = of(dtype, zero_stage=stage, offload=offload)
    assert (found.held, found.step, found.update) == expected


def test_large_models_are_copied_in_parts() -> None:
    large = 8_000_000_000
    assert of("bfloat16", large, zero_stage=1).update == 0, "the matrices alone are reduced where they are"
    assert of("float32", large, zero_stage=0).update == 4 * 500_000_000
    assert of("bfloat16", large, zero_stage=3).update == 4 * 1_000_000_000
    assert of("bfloat16", zero_stage=1, lora={"rank": 4}).update == 0
