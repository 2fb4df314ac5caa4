"""The ZeRO stage that DeepSpeed runs, and how many weights 8-bit AdamW can update at it. Imports neither torch nor
DeepSpeed, so that checks before a start can use it."""

from __future__ import annotations

from learner.settings import LearnerSettings

_MOST_8BIT = 1 << 31  # of bitsandbytes: this many are too many


def zero_stage(settings: LearnerSettings, dtype: str) -> int:
    """The stage for a model in `dtype`.

    DeepSpeed's stage 0 sums the gradients of the micro-batches in the weights' type; in bfloat16 a sum of more than 256
    equal gradients would stop growing. Stage 1 sums in float32.
    """
    return max(1, settings.zero_stage) if dtype == "bfloat16" else settings.zero_stage


def too_many_for_8bit(settings: LearnerSettings, dtype: str, weights: int) -> str | None:
    """Why 8-bit AdamW cannot update so many weights in matrices; None where it can.

    bitsandbytes counts a tensor's weights in 32 bits, and at ZeRO-1 and 2 all matrices of a rank are one tensor.
    """
    stage, held = zero_stage(settings, dtype), weights // settings.ranks
    if stage not in (1, 2) or held < _MOST_8BIT:
        return None
    return (
        f"learner.optimizer = adamw_8bit updates fewer than {_MOST_8BIT} weights at once, but at ZeRO stage {stage} a "
        f"rank has {held}; set learner.zero_stage = 3, also with one rank, or learner.optimizer = adamw with "
        "learner.offload = optimizer"
    )
