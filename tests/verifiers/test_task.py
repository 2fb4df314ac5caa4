"""Verdicts and the registry of tasks."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from verifiers import Status, TaskSettings, Verdict, make_task


def test_a_failed_verifier_is_never_a_reward() -> None:
    verdict = Verdict.failed("no connection")
    assert verdict.status is Status.VERIFIER_ERROR and verdict.reward is None and verdict.score is None
    with pytest.raises(ValueError, match="verifier_error"):
        Verdict(Status.VERIFIER_ERROR, reward=0.0, score=0.0)
    with pytest.raises(ValueError, match="reward"):
        Verdict(Status.WRONG, reward=None, score=0.0)


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.VERIFIER_ERROR])
def test_binary_verdicts(status: Status) -> None:
    verdict = Verdict.binary(status)
    assert verdict.reward == verdict.score == (1.0 if status is Status.CORRECT else 0.0)


def test_settings_refuse_unknown_keys_and_tasks() -> None:
    with pytest.raises(ValidationError):
        TaskSettings(nmae="countdown")
    with pytest.raises(ValidationError):
        TaskSettings(name="chess")
    with pytest.raises(ValueError, match="choose one of countdown, gsm8k, humaneval, jsonl, math, math500, mbpp"):
        make_task(TaskSettings.model_construct(name="chess"))
    assert make_task(TaskSettings()).name == "countdown"
