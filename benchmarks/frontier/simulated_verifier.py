"""Rewards of Countdown by a verifier that errs at known rates, for `countdown-errors.yaml`.

Equal responses to a prompt get equal verdicts, as from a program.
The part `correct` is the truth, with the weight 0: evaluations count it, training does not see it.
"""

from __future__ import annotations

from collections.abc import Sequence

from learner import corrected_rewards
from verifiers.scorers import erring_verdict
from verifiers.tasks.countdown import grade
from verifiers.verdict import Status


def accepted(
    prompt_id: str,
    response: str,
    numbers: Sequence[int],
    target: int,
    false_positive: float,
    false_negative: float,
) -> dict[str, float]:
    """The verdict itself, 0 or 1."""
    right = grade(response, numbers, target).status is Status.CORRECT
    verdict = erring_verdict(right, f"{prompt_id}\0{response}", false_positive, false_negative)
    return {"correct": float(right), "verdict": verdict}


def corrected(
    prompt_id: str,
    response: str,
    numbers: Sequence[int],
    target: int,
    false_positive: float,
    false_negative: float,
) -> dict[str, float]:
    """The verdict corrected for the error rates: 1 on average for right, 0 for wrong responses."""
    parts = accepted(prompt_id, response, numbers, target, false_positive, false_negative)
    [reward] = corrected_rewards([parts["verdict"]], false_positive=false_positive, false_negative=false_negative)
    return {"correct": parts["correct"], "verdict": float(reward)}
