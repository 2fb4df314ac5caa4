"""Scores beside rewards: what the deployed verifier ranks by, where it is not the task's own verdict.

The reward says what we want, the score what Best-of-N will select by (DESIGN.md, section 1). A scorer sees a whole
group, because a vote is a score that only a group has, and because a learned verifier works in batches.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from verifiers.learned.classifier import TransformersLogits
from verifiers.learned.scorer import LearnedScorer, LoadLogits
from verifiers.settings import ScorerSettings, TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.countdown import ExpressionError, evaluate
from verifiers.verdict import Status, Verdict


class Scorer(Protocol):
    """Scores the answers of one prompt."""

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """One score for each response; None where there can be none because the verifier failed."""
        ...


class VerdictScorer:
    """The task's own score: that of the verdict, or its reward where it has no number of its own."""

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """See :class:`Scorer`."""
        return [v.reward if v.score is None else v.score for v in verdicts]


class MajorityScorer:
    """The share of the group that gives the same answer; an unparsable answer scores 0.

    Votes are told apart by the verdicts' answers alone and never by the truth, which a deployed vote does not have. So
    two spellings that the task does not bring to one form are two votes, both right or both wrong though they be.
    """

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """See :class:`Scorer`."""
        votes = Counter(verdict.answer for verdict in verdicts)
        return [self._score(verdict, votes) for verdict in verdicts]

    def _score(self, verdict: Verdict, votes: Counter[str | None]) -> float | None:
        if verdict.status is Status.VERIFIER_ERROR:
            return None
        return 0.0 if verdict.answer is None else votes[verdict.answer] / votes.total()


class SyntheticScorer:
    """A verifier with known error rates, for experiments: 1 or 0, wrong with a fixed chance for each answer.

    The same answer to the same prompt always gets the same score: like a real verifier, it can be fooled twice.
    """

    def __init__(self, false_positive: float, false_negative: float, seed: int) -> None:
        self._false_positive = false_positive
        self._false_negative = false_negative
        self._seed = seed

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """See :class:`Scorer`."""
        return [
            None if v.reward is None else self._score(prompt.id, response, v.status is Status.CORRECT)
            for response, v in zip(responses, verdicts, strict=True)
        ]

    def _score(self, prompt_id: str, response: str, right: bool) -> float:
        key = f"{self._seed}\0{prompt_id}\0{response}".encode()
        chance = int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64
        if right:
            return 0.0 if chance < self._false_negative else 1.0
        return 1.0 if chance < self._false_positive else 0.0


class LenientScorer:
    """Countdown with a sloppy eye: an expression of the right numbers scores 1 if it comes near the target.

    A flaw with a pattern, unlike random errors: a policy can learn to exploit it, or to keep away from near misses.
    """

    def __init__(self, tolerance: int) -> None:
        self._tolerance = tolerance

    def scores(self, prompt: Prompt, responses: Sequence[str], verdicts: Sequence[Verdict]) -> list[float | None]:
        """See :class:`Scorer`."""
        return [self._score(prompt, response) for response in responses]

    def _score(self, prompt: Prompt, response: str) -> float:
        try:
            value, used = evaluate(response)
        except ExpressionError:
            return 0.0
        if value is None or used != tuple(sorted(prompt.reference["numbers"])):
            return 0.0
        return 1.0 if abs(value - prompt.reference["target"]) <= self._tolerance else 0.0


def make_scorer(task: TaskSettings, load_logits: LoadLogits = TransformersLogits.load) -> Scorer:
    """The scorer that ``task.scorer`` names; what it has to load, it loads when it is prepared or used.

    Args:
        task: The task's settings.
        load_logits: What runs the network of a learned verifier.

    Raises:
        ValueError: It does not go with the task, or ``task.scorer.path`` holds no trained verifier.
    """
    settings: ScorerSettings = task.scorer
    if settings.kind == "learned":
        if settings.path is None:
            raise ValueError(
                "task.scorer.kind is learned but task.scorer.path is not set; give the directory that "
                "`bonrl train-verifier` wrote"
            )
        try:
            return LearnedScorer(Path(settings.path), settings.batch_tokens, load_logits)
        except ValueError as error:
            raise ValueError(f"task.scorer.path: {error}") from error
    if settings.kind == "majority":
        return MajorityScorer()
    if settings.kind == "synthetic":
        return SyntheticScorer(settings.false_positive, settings.false_negative, settings.seed)
    if settings.kind == "lenient":
        if task.name != "countdown":
            raise ValueError(f"task.scorer.kind lenient is countdown's, task.name is {task.name}; choose another kind")
        return LenientScorer(settings.tolerance)
    return VerdictScorer()
