"""Scores that are not the verdict: votes, errors at a known rate, a flaw with a pattern."""

from __future__ import annotations

import pytest

from verifiers import grade_math
from verifiers.scorers import make_scorer
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.countdown import grade
from verifiers.verdict import Status, Verdict

PROMPT = Prompt("p", "", {"numbers": [1, 3, 7], "target": 24}, "easy")


def scorer(**settings):
    return make_scorer(TaskSettings(scorer=settings))


def test_the_verdicts_own_score_or_its_reward() -> None:
    verdicts = [Verdict(Status.CORRECT, 1.0, 0.25), Verdict(Status.WRONG, 0.0, None), Verdict.failed("lost")]
    assert scorer().scores(PROMPT, ["a", "b", "c"], verdicts) == [0.25, 0.0, None]


def test_votes_do_not_look_at_the_truth() -> None:
    answers = [r"\frac{\sqrt2}{2}", r"\boxed{\frac{1}{\sqrt2}}", "1", "2/2", "no idea, really"]
    for truth in (r"\frac{\sqrt2}{2}", "1", "7"):
        verdicts = [grade_math(answer, truth) for answer in answers[:4]] + [Verdict.binary(Status.UNPARSABLE)]
        assert scorer(kind="majority").scores(PROMPT, answers, verdicts) == [0.2, 0.2, 0.4, 0.4, 0.0]


def test_a_verifier_that_failed_casts_no_vote() -> None:
    verdicts = [Verdict.binary(Status.WRONG, answer="3"), Verdict.failed("lost")]
    assert scorer(kind="majority").scores(PROMPT, ["a", "b"], verdicts) == [0.5, None]


def test_synthetic_errors_come_at_their_rates_and_stay() -> None:
    noisy = scorer(kind="synthetic", false_positive=0.2, false_negative=0.1)
    answers = [str(i) for i in range(5000)]
    wrong = noisy.scores(PROMPT, answers, [Verdict.binary(Status.WRONG)] * 5000)
    right = noisy.scores(PROMPT, answers, [Verdict.binary(Status.CORRECT)] * 5000)
    assert sum(wrong) / 5000 == pytest.approx(0.2, abs=0.02) and sum(right) / 5000 == pytest.approx(0.9, abs=0.02)
    assert noisy.scores(PROMPT, answers, [Verdict.binary(Status.WRONG)] * 5000) == wrong
    assert noisy.scores(PROMPT, ["x"], [Verdict.failed("lost")]) == [None]


def test_the_lenient_verifier_accepts_near_misses() -> None:
    responses = ["3*(1+7)", "3*7+1", "4*6", "3*7*1", "7/(3-3*1)", "hello"]
    verdicts = [grade(r, [1, 3, 7], 24) for r in responses]
    assert [v.reward for v in verdicts] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert scorer(kind="lenient", tolerance=2).scores(PROMPT, responses, verdicts) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert scorer(kind="lenient", tolerance=3).scores(PROMPT, responses, verdicts) == [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="lenient works with task.name = countdown only"):
        make_scorer(TaskSettings(name="gsm8k", path=".", scorer={"kind": "lenient"}))
