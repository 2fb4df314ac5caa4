"""Schedules as pure functions of the optimiser step, so that a resumed run needs no schedule state."""

from __future__ import annotations


def learning_rate(step: int, peak: float, warmup_steps: int) -> float:
    """Linear warm-up to `peak`: step 0 (the first) gets peak / warmup_steps, step warmup_steps - 1 gets
    peak.
    """
    if step < 0:
        raise ValueError(f"step must be >= 0, got {step}")
    if step + 1 >= warmup_steps:
        return peak
    return peak * (step + 1) / warmup_steps
