"""Bytes of gradients on the device of a learner rank, as DeepSpeed keeps them at each ZeRO stage."""

from __future__ import annotations

from dataclasses import dataclass

from learner.settings import LearnerSettings

_FLOAT32 = 4
_REDUCED_AT_ONCE = 500_000_000  # DeepSpeed's MEMORY_OPT_ALLREDUCE_SIZE, elements
_UPDATED_AT_ONCE = 1_000_000_000  # DeepSpeed's zero_optimization.sub_group_size, elements


@dataclass(frozen=True)
class GradientMemory:
    """`held`: at all times. `step`: in addition, from the first micro-batch of a step to its update.
    `update`: in addition after the last micro-batch, when its activations are gone.
    """

    held: float
    step: float
    update: float


def gradient_memory(learner: LearnerSettings, dtype: str, trained: int, largest: int) -> GradientMemory:
    """Gradients of `trained` weights, the largest of which has `largest` elements.

    They are summed in float32. From stage 2 on each rank keeps those of its part.
    """
    bfloat16 = dtype == "bfloat16"
    stage = learner.stage(dtype)
    whole, part = float(_FLOAT32 * trained), _FLOAT32 * trained / learner.ranks
    if learner.offload != "none":
        return _with_offload(stage, bfloat16, whole, part, float(largest * (2 if bfloat16 else 4)))
    if stage == 3:  # the sums are copied before the update, a group of weights at a time
        return GradientMemory(part, 0.0, min(part, float(_FLOAT32 * _UPDATED_AT_ONCE)))
    if stage == 2:
        return GradientMemory(0.0, part, 0.0 if bfloat16 else part)
    if stage == 1 and bfloat16:
        # Matrices and vectors have one buffer each. Both are copied to be reduced together, if they are small; adapters
        # have matrices only.
        copied = trained <= _REDUCED_AT_ONCE and not learner.lora
        return GradientMemory(whole, 0.0, whole if copied else 0.0)
    return GradientMemory(0.0, whole, part if stage else min(whole, float(_FLOAT32 * _REDUCED_AT_ONCE)))


def _with_offload(stage: int, bfloat16: bool, whole: float, part: float, buffer: float) -> GradientMemory:
    """What stays on the GPU. `buffer`: one gradient on its way between GPU and host, allocated below stage 3.

    Float32 sums of bfloat16 gradients are copied to the host at the end of the last micro-batch, not before.
    """
    if stage == 3:
        return GradientMemory(0.0, 0.0, 0.0)
    reduced = part if bfloat16 else 0.0
    return GradientMemory(buffer, reduced + (whole if stage == 1 else 0.0), 0.0)
